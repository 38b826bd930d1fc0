"""Exposures and cameras of input frames: found again, exact, and of no harm to unseen views."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fsm.datasets.world.clip import WorldClip
from fsm.evaluate.metrics import psnr
from fsm.refine import Density, RefineConfig, held_back, random_gaussians, refine
from fsm.refine.cameras import centre_cameras, corrected, moved, rotations
from fsm.refine.exposure import sharing_exposure
from fsm.refine.frame_values import FrameValues, cameras_of
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians

BOTH = RefineConfig(steps=24, check_every=6, exposure=True, poses=True, density=Density(every=8))
# Without the loss on opacity, which hides a part of what wrong cameras and exposures do.
FIT = RefineConfig(steps=500, check_every=100, density=Density(most=6000), opacity_weight=0.0)
HW = (64, 64)


def _gains(inputs: Views) -> tuple[Views, torch.Tensor]:
    """``inputs`` with gains in linear light, and these [v 3]; their mean logarithm is 0."""
    assert inputs.rgb is not None
    g = torch.Generator().manual_seed(1)
    v = len(inputs)
    gains = 0.3 * torch.randn(v, 3, generator=g) + 0.3 * torch.randn(v, 1, generator=g)
    gains = (gains - gains.mean(0)).exp()
    s = inputs.rgb
    linear = torch.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    linear = linear * gains[:, :, None, None]
    s = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return dataclasses.replace(inputs, rgb=s.clamp(0.0, 1.0)), gains


def _shaken(inputs: Views, length: float) -> Views:
    """``inputs`` from cameras turned by 0.5 degrees and shifted by ``length``, but for the mean."""
    g = torch.Generator().manual_seed(1)
    turn, shift = torch.randn(2, len(inputs), 3, generator=g)
    turn, shift = (t / t.norm(dim=1, keepdim=True) for t in (turn, shift))
    turn, shift = math.radians(0.5) * (turn - turn.mean(0)), length * (shift - shift.mean(0))
    return dataclasses.replace(inputs, c2w=corrected(inputs.c2w, torch.cat([turn, shift], 1), 1.0))


@pytest.fixture(scope="module")
def capture() -> tuple[Views, Views, float]:
    """24 photographs of a world that stands still, 8 more to judge by, and how far things are."""
    clip = WorldClip(3101, frames=32, hw=HW)
    cameras = dataclasses.replace(clip.cameras, time=torch.zeros(32))
    truth = clip.truth(cameras)
    assert truth.depth is not None
    views = dataclasses.replace(cameras, rgb=truth.rgb)
    judged = torch.arange(32) % 4 == 2
    return views[~judged], views[judged], float(truth.depth.median())


def _refined(inputs: Views, config: RefineConfig) -> Refinement:
    frame = SceneFrame.fit(inputs)
    start = GaussianScene(random_gaussians(inputs, frame, 3000), frame, inputs)
    run = Refinement(start, inputs, config)
    while not run.done:
        run.one_step()
    return run


def _shows(run: Refinement, views: Views) -> float:
    assert views.rgb is not None
    return float(psnr(run.result().render(views.without_rgb()).rgb, views.rgb).mean())


def test_exposures_are_found_and_unseen_views_gain(capture: tuple[Views, Views, float]) -> None:
    inputs, judged, _ = capture
    bright, gains = _gains(inputs)
    without, run = (_refined(bright, dataclasses.replace(FIT, exposure=on)) for on in (False, True))
    assert _shows(run, judged) > _shows(without, judged) + 2.0
    found = torch.tensor(run.corrections_found()["gains"]).log()
    off = found - found.mean(0) - gains.log()
    assert float(gains.log().std()) > 0.4
    assert float(off.square().mean().sqrt()) < 0.05


def _errors(c2w: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Root mean squares of turns in degrees and of distances, where the mean is the same."""
    turn = c2w[:, :3, :3] @ truth[:, :3, :3].mT
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1).double() - 1.0) / 2.0
    degrees = cosine.clamp(-1.0, 1.0).acos().rad2deg()
    apart = (c2w[:, :3, 3] - truth[:, :3, 3]).norm(dim=1)
    return float(degrees.square().mean().sqrt()), float(apart.square().mean().sqrt())


def test_cameras_are_found_and_unseen_views_gain(capture: tuple[Views, Views, float]) -> None:
    inputs, judged, depth = capture
    shaken = _shaken(inputs, 0.01 * depth)
    without, run = (_refined(shaken, dataclasses.replace(FIT, poses=on)) for on in (False, True))
    assert _shows(run, judged) > _shows(without, judged) + 2.0
    before = _errors(shaken.c2w, inputs.c2w)
    after = _errors(run.result().inputs.c2w, inputs.c2w)
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.5 * before[1]
    assert torch.equal(without.result().inputs.c2w, shaken.c2w)


def _picture(values: torch.Tensor, view: Views, degree: int) -> torch.Tensor:
    now = scene_of(some_gaussians(40, sh_degree=degree), ring()).moving.at(0.0)
    return rasterize(moved(now, view.c2w[0], values, 3.0), view, backend="plain").rgb


@pytest.mark.parametrize("degree", [0, 1])
def test_moved_gaussians_look_as_from_the_corrected_camera(degree: int) -> None:
    view = ring()[3]
    values = torch.tensor([0.05, -0.03, 0.08, 0.02, 0.05, -0.04])
    expected = _picture(
        torch.zeros(6),
        dataclasses.replace(view, c2w=corrected(view.c2w, values[None], 3.0)),
        degree,
    )
    assert float((_picture(torch.zeros(6), view, degree) - expected).abs().max()) > 0.1
    torch.testing.assert_close(_picture(values, view, degree), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("degree", [0, 1])
def test_gradients_are_those_by_the_camera_and_of_finite_differences(degree: int) -> None:
    view = ring(hw=(12, 16))[3]
    weights = torch.randn(3, *view.hw, generator=torch.Generator().manual_seed(2))
    gradients = []
    for at in (torch.zeros(6), torch.tensor([0.05, -0.03, 0.08, 0.02, 0.05, -0.04])):
        values = at.clone().requires_grad_()
        by_gaussians = (_picture(values, view, degree) * weights).sum()
        c2w = corrected(view.c2w, values[None], 3.0)  # plain projection has this gradient
        turned = dataclasses.replace(view, c2w=c2w)
        by_camera = (_picture(torch.zeros(6), turned, degree) * weights).sum()
        gradients += [torch.autograd.grad(v, values)[0] for v in (by_gaussians, by_camera)]
    for own, expected in zip(gradients[::2], gradients[1::2], strict=True):
        assert float(expected.abs().min()) > 0.1
        torch.testing.assert_close(own, expected, rtol=1e-2, atol=1e-2)

    cloud = scene_of(some_gaussians(5, sh_degree=degree), ring()).moving.at(0.0)
    cloud = cloud._mapped(lambda t: t.double())
    c2w = view.c2w[0].double()

    def parts(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(moved(cloud, c2w, x, 3.0).tensors())

    torch.autograd.gradcheck(parts, torch.full((6,), 0.05).double().requires_grad_())


def test_what_pictures_do_not_tell_is_taken_out() -> None:
    """A shift, a turn and a growth of the whole ring leave no trace; what is left has none."""
    centres = ring().c2w[:, :3, 3]
    own = 0.01 * torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    rows = torch.arange(12)
    centre_cameras(own, rows, centres)
    common = torch.tensor([0.02, 0.01, -0.03, 0.1, 0.2, 0.3]).repeat(12, 1)
    common[:, 3:] += 0.05 * centres
    both = own + common
    centre_cameras(both, rows, centres)
    torch.testing.assert_close(both, own, rtol=0, atol=1e-6)
    assert float(own.mean(0).abs().max()) < 1e-8


def test_rotations_turn_about_their_axis() -> None:
    turned = rotations(torch.tensor([[0.0, 0.0, math.pi / 2], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(
        turned[0] @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    )
    assert torch.equal(turned[1], torch.eye(3))


def test_frames_of_one_camera_share_their_corrections() -> None:
    rig = Views.cat([dataclasses.replace(ring(4), time=torch.full((4,), t)) for t in (0.0, 1.0)])
    assert cameras_of(rig).tolist()[:4] == cameras_of(rig).tolist()[4:]
    assert sharing_exposure(rig).tolist() == cameras_of(rig).tolist()
    tripod = dataclasses.replace(ring(6), c2w=ring(1).c2w.repeat(6, 1, 1))
    assert len(cameras_of(tripod).unique()) == 1
    assert len(sharing_exposure(tripod).unique()) == 6


def test_values_without_a_sound_gradient_stay() -> None:
    values = FrameValues(torch.arange(4), 2, torch.device("cpu"))
    values.values.grad = torch.tensor([[1.0, -2.0], [math.nan, 1.0], [0.0, 0.0], [3.0, 3.0]])
    values.step(0.1, torch.tensor([3]))
    expected = torch.tensor([[-0.1, 0.1], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(values.values.detach(), expected)
    assert values.age.tolist() == [1.0, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def world() -> tuple[GaussianScene, Views]:
    """A scene that is a little off in colour, and what twelve cameras around it saw."""
    cloud = some_gaussians(60)
    inputs = filmed(scene_of(cloud, ring(), torch.ones(3)), ring())
    off = dataclasses.replace(cloud, sh=cloud.sh + 0.3)
    return scene_of(off, ring()), inputs


@pytest.mark.parametrize("again", [False, True])
def test_resuming_changes_no_bit(
    world: tuple[GaussianScene, Views], tmp_path: Path, again: bool
) -> None:
    start, inputs = world
    without = scene_of(dataclasses.replace(start.gaussians, sh=start.gaussians.sh + 0.1), ring())
    without = without if again else None
    whole = refine(start, inputs, BOTH, without=without)
    for part in (7, 11, 4, 3, 20):
        refine(start, inputs, BOTH, without=without, out=tmp_path, stop_after=part)
    resumed = refine(start, inputs, BOTH, without=without, out=tmp_path)
    assert torch.equal(whole.scene.gaussians.means, resumed.scene.gaussians.means)
    assert torch.equal(whole.scene.inputs.c2w, resumed.scene.inputs.c2w)
    assert not torch.equal(whole.scene.inputs.c2w, inputs.c2w)
    assert whole.corrections == resumed.corrections
    assert [len(found) for found in whole.corrections.values()] == [12, 12, 12]


def test_held_back_frames_move_themselves_only(world: tuple[GaussianScene, Views]) -> None:
    start, inputs = world
    held = held_back(inputs)
    assert inputs.rgb is not None
    other = inputs.rgb.clone()
    other[held] = 0.3
    runs = []
    for rgb in (inputs.rgb, other):
        run = Refinement(start, dataclasses.replace(inputs, rgb=rgb), BOTH)
        for _ in range(18):
            run.one_step()
        runs.append(run)
    one, two = runs
    assert torch.equal(one.adam.values, two.adam.values)
    for a, b in (
        (one.corrections.exposure, two.corrections.exposure),
        (one.corrections.cameras, two.corrections.cameras),
    ):
        assert a is not None
        assert b is not None
        assert torch.equal(a.values[a.camera[one.frames]], b.values[b.camera[one.frames]])
        assert not torch.equal(a.values[a.camera[held]], b.values[b.camera[held]])
