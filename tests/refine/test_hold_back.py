"""Frames held back: which they are, and that a refinement never ends worse on them."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from fsm.evaluate.metrics import psnr
from fsm.refine import Density, RefineConfig, held_back, refine
from fsm.refine.hold_back import FEWEST, GAP, Watch, block_errors, gain
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians

CONFIG = RefineConfig(steps=40, check_every=5, density=Density(every=10, stop=1.0))


def _row(v: int, extent: float = 2.0) -> Views:
    """Cameras side by side that look the same way, one a second."""
    c2w = torch.eye(4).repeat(v, 1, 1)
    c2w[:, 0, 3] = torch.linspace(-extent / 2, extent / 2, v)
    intrinsics = torch.tensor([40.0, 40.0, 16.0, 12.0]).expand(v, 4)
    return Views(c2w, intrinsics, torch.linspace(-1.0, 1.0, v), (24, 32))


def _rig(cameras: int, moments: int) -> Views:
    views = _row(cameras)[torch.arange(cameras).repeat(moments)]
    time = torch.linspace(-1.0, 1.0, moments).repeat_interleave(cameras)
    return dataclasses.replace(views, time=time)


def _gaps(views: Views, held: list[int]) -> torch.Tensor:
    """From each held-back camera to the nearest that is left."""
    left = [i for i in range(len(views)) if i not in held]
    return torch.cdist(views.c2w[held, :3, 3], views.c2w[left, :3, 3]).amin(1)


def test_far_apart_cameras_are_held_back_one_by_one() -> None:
    held = held_back(_row(16))
    assert len(held) == 3
    assert min(b - a for a, b in itertools.pairwise(held)) > 3
    assert held[0] > 0
    assert held[-1] < 15


@pytest.mark.parametrize(("frames", "expected"), [(4, 1), (7, 1), (8, 2), (12, 3)])
def test_of_few_frames_three_are_held_back_or_one_in_four(frames: int, expected: int) -> None:
    assert len(held_back(_row(frames, extent=8.0))) == expected


def test_a_film_loses_blocks_so_that_a_frame_is_far_from_its_neighbours() -> None:
    views = _row(60)
    held = held_back(views)
    assert 3 <= len(held) <= 7
    assert held == list(range(held[0], held[-1] + 1))
    assert float(_gaps(views, held).max()) >= GAP


def test_a_long_film_loses_an_eighth_at_most() -> None:
    assert 0 < len(held_back(_row(240, extent=0.5))) <= 30


def test_a_rig_loses_a_whole_camera() -> None:
    views = _rig(8, 12)
    held = held_back(views)
    cameras = {i % 8 for i in held}
    assert len(held) == 12
    assert len(cameras) == 1
    assert cameras < set(range(1, 7))


def test_of_a_camera_that_stands_single_moments_are_held_back() -> None:
    held = held_back(_rig(1, 32))
    assert len(held) == 4
    assert min(b - a for a, b in itertools.pairwise(held)) > 3


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_no_more_are_held_back_than_asked_for(most: int) -> None:
    for views in (_row(12), _rig(3, 5), ring(9)):
        assert 1 <= len(held_back(views, most)) <= min(most, len(views) - 1)


def test_few_frames_are_all_needed() -> None:
    assert held_back(_row(FEWEST - 1)) == []
    assert len(held_back(_row(FEWEST))) == 1
    assert held_back(_row(12), 0) == []


@pytest.fixture(scope="module")
def world() -> tuple[GaussianScene, Views]:
    """A true scene in front of white, and what twelve cameras around it saw."""
    scene = scene_of(some_gaussians(60), ring(), torch.ones(3))
    return scene, filmed(scene, ring())


def _noisy(world: tuple[GaussianScene, Views]) -> Views:
    """The same pictures, but noise where a step may look."""
    inputs = world[1]
    held = held_back(inputs)
    assert inputs.rgb is not None
    noise = torch.rand(inputs.rgb.shape, generator=torch.Generator().manual_seed(1))
    noise[held] = inputs.rgb[held]
    return dataclasses.replace(inputs, rgb=noise)


def test_what_was_right_stays_where_the_inputs_are_wrong(
    world: tuple[GaussianScene, Views],
) -> None:
    refined = refine(world[0], _noisy(world), CONFIG)
    assert refined.scene.gaussians is world[0].gaussians
    assert torch.equal(refined.scene.background, world[0].background)
    assert refined.chosen is not None
    assert refined.chosen.step == 0
    assert refined.chosen.curve[0][1] > 60.0
    unguarded = refine(world[0], _noisy(world), dataclasses.replace(CONFIG, hold_back=0))
    assert unguarded.chosen is None
    assert not torch.equal(unguarded.scene.gaussians.means, world[0].gaussians.means)


def test_the_last_steps_go_on_from_the_best_state_with_all_frames(
    world: tuple[GaussianScene, Views],
) -> None:
    cloud = dataclasses.replace(world[0].gaussians, sh=world[0].gaussians.sh + 0.5)
    run = Refinement(scene_of(cloud, ring(), torch.ones(3)), world[1], CONFIG)
    while run.step < CONFIG.steps:
        run.one_step()
    assert run.watch is not None
    assert run.watch.best is not None
    assert not run.done
    best, held = run.watch.best["values"].clone(), len(run.held_back)
    assert len(run.views) == 12 - held
    steps = 0
    while not run.done:
        run.one_step()
        steps += 1
    assert steps == CONFIG.last_steps == 4
    assert len(run.views) == 12
    moved = (run.adam.values - best).abs()
    assert 0.0 < float(moved[:, :3].max()) < 0.05
    assert len(run.watch.curve) == 9


def test_a_refinement_that_only_falls_ends_early(world: tuple[GaussianScene, Views]) -> None:
    config = dataclasses.replace(CONFIG, steps=100)
    refined = refine(world[0], _noisy(world), config)
    assert refined.chosen is not None
    assert refined.chosen.curve[-1][0] < 100


def test_the_state_that_is_kept_shows_what_the_curve_says(
    world: tuple[GaussianScene, Views],
) -> None:
    cloud = dataclasses.replace(
        world[0].gaussians, means=world[0].gaussians.means + 0.05 * torch.ones(60, 3)
    )
    config = dataclasses.replace(CONFIG, taken_in=0.0)
    refined = refine(scene_of(cloud, ring(), torch.ones(3)), world[1], config)
    assert refined.chosen is not None
    assert refined.chosen.step > 0
    kept = dict(refined.chosen.curve)[refined.chosen.step]
    held = world[1][list(refined.chosen.frames)]
    assert held.rgb is not None
    shown = refined.scene.render(held.without_rgb()).rgb
    assert float(psnr(shown, held.rgb).mean()) == pytest.approx(kept, abs=1e-3)


def test_held_back_pictures_are_in_no_gradient(world: tuple[GaussianScene, Views]) -> None:
    """The steps are the same whatever the held-back frames show."""
    scene, inputs = world
    assert inputs.rgb is not None
    held = held_back(inputs)
    other = inputs.rgb.clone()
    other[held] = 0.0
    states = []
    for rgb in (inputs.rgb, other):
        run = Refinement(scene, dataclasses.replace(inputs, rgb=rgb), CONFIG)
        for _ in range(12):
            run.one_step()
        states.append(run.adam.values)
    assert torch.equal(*states)


def test_the_scene_made_without_the_held_back_frames_is_where_it_starts(
    world: tuple[GaussianScene, Views],
) -> None:
    """A scene that knows the held-back frames by heart does not hide that the rest improves."""
    truth, inputs = world
    off = 0.05 * torch.ones(60, 3)
    moved = dataclasses.replace(truth.gaussians, means=truth.gaussians.means + off)
    without = scene_of(moved, ring(), torch.ones(3))
    alone, fair = (refine(truth, inputs, CONFIG, without=w).chosen for w in (None, without))
    assert alone is not None
    assert fair is not None
    assert alone.step == 0
    assert fair.step > 0
    assert fair.curve[0][1] < alone.curve[0][1] - 10.0
    noisy = refine(truth, _noisy(world), CONFIG, without=without)
    assert noisy.chosen is not None
    assert noisy.chosen.step == 0
    assert noisy.scene.gaussians is truth.gaussians


def test_a_scene_takes_as_many_steps_as_were_best_without_the_held_back_frames(
    world: tuple[GaussianScene, Views], tmp_path: Path
) -> None:
    clouds = [
        dataclasses.replace(world[0].gaussians, means=world[0].gaussians.means + 0.05 * off)
        for off in (torch.ones(60, 3), -torch.ones(60, 3))
    ]
    scene, without = (scene_of(cloud, ring(), torch.ones(3)) for cloud in clouds)
    whole = refine(scene, world[1], CONFIG, without=without)
    assert whole.chosen is not None
    alone = refine(
        scene,
        world[1],
        dataclasses.replace(CONFIG, hold_back=0),
        stop_after=whole.chosen.step,
    )
    for part in (13, 30, 9):
        refine(scene, world[1], CONFIG, without=without, out=tmp_path, stop_after=part)
    resumed = refine(scene, world[1], CONFIG, without=without, out=tmp_path)
    for name in Gaussians4D.names():
        one, other = (getattr(r.scene.gaussians, name) for r in (whole, resumed))
        assert torch.equal(one, other)
    assert len(whole.scene.gaussians) == len(alone.scene.gaussians)
    assert world[1].rgb is not None
    shown = [float(psnr(r.scene.render(world[1]).rgb, world[1].rgb).mean()) for r in (whole, alone)]
    assert shown[0] == pytest.approx(shown[1], abs=3.0)


@pytest.mark.parametrize("noisy", [True, False])
def test_resuming_keeps_the_best_state_to_the_bit(
    world: tuple[GaussianScene, Views], tmp_path: Path, noisy: bool
) -> None:
    start = scene_of(
        dataclasses.replace(world[0].gaussians, sh=world[0].gaussians.sh + 0.3), ring()
    )
    inputs = _noisy(world) if noisy else world[1]
    whole = refine(start, inputs, CONFIG)
    for part in (7, 11, 4, 20):  # the last stop lies among the steps with all frames
        refine(start, inputs, CONFIG, out=tmp_path, stop_after=part)
    resumed = refine(start, inputs, CONFIG, out=tmp_path)
    assert resumed.chosen == whole.chosen
    for name in Gaussians4D.names():
        one, other = (getattr(r.scene.gaussians, name) for r in (whole, resumed))
        assert torch.equal(one, other)
    assert torch.equal(whole.scene.background, resumed.scene.background)


def test_hopeless_is_a_third_of_all_steps_well_below_the_best() -> None:
    watch = Watch(ring(2))
    for step, value, hopeless in (
        (0, 40.0, False),
        (10, 25.0, False),
        (20, 24.0, False),
        (30, 24.4, False),
        (40, 24.4, True),
        (50, 24.6, False),
    ):
        watch.curve.append((step, value))
        assert watch.hopeless(90) == hopeless, step


def test_a_gain_is_in_standard_errors_of_blocks() -> None:
    falls = torch.tensor([[0.3, 0.1, 0.2, 0.2], [0.0, 0.4, 0.1, 0.3]])
    before = torch.ones(2, 4)
    expected = falls.mean() / (falls.std() / 8**0.5)
    assert gain(before, before - falls) == pytest.approx(float(expected))
    # A frame counts by the share of its error that is gone, whatever its level.
    level = torch.tensor([[1.0], [100.0]])
    assert gain(level * before, level * (before - falls)) == pytest.approx(float(expected))
    assert gain(before, before) == 0.0
    assert gain(before, before + falls) < 0.0


def test_errors_of_blocks_leave_out_what_is_masked() -> None:
    views = ring(1, (32, 32))
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    mask[..., :4, :] = False
    mask[..., 4, 4:8] = False
    views = dataclasses.replace(views, rgb=torch.zeros(1, 3, 32, 32), mask=mask)
    shown = torch.full((1, 3, 32, 32), 0.5)
    shown[..., :4, :] = 1.0
    shown[..., 4, 4:8] = 1.0
    errors = block_errors(shown, views)
    assert errors.shape == (1, 64)
    assert bool(errors[0, :8].isnan().all())
    assert torch.allclose(errors[0, 8:], torch.tensor(0.25))


def test_a_state_is_kept_only_where_its_gain_is_sure() -> None:
    """Noise that helps on average does not count, the same gain everywhere does."""
    generator = torch.Generator().manual_seed(0)
    views = dataclasses.replace(ring(2, (32, 32)), rgb=torch.full((2, 3, 32, 32), 0.5))
    watch = Watch(views)
    watch.add(0, torch.full((2, 3, 32, 32), 0.7), {})
    noise = torch.randn(2, 1, 8, 8, generator=generator).repeat_interleave(4, 2)
    noise = noise.repeat_interleave(4, 3)
    noise = noise - noise.mean()
    assert watch.views.rgb is not None
    watch.add(10, 0.699 + 0.08 * noise.expand(2, 3, 32, 32), {})
    assert watch.best is None
    watch.add(20, torch.full((2, 3, 32, 32), 0.69), {"values": torch.ones(1)})
    assert watch.best_step == 20
    watch.add(30, torch.full((2, 3, 32, 32), 0.71), {})
    assert watch.best_step == 20
    again = Watch(views)
    again.load_state(watch.state())
    assert again.best_step == 20
    assert torch.equal(again.errors, watch.errors)  # pyright: ignore[reportArgumentType]
