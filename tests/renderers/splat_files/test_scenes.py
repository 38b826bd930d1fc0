"""Scenes of Gaussians as tables and sequences, and splat files as scenes."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fsm.errors import InputError
from fsm.rays import project
from fsm.renderers.film.camera_paths import make_path
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files import SplatTable, open_splats, read_table, up_rotation, write_table
from fsm.renderers.splat_files.moving import open_moving
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.renderers.splat_files.sequence import (
    MOVING_FORMAT,
    frame_times,
    write_moving,
    write_ply_sequence,
)
from fsm.views import SceneFrame, Views
from tests.renderers.splat_files.tables import assert_same_bits, random_table


def moving_scene(
    n: int = 200, static: int = 20, degree: int = 1, frame: SceneFrame | None = None
) -> GaussianScene:
    """Random Gaussians over two seconds, the first ``static`` of them there at all times; a clip
    turned, moved and scaled.
    """
    table = random_table(n, degree)
    free = torch.arange(n) >= static
    still = table.gaussians()
    right = torch.where(
        free[:, None],
        still.left + 0.2 * torch.randn(n, 4) * still.left.norm(dim=-1, keepdim=True),
        still.left,
    )
    gaussians = Gaussians4D(
        still.means,
        torch.rand(n) * 2 - 1,
        still.scales,
        torch.where(free, 0.1 + torch.rand(n), torch.full((n,), math.inf)),
        still.left,
        right,
        still.opacities,
        still.sh,
    )
    if frame is None:
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
        T = torch.eye(4, dtype=torch.float64)
        T[:3, :3], T[:3, 3] = turn * torch.linalg.det(turn).sign(), torch.tensor([0.5, -1.0, 2.0])
        frame = SceneFrame(T.float(), torch.tensor(0.4), torch.tensor(1.0), torch.tensor(2.0))
    c2w = torch.eye(4).repeat(5, 1, 1)
    c2w[:, 2, 3] = -8.0
    inputs = Views(
        c2w, torch.tensor([40.0, 40, 24, 16]).expand(5, 4), torch.linspace(1.0, 3.0, 5), (32, 48)
    )
    return GaussianScene(gaussians, frame, inputs, backend="plain")


@pytest.mark.parametrize("seconds", [1.0, 1.7, 3.0])
def test_tables_are_the_scene_in_the_clips_space(seconds: float) -> None:
    scene = moving_scene()
    table, expected = SceneTables.of(scene).at(seconds), scene.world_at(seconds)
    assert len(table) == len(expected) < len(scene.gaussians)
    assert torch.allclose(table.means, expected.means, atol=2e-5)
    again = table.gaussians().condition()
    # Relative to each Gaussian's size: float32 through a factorisation and a logarithm.
    size = covariance_matrix(expected.covariances).diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    assert float(((again.covariances - expected.covariances) / size).abs().max()) < 1e-5
    assert torch.allclose(again.opacities, expected.opacities, atol=1e-6)
    assert torch.allclose(table.sh, expected.sh, atol=1e-5)


@pytest.mark.parametrize("up", ["-y", "y", "z", "-z", "x", "-x"])
def test_up_turns_the_whole_world(up: str) -> None:
    scene = moving_scene()
    turn = up_rotation(up)
    assert torch.linalg.det(turn) == 1.0
    axis = torch.zeros(3)
    axis["xyz".index(up[-1])] = -1.0 if up[0] == "-" else 1.0
    assert torch.equal(turn @ torch.tensor([0.0, -1.0, 0.0]), axis)  # up of OpenCV axes
    table = SceneTables.of(scene, turn).at(2.0)
    camera = scene.inputs[0]
    c2w = camera.c2w.clone()
    c2w[0, :3] = turn @ c2w[0, :3]
    turned = Views(c2w, camera.intrinsics, camera.time, camera.hw)
    expected = rasterize(scene.world_at(2.0), camera, backend="plain")
    for candidate in (table, SceneTables.of(scene).at(2.0).rotated(turn)):
        picture = rasterize(candidate.gaussians().at(0.0), turned, backend="plain")
        assert float(expected.rgb.std()) > 0.05
        assert float((picture.rgb - expected.rgb).abs().max()) < 1e-4
    with pytest.raises(InputError, match="up is 'w'"):
        up_rotation("w")


def test_rotations_do_not_jump_between_frames() -> None:
    tables = SceneTables.of(moving_scene())
    a, b = (tables.at(t, min_weight=0.0) for t in (1.5, 1.5 + 1 / 30))
    assert torch.equal(a.quats, b.quats)
    assert torch.equal(a.log_scales, b.log_scales)
    assert float((a.means - b.means).norm(dim=-1).max()) > 1e-3


def test_imported_gaussians_leave_as_they_came(tmp_path: Path) -> None:
    table = random_table()
    write_table(tmp_path / "a.ply", table)
    scene = open_splats(tmp_path / "a.ply")
    scene.save(tmp_path / "scene")
    for candidate in (scene, GaussianScene.load(tmp_path / "scene")):
        out = SceneTables.of(candidate).at(0.0)
        for name in ("means", "quats", "sh"):
            assert torch.equal(getattr(out, name), getattr(table, name)), name
        # Through exp and sigmoid in float32 and back; logits of 4 have 18 bits of their opacity
        # left.
        assert torch.allclose(out.log_scales, table.log_scales, rtol=0.0, atol=5e-7)
        assert float((out.logits.sigmoid() - table.logits.sigmoid()).abs().max()) < 1e-7


def test_sequence_is_the_moments_and_says_when(tmp_path: Path) -> None:
    scene = moving_scene()
    tables = SceneTables.of(scene)
    times = frame_times(scene.inputs.time, 4.0)
    assert times == [1.0 + i / 4 for i in range(9)]
    counts = write_ply_sequence(tmp_path / "seq", ((t, tables.at(t)) for t in times), 4.0)
    document = json.loads((tmp_path / "seq" / "frames.json").read_text())
    assert (document["fps"], document["times"]) == (4.0, times)
    assert [f["gaussians"] for f in document["frames"]] == counts
    for entry in document["frames"]:
        assert_same_bits(read_table(tmp_path / "seq" / entry["file"]), tables.at(entry["time"]))
    assert len(list((tmp_path / "seq").iterdir())) == 10


def test_interrupted_sequence_leaves_the_older_one(tmp_path: Path) -> None:
    table = random_table(n=3)
    write_ply_sequence(tmp_path / "seq", [(0.0, table)], 4.0)
    before = {p.name: p.read_bytes() for p in (tmp_path / "seq").iterdir()}

    def interrupted():
        yield 0.0, random_table(n=4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ply_sequence(tmp_path / "seq", interrupted(), 4.0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "seq").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["seq"]
    (tmp_path / "seq" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds 'notes.txt'"):
        write_ply_sequence(tmp_path / "seq", [(0.0, table)], 4.0)


def test_frame_times_end_with_the_clip() -> None:
    assert frame_times(torch.tensor([0.0, 1.0]), 30.0) == [i / 30 for i in range(31)]
    assert len(frame_times(torch.tensor([0.0, 0.99]), 30.0)) == 30
    for times, fps, says in (
        ([0.0, 0.0], 30.0, "is one frame"),
        ([0.0, 1.0], -1.0, "fps"),
        ([0.0, 1e6], 30.0, "lower"),
    ):
        with pytest.raises(InputError, match=says):
            frame_times(torch.tensor(times), fps)


def test_safetensors_fields_make_the_same_moments(tmp_path: Path) -> None:
    """As docs/gaussians.md says a reader should compute them."""
    scene = moving_scene()
    write_moving(tmp_path / "a.safetensors", SceneTables.of(scene))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "fsm moving gaussians 1",
            "first": "1.0",
            "last": "3.0",
            "antialiased": "false",
        }
        v = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    seconds = 1.8
    dt = seconds - v["times"]
    weight = torch.exp(-0.5 * (dt / v["time_scales"]).square())
    there = weight >= 0.05
    table = SceneTables.of(scene).at(seconds)
    assert bool(torch.isinf(v["time_scales"]).sum() == 20)
    assert torch.allclose(
        (v["means"] + v["velocities"] * dt[:, None])[there], table.means, atol=1e-5
    )
    assert torch.allclose((v["opacities"] * weight)[there], table.logits.sigmoid(), atol=1e-6)
    assert torch.allclose(v["scales"][there].log(), table.log_scales, atol=1e-6)
    assert torch.equal(v["quats"][there], table.quats)
    assert torch.equal(v["sh"][there], table.sh)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_default_cameras_see_nearly_everything(tmp_path: Path, scale: float) -> None:
    table = random_table(n=2000, degree=0)
    offset = torch.tensor([3.0, -20.0, 7.0])
    means = scale * (table.means * torch.tensor([0.3, 2.0, 0.3]) + offset)
    means[:5] *= 1e3  # strays
    table = SplatTable(
        means, table.quats, table.log_scales + math.log(scale), table.logits, table.sh
    )
    write_table(tmp_path / "a.ply", table)
    scene = open_splats(tmp_path / "a.ply")
    xy, depth = project(means.expand(8, -1, -1), scene.inputs.c2w, scene.inputs.intrinsics)
    h, w = scene.hw
    inside = (xy > 0).all(-1) & (xy < torch.tensor([w, h])).all(-1) & (depth > 0)
    assert float(inside.float().mean(-1).min()) > 0.9
    # They do not stand far off either: the picture is used.
    spread = (xy[..., 1].quantile(0.95, dim=-1) - xy[..., 1].quantile(0.05, dim=-1)) / h
    assert float(spread.min()) > 0.4
    orbit = make_path("orbit", "sweep", scene.inputs, 12, scene.hw)
    centre = scale * offset
    forward = orbit.c2w[:, :3, 2]
    towards = torch.nn.functional.normalize(centre - orbit.c2w[:, :3, 3], dim=-1)
    assert float((forward * towards).sum(-1).min()) > 0.98
    # upright
    assert torch.allclose(
        orbit.c2w[:, :3, 1], torch.tensor([0.0, 1.0, 0.0]).expand(12, 3), atol=1e-4
    )
    right = orbit.c2w[:, :3, 3] - orbit.c2w[:, :3, 3].mean(0)
    assert float((right / right.norm(dim=-1, keepdim=True)).mean(0).norm()) < 1e-3  # a full turn


def test_one_splat_alone_can_be_seen(tmp_path: Path) -> None:
    table = SplatTable(
        torch.tensor([[5.0, 6.0, 7.0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), -2.0),
        torch.tensor([9.0]),
        torch.ones(1, 1, 3),
    )
    write_table(tmp_path / "a.splat", table)
    scene = open_splats(tmp_path / "a.splat")
    picture = rasterize(scene.world_at(0.0), scene.inputs[0].resized((48, 64)), backend="plain")
    assert picture.alpha is not None
    assert float(picture.alpha[0, 0, 24, 32]) > 0.9
    assert float(picture.alpha[0, 0, 0, 0]) == 0.0


def test_antialiased_files_are_drawn_so(tmp_path: Path) -> None:
    table = random_table(n=5, degree=0)
    write_table(tmp_path / "a.spz", dataclasses.replace(table, antialiased=True))
    scene = open_splats(tmp_path / "a.spz")
    assert scene.projection.antialiased
    assert SceneTables.of(scene).at(0.0).antialiased


def test_a_moving_file_opens_as_the_scene_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scene = moving_scene()
    write_moving(tmp_path / "a.safetensors", SceneTables.of(scene))
    again = open_moving(tmp_path / "a.safetensors")
    assert again.inputs.time.tolist() == pytest.approx(torch.linspace(1.0, 3.0, 8).tolist())
    assert int(again.gaussians.is_static.sum()) == 20
    for seconds in (1.0, 1.7, 3.0):
        found, expected = again.world_at(seconds), scene.world_at(seconds)
        assert len(found) == len(expected)
        assert torch.allclose(found.means, expected.means, atol=1e-4)
        assert torch.allclose(found.opacities, expected.opacities, atol=1e-4)
        size = expected.covariances.abs().amax(-1, keepdim=True)
        assert float(((found.covariances - expected.covariances) / size).abs().max()) < 1e-4


def test_a_static_capture_opens_as_one(tmp_path: Path) -> None:
    frame = SceneFrame.identity((), 1.0, math.inf)
    scene = moving_scene(n=20, static=20, frame=frame)
    write_moving(tmp_path / "a.safetensors", SceneTables.of(scene))
    again = open_moving(tmp_path / "a.safetensors")
    assert again.frame.static
    assert torch.allclose(again.world_at(7.0).means, scene.world_at(7.0).means, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"means": torch.zeros(3, 2)}, r"means is \(3, 2\), expected \(3, 3\)"),
        ({"sh": torch.zeros(3, 2, 3)}, "expected 3 rows of 1, 4, 9 or 16"),
        ({"scales": torch.zeros(3, 3)}, "some scales are not above 0"),
        ({"opacities": torch.full((3,), math.nan)}, "opacities is NaN"),
        ({"times": None}, "lacks the fields times"),
    ],
)
def test_moving_files_of_other_fields_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], says: str
) -> None:
    tables = SceneTables.of(moving_scene(n=3, static=1))
    fields = tables.tensors() | change
    kept = {k: v.contiguous() for k, v in fields.items() if v is not None}
    metadata = {"format": MOVING_FORMAT, "first": "1.0", "last": "3.0"}
    save_file(kept, tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=says):
        open_moving(tmp_path / "a.safetensors")
    save_file(kept, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="has the format None"):
        open_moving(tmp_path / "b.safetensors")
