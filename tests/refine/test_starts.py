"""Which start is taken, steps on views beside the inputs, and that no result is worse."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fsm.refine import (
    Beside,
    BesideConfig,
    Chosen,
    Density,
    RefineConfig,
    Refined,
    Start,
    best_start,
    never_worse,
    refine,
)
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians

CONFIG = RefineConfig(
    steps=20, check_every=5, density=Density(every=0), beside=BesideConfig(every=4)
)


@pytest.fixture(scope="module")
def world() -> tuple[GaussianScene, Views]:
    """A true scene in front of white, and what twelve cameras around it saw."""
    scene = scene_of(some_gaussians(60), ring(), torch.ones(3))
    return scene, filmed(scene, ring())


def _off(scene: GaussianScene, size: float) -> GaussianScene:
    g = torch.Generator().manual_seed(1)
    means = scene.gaussians.means
    means = means + size * torch.randn(means.shape, generator=g)
    gaussians = dataclasses.replace(scene.gaussians, means=means)
    return scene_of(gaussians, ring(), torch.ones(3))


def _beside(scene: GaussianScene, score: float = 99.0) -> Beside:
    """True views between the cameras."""
    views = ring(36)[torch.arange(1, 36, 3)]
    views = filmed(scene, dataclasses.replace(views, time=views.time / 3.0))
    views = dataclasses.replace(views, mask=torch.ones(12, 1, *views.hw, dtype=torch.bool))
    return Beside(views, views, score)


def _looked_at(run: Refinement, steps: int) -> list[bool]:
    """Of every step, whether it fitted a view beside."""
    out = []
    for _ in range(steps):
        before = run.beside_steps
        run.one_step()
        out.append(run.beside_steps > before)
    return out


def test_the_better_start_wins_and_the_first_of_equal_ones(
    world: tuple[GaussianScene, Views],
) -> None:
    truth, inputs = world
    far, near = Start("far", _off(truth, 0.3)), Start("near", _off(truth, 0.01))
    chosen, scores = best_start([far, near], inputs, CONFIG)
    assert chosen is near
    assert scores["near"] > scores["far"]
    twin = Start("twin", near.scene)
    assert best_start([twin, near], inputs, CONFIG)[0] is twin
    blind = dataclasses.replace(CONFIG, hold_back=0)
    assert best_start([far, near], inputs, blind) == (far, {})


def test_of_so_many_steps_one_looks_beside(world: tuple[GaussianScene, Views]) -> None:
    truth, inputs = world
    run = Refinement(_off(truth, 0.1), inputs, CONFIG, beside=_beside(truth))
    assert _looked_at(run, 9) == [True, False, False, False, True, False, False, False, True]


def test_without_frames_held_back_nothing_looks_beside(
    world: tuple[GaussianScene, Views],
) -> None:
    truth, inputs = world
    config = dataclasses.replace(CONFIG, hold_back=0)
    run = Refinement(_off(truth, 0.1), inputs, config, beside=_beside(truth))
    assert not any(_looked_at(run, 8))


def test_a_model_that_has_nothing_to_teach_is_left(world: tuple[GaussianScene, Views]) -> None:
    """Once the Gaussians are better by the margin, no step looks beside; also after the choice."""
    truth, inputs = world
    start = _off(truth, 0.1)
    first = Refinement(start, inputs, CONFIG)
    assert first.watch is not None
    score = first.watch.curve[0][1]
    rules = dataclasses.replace(CONFIG.beside, every=1, margin=0.1)
    config = dataclasses.replace(CONFIG, beside=rules)
    below = Refinement(start, inputs, config, beside=_beside(truth, score - 0.2))
    assert not any(_looked_at(below, 5))
    above = Refinement(start, inputs, config, beside=_beside(truth, score))
    assert _looked_at(above, 6) == [True] * 5 + [False]


def test_views_beside_teach_what_inputs_do_not_show(world: tuple[GaussianScene, Views]) -> None:
    truth, inputs = world
    config = dataclasses.replace(CONFIG, steps=80, beside=BesideConfig(every=2))
    start, few = _off(truth, 0.1), inputs[[0, 1, 2, 3, 4, 5]]
    asked = _beside(truth).views[[7, 8, 9]]  # on the far side
    assert asked.rgb is not None
    errors = []
    for beside in (None, _beside(truth)):
        refined = refine(start, few, config, beside=beside).scene
        off = (refined.render(asked.without_rgb()).rgb - asked.rgb).square().mean()
        errors.append(float(off))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("parts", [(5,), (7, 6)])
def test_resuming_with_views_beside_changes_no_bit(
    world: tuple[GaussianScene, Views], tmp_path: Path, parts: tuple[int, ...]
) -> None:
    truth, inputs = world
    start, beside = _off(truth, 0.1), _beside(truth)
    whole = refine(start, inputs, CONFIG, beside=beside).scene
    for part in parts:
        refine(start, inputs, CONFIG, beside=beside, out=tmp_path / "run", stop_after=part)
    resumed = refine(start, inputs, CONFIG, beside=beside, out=tmp_path / "run").scene
    for name in ("means", "scales", "sh", "opacities"):
        assert torch.equal(getattr(resumed.gaussians, name), getattr(whole.gaussians, name))


def test_a_scene_is_kept_where_another_start_ends_worse(
    world: tuple[GaussianScene, Views],
) -> None:
    truth, inputs = world
    own = Start("own", _off(truth, 0.01))
    watch = Refinement(own.scene, inputs, CONFIG).watch
    assert watch is not None
    score = watch.curve[0][1]
    for value, kept in ((score - 0.1, True), (score + 0.1, False)):
        run = Refined(truth, 1.0, Chosen((3,), ((0, 5.0), (10, value)), 10), {})
        result = never_worse(run, own, inputs, CONFIG)
        assert (result.scene is own.scene) == kept
        assert result.chosen is not None
        assert result.chosen.step == (0 if kept else 10)
