"""Scenes of Gaussians: what is saved comes back, what is drawn is what the rasteriser draws in the
clip's own space.
"""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from fsm.errors import InputError
from fsm.renderers.gaussians.balls import Balls
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import Rasterization, rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.scene_files import FILE
from fsm.renderers.gaussians.types import Gaussians3D, Projection
from fsm.views import SceneFrame, Views
from tests.renderers.gaussian_examples import some_camera

HW = (24, 32)


def some_scene(n: int = 200, degree: int = 1, **options) -> GaussianScene:
    """Around the cameras' point of interest; half of the Gaussians move, half are always there."""
    inputs = Views.cat([some_camera(HW)] * 4)
    c2w = inputs.c2w.clone()
    c2w[:, 0, 3] += torch.tensor([0.0, 0.3, 0.7, 1.5])
    inputs = dataclasses.replace(inputs, c2w=c2w, time=torch.tensor([1.0, 1.5, 2.0, 3.0]))
    left = torch.randn(n, 4)
    always = torch.arange(n) % 2 == 0
    gaussians = Gaussians4D(
        0.5 * torch.randn(n, 3) + torch.tensor([0.0, 0.0, 2.0]),
        torch.rand(n) * 2 - 1,
        0.1 * torch.exp(0.5 * torch.randn(n, 3)),
        torch.where(always, math.inf, 0.3),
        left,
        torch.where(always[:, None], left, left + 0.1 * torch.randn(n, 4)),
        torch.rand(n),
        0.4 * torch.randn(n, (degree + 1) ** 2, 3),
    )
    return GaussianScene(gaussians, SceneFrame.fit(inputs), inputs, **options)


def test_a_saved_scene_comes_back_bit_by_bit(tmp_path) -> None:
    scene = some_scene(
        background=torch.tensor([0.1, 0.9, 0.3]), projection=Projection(blur=0.1, antialiased=True)
    )
    scene.save(tmp_path / "scene")
    again = GaussianScene.load(tmp_path / "scene")
    for name in Gaussians4D.names():
        assert torch.equal(getattr(scene.gaussians, name), getattr(again.gaussians, name)), name
    for field in dataclasses.fields(SceneFrame):
        assert torch.equal(getattr(scene.frame, field.name), getattr(again.frame, field.name))
    for name in ("c2w", "intrinsics", "time"):
        assert torch.equal(getattr(scene.inputs, name), getattr(again.inputs, name))
    assert (again.hw, again.projection) == (HW, scene.projection)
    request = scene.inputs[1]
    assert torch.equal(scene.render(request).rgb, again.render(request).rgb)


def test_rendering_is_rasterising_in_the_clips_own_space() -> None:
    background = torch.tensor([0.2, 0.4, 0.6])
    scene = some_scene(background=background)
    requests = dataclasses.replace(scene.inputs, time=torch.tensor([1.2, 1.2, 2.4, 3.0]))
    picture = scene.render(requests)
    assert isinstance(picture, Rasterization)
    assert (picture.backend, picture.dropped) == ("cpu", 0)
    for i in range(4):
        there = scene.world_at(float(requests.time[i]))
        # In metres the near plane is elsewhere; nothing of this scene is near it.
        expected = rasterize(there, requests[i], background=background, backend="plain")
        assert float((picture.rgb[i] - expected.rgb[0].clamp(0, 1)).abs().max()) < 1e-4
        assert picture.depth is not None
        assert expected.depth is not None
        assert picture.alpha is not None
        solid = picture.alpha[i] > 0.05
        assert int(solid.sum()) > 50
        assert torch.allclose(picture.depth[i][solid], expected.depth[0][solid], rtol=1e-3)


def test_world_at_is_the_moment_moved_to_the_clip() -> None:
    scene = some_scene()
    there = scene.world_at(2.0)
    local = scene.moving.at(2.0 * (2.0 - 1.0) / 2.0 - 1.0)
    assert len(there) == len(local) < len(scene.gaussians)
    frame = scene.frame
    back = (there.means @ frame.T_model_world[:3, :3].T + frame.T_model_world[:3, 3]) * frame.scale
    assert torch.allclose(back, local.means, atol=1e-5)
    assert isinstance(scene.world_at(2.0, min_weight=0.0), Gaussians3D)
    assert len(scene.world_at(2.0, min_weight=0.0)) == len(scene.gaussians)


def test_one_batch_axis_is_kept_and_inputs_hold_no_pictures() -> None:
    scene = some_scene()
    single, batched = scene.render(scene.inputs[:2]), scene.render(scene.inputs[:2].batched())
    assert batched.rgb.shape == (1, 2, 3, *HW)
    assert torch.equal(batched.rgb[0], single.rgb)
    observed = dataclasses.replace(scene.inputs, rgb=torch.rand(4, 3, *HW))
    assert GaussianScene(scene.gaussians, scene.frame, observed).inputs.rgb is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "memory"}, "not a Gaussian scene"),
        ({"format": 99}, "has format 99"),
        ({"hw": None}, "lacks the field 'hw'"),
        ({"projection": None}, "lacks the field 'projection'"),
        ({"projection": {"nearr": 1.0}}, "nearr"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, change: dict, message: str) -> None:
    some_scene(5).save(tmp_path / "scene")
    path = tmp_path / "scene" / "scene.json"
    meta = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))
    with pytest.raises(InputError, match=message) as raised:
        GaussianScene.load(tmp_path / "scene")
    assert "scene.json" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("opacities", None, "lacks the tensor 'opacities'"),
        ("left", torch.zeros(5, 3), r"left has shape \(5, 3\)"),
        ("times", torch.zeros(4), r"times has shape \(4,\)"),
        ("sh", torch.zeros(5, 2, 3), r"sh has shape \(5, 2, 3\)"),
        ("means", torch.full((5, 3), math.nan), "15 values of means are NaN"),
    ],
)
def test_damaged_tensors_are_refused(
    tmp_path, name: str, value: torch.Tensor | None, message: str
) -> None:
    some_scene(5).save(tmp_path / "scene")
    path = tmp_path / "scene" / FILE
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors | ({} if value is None else {name: value}), path)
    with pytest.raises(InputError, match=message):
        GaussianScene.load(tmp_path / "scene")


def test_a_file_cut_short_is_refused(tmp_path) -> None:
    some_scene(50).save(tmp_path / "scene")
    path = tmp_path / "scene" / FILE
    whole = path.read_bytes()
    for sixteenth in range(16):
        path.write_bytes(whole[: len(whole) * sixteenth // 16])
        with pytest.raises(InputError, match=FILE):
            GaussianScene.load(tmp_path / "scene")
    with pytest.raises(InputError, match=r"scene\.json"):
        GaussianScene.load(tmp_path / "nothing")


def scene_of_balls(n: int = 3000) -> GaussianScene:
    """Balls that move, a few Gaussians of other shapes and a few that stand among them."""
    scene = some_scene(n, degree=0)
    mixed = scene.gaussians
    balls = Balls(
        mixed.means,
        torch.randn(n, 3),
        mixed.times,
        0.1 + 0.2 * torch.rand(n),
        0.005 * torch.exp(0.3 * torch.randn(n)),
        mixed.opacities,
        mixed.sh,
    ).gaussians()
    which = torch.arange(n) % 10 > 1
    fields = [
        torch.where(which.view(-1, *[1] * (one.ndim - 1)), one, other)
        for one, other in zip(balls.tensors(), mixed.tensors(), strict=True)
    ]
    return GaussianScene(Gaussians4D(*fields), scene.frame, scene.inputs)


def test_a_compact_scene_of_balls_looks_the_same_and_is_small(tmp_path) -> None:
    scene = scene_of_balls()
    scene.save(tmp_path / "scene", compact=True)
    scene.save(tmp_path / "whole")
    again = GaussianScene.load(tmp_path / "scene")
    before, after = scene.render(scene.inputs).rgb, again.render(scene.inputs).rgb
    assert float((before - after).abs().mean()) < 0.15 / 255
    moving, other = scene.moving, again.moving
    torch.testing.assert_close(other.times, moving.times, rtol=0, atol=1e-5)
    torch.testing.assert_close(other.velocities, moving.velocities, rtol=5e-3, atol=2e-3)
    torch.testing.assert_close(other.means, moving.means, rtol=1.6e-5, atol=0)
    assert torch.equal(scene.gaussians.is_static, again.gaussians.is_static)
    sizes = [(tmp_path / name / FILE).stat().st_size for name in ("scene", "whole")]
    assert sizes[0] < 0.5 * sizes[1]


def test_damaged_balls_are_refused(tmp_path) -> None:
    scene_of_balls().save(tmp_path / "scene", compact=True)
    path = tmp_path / "scene" / FILE
    tensors = load_file(path)
    described = json.loads((tmp_path / "scene" / "scene.json").read_text())
    described["coded"]["ball.sizes"][1] = [7]
    (tmp_path / "scene" / "scene.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"ball.sizes is damaged|ball.sizes has shape"):
        GaussianScene.load(tmp_path / "scene")
    save_file(tensors | {"balls": tensors["balls"][:-1]}, path)
    with pytest.raises(InputError, match=r"is damaged|balls has shape"):
        GaussianScene.load(tmp_path / "scene")
