"""Refinement as a whole: one step by hand, recovery of a scene, exact resume, and frames that are
never read.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import fsm.refine.run
from fsm.errors import InputError
from fsm.evaluate.metrics import psnr
from fsm.refine import Density, Rates, RefineConfig, refine
from fsm.refine.loop import Refinement
from fsm.refine.parameters import FreeGaussians
from fsm.refine.thin import shares_of_pictures
from fsm.refine.turns import in_turn
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.projection_plain import project_gaussians
from fsm.renderers.gaussians.rasterize_plain import composite
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.runs import Run
from fsm.views import SceneFrame, Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians

STILL = Density(every=0)
QUICK = RefineConfig(steps=12, density=Density(every=4, growth=0.2, stop=1.0))


def _blurred_copy(gaussians: Gaussians4D, noise: float, seed: int = 5) -> Gaussians4D:
    """The same cloud, everything about it off by ``noise``."""
    g = torch.Generator().manual_seed(seed)

    def off(t: torch.Tensor, size: float) -> torch.Tensor:
        return t + size * torch.randn(t.shape, generator=g)

    return dataclasses.replace(
        gaussians,
        means=off(gaussians.means, 0.3 * noise),
        scales=gaussians.scales * torch.exp(off(torch.zeros_like(gaussians.scales), noise)),
        sh=off(gaussians.sh, noise),
        opacities=torch.full_like(gaussians.opacities, 0.5),
    )


@pytest.fixture(scope="module")
def world() -> tuple[GaussianScene, Views]:
    """A true scene in front of white, and what twelve cameras around it saw."""
    scene = scene_of(some_gaussians(60), ring(), torch.ones(3))
    return scene, filmed(scene, ring())


def _start(world: tuple[GaussianScene, Views]) -> GaussianScene:
    return scene_of(_blurred_copy(world[0].gaussians, 0.4), ring(), torch.full((3,), 0.9))


def test_a_step_is_adam_on_the_gradient_of_the_loss_in_plain_torch(
    world: tuple[GaussianScene, Views],
) -> None:
    start, inputs = _start(world), world[1]
    config = RefineConfig(
        steps=10, density=STILL, ssim=0.0, opacity_weight=0.01, least_frames=0.0, hold_back=0
    )
    run = Refinement(start, inputs, config)
    (frame,) = in_turn(len(inputs), 0, 1, config.seed, 0)
    psnr_before = run.one_step()

    columns = FreeGaussians.from_gaussians(start.gaussians).packed().requires_grad_()
    background = start.background.clone().requires_grad_()
    view = start.frame.to_model(inputs)[frame]
    free = FreeGaussians.unpacked(columns)
    now = free.moving().at(view.time[0])
    colour, alpha, _ = composite(project_gaussians(now, view), view.hw)
    rgb = colour + (1.0 - alpha) * background[:, None, None]
    assert view.rgb is not None
    there = (view.time[0] - free.times).abs() < 2.4477468 * free.log_time_scales.exp()
    loss = (rgb - view.rgb[0]).abs().mean() + 0.01 * torch.sigmoid(free.logit_opacities)[
        there
    ].mean()
    loss.backward()
    assert columns.grad is not None
    assert background.grad is not None
    assert psnr_before == pytest.approx(float(psnr(rgb[None].detach(), view.rgb)), abs=1e-3)
    used = (run.adam.age > 0).nonzero()[:, 0]
    assert used.tolist() == there.nonzero()[:, 0].tolist()
    torch.testing.assert_close(run.adam.first[used] / 0.1, columns.grad[used], rtol=1e-3, atol=1e-7)
    # Adam's first step is the rate, against the sign of the gradient.
    distance = torch.cdist(start.gaussians.means, start.frame.to_model(inputs).c2w[:, :3, 3])
    expected = (
        columns[:, :3] - Rates().means * distance.amin(1)[:, None] * columns.grad[:, :3].sign()
    )
    clear = used[columns.grad[used, :3].abs().amin(1) > 1e-6]
    assert len(clear) > 10
    torch.testing.assert_close(
        run.adam.free.means[clear], expected[clear].detach(), rtol=0, atol=1e-6
    )
    moved = start.background - Rates().background * background.grad.sign()
    torch.testing.assert_close(run.background.detach(), moved, rtol=0, atol=1e-6)


def test_refinement_finds_a_scene_again_and_improves_unseen_views(
    world: tuple[GaussianScene, Views],
) -> None:
    truth, inputs = world
    unseen = ring(36)[torch.tensor([4, 13, 19, 31])]
    unseen = filmed(truth, dataclasses.replace(unseen, time=unseen.time / 3.0))
    start = _start(world)
    rates = Rates(means=8e-3, log_scales=4e-2, sh=2e-2, background=1e-2)
    refined = refine(
        start, inputs, RefineConfig(steps=150, rates=rates, density=STILL, least_frames=0.0)
    ).scene
    for views, gain in ((inputs, 10.0), (unseen, 6.0)):
        assert views.rgb is not None
        before, after = (
            psnr(s.render(views.without_rgb()).rgb, views.rgb).mean() for s in (start, refined)
        )
        assert float(after - before) > gain
    torch.testing.assert_close(refined.background, torch.ones(3), atol=0.03, rtol=0)


def test_a_result_is_a_scene_that_can_be_kept(
    world: tuple[GaussianScene, Views], tmp_path: Path
) -> None:
    refined = refine(_start(world), world[1], QUICK).scene
    refined.save(tmp_path / "scene")
    again = GaussianScene.load(tmp_path / "scene")
    assert torch.equal(again.render(ring()).rgb, refined.render(ring()).rgb)
    assert torch.equal(again.inputs.time, world[1].time)


def _same(a: GaussianScene, b: GaussianScene) -> None:
    for name in Gaussians4D.names():
        assert torch.equal(getattr(a.gaussians, name), getattr(b.gaussians, name)), name
    assert torch.equal(a.background, b.background)


@pytest.mark.parametrize("parts", [(5,), (4, 4), (1, 2, 3, 20)])
def test_resuming_changes_no_bit(
    world: tuple[GaussianScene, Views], tmp_path: Path, parts: tuple[int, ...]
) -> None:
    whole = refine(_start(world), world[1], QUICK).scene
    for part in parts:
        torch.manual_seed(part)  # the world outside must not matter
        refine(
            _start(world),
            world[1],
            QUICK,
            out=tmp_path / "run",
            identity={"clip": "a"},
            stop_after=part,
        )
    resumed = refine(_start(world), world[1], QUICK, out=tmp_path / "run", identity={"clip": "a"})
    _same(resumed.scene, whole)
    assert resumed.seconds > 0.0
    other = refine(_start(world), world[1], dataclasses.replace(QUICK, seed=1)).scene
    assert not torch.equal(other.gaussians.means[:5], whole.gaussians.means[:5])


def test_interruptions_save_first(
    world: tuple[GaussianScene, Views], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Refinement.one_step

    def step(self: Refinement) -> float:
        if self.step == 6:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return genuine(self)

    with monkeypatch.context() as patch:
        patch.setattr(Refinement, "one_step", step)
        with pytest.raises(KeyboardInterrupt):
            refine(_start(world), world[1], QUICK, out=tmp_path)
    assert torch.load(tmp_path / fsm.refine.run.STATE, weights_only=True)["step"] == 7
    resumed = refine(_start(world), world[1], QUICK, out=tmp_path)
    _same(resumed.scene, refine(_start(world), world[1], QUICK).scene)


def test_a_checkpoint_is_written_as_time_passes(
    world: tuple[GaussianScene, Views], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsm.refine.run, "SECONDS_BETWEEN_SAVES", -1.0)
    saved = []
    monkeypatch.setattr(Run, "save", lambda run, state: saved.append(state["step"]))
    refine(_start(world), world[1], QUICK, out=tmp_path)
    assert saved == [*range(1, 14), 13]  # one step more with all frames


def test_a_folder_keeps_one_run(world: tuple[GaussianScene, Views], tmp_path: Path) -> None:
    refine(_start(world), world[1], QUICK, out=tmp_path, identity={"clip": "a"}, stop_after=2)
    with pytest.raises(InputError, match=r"written with other settings \(differs in clip\)"):
        refine(_start(world), world[1], QUICK, out=tmp_path, identity={"clip": "b"})
    with pytest.raises(InputError, match="differs in config"):
        refine(
            _start(world),
            world[1],
            dataclasses.replace(QUICK, steps=13),
            out=tmp_path,
            identity={"clip": "a"},
        )
    state = tmp_path / fsm.refine.run.STATE
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="refused or cannot be read"):
        refine(_start(world), world[1], QUICK, out=tmp_path, identity={"clip": "a"})
    torch.save({"step": 3}, state)
    with pytest.raises(InputError, match="cannot be resumed from"):
        refine(_start(world), world[1], QUICK, out=tmp_path, identity={"clip": "a"})


def test_a_scene_with_too_many_gaussians_keeps_those_that_show(
    world: tuple[GaussianScene, Views],
) -> None:
    truth, inputs = world
    hidden = dataclasses.replace(some_gaussians(80, seed=3), opacities=torch.full((80,), 0.0005))
    crowd = scene_of(Gaussians4D.cat([hidden, truth.gaussians]), ring(), torch.ones(3))
    run = Refinement(crowd, inputs, RefineConfig(density=Density(every=0, most=60)))
    expected = FreeGaussians.from_gaussians(truth.gaussians).means
    kept = sum(bool((run.adam.free.means == row).all(1).any()) for row in expected)
    assert len(run.adam.values) == 60
    assert kept >= 57  # all but those that hide behind others


def test_a_thinned_scene_covers_what_it_did(world: tuple[GaussianScene, Views]) -> None:
    crowd, inputs = scene_of(some_gaussians(2000, seed=1), ring()), world[1]
    whole = Refinement(crowd, inputs, QUICK)
    thin = Refinement(crowd, inputs, dataclasses.replace(QUICK, density=Density(most=200)))
    assert float(thin.adam.free.log_scales.mean() - whole.adam.free.log_scales.mean()) > 0.2
    alphas = [r.result().render(ring()).alpha for r in (whole, thin)]
    assert alphas[0] is not None
    assert alphas[1] is not None
    assert abs(float(alphas[1].mean() / alphas[0].mean()) - 1.0) < 0.1


def test_shares_are_the_weights_of_the_pictures(world: tuple[GaussianScene, Views]) -> None:
    truth, inputs = world
    run = Refinement(truth, inputs, dataclasses.replace(QUICK, hold_back=0))
    views = truth.frame.to_model(inputs)
    alpha = 0.0
    for i in range(len(views)):
        drawn = composite(project_gaussians(truth.moving.at(views.time[i]), views[i]), views.hw)[1]
        alpha += float(drawn.sum())
    assert float(
        shares_of_pictures(run.adam, run.views, run._at, run._picture).sum()
    ) * 3.544907701811032 / 3.0 == pytest.approx(alpha, rel=1e-3)


def test_views_without_pictures_are_refused(world: tuple[GaussianScene, Views]) -> None:
    with pytest.raises(InputError, match="give views with rgb"):
        refine(_start(world), ring(), QUICK)


def test_a_mask_keeps_pixels_out(world: tuple[GaussianScene, Views]) -> None:
    inputs = world[1]
    assert inputs.rgb is not None
    mask = torch.rand(12, 1, *inputs.hw) > 0.5
    results = []
    for outside in (0.0, 1.0):
        rgb = torch.where(mask, inputs.rgb, torch.full_like(inputs.rgb, outside))
        results.append(
            refine(_start(world), dataclasses.replace(inputs, rgb=rgb, mask=mask), QUICK).scene
        )
    _same(*results)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"ssim": 1.5},
        {"views": 0},
        {"rates": Rates(means=-1.0)},
        {"density": Density(stop=2.0)},
    ],
)
def test_settings_out_of_range_are_refused(change: dict) -> None:
    with pytest.raises(InputError, match="must lie between"):
        RefineConfig(**change)


@pytest.mark.parametrize("durations", [0.7, math.inf])
def test_a_static_scene_stays_static(durations: float) -> None:
    """Cameras that share a moment: whatever it starts from, nothing has a time afterwards."""
    cameras = dataclasses.replace(ring(), time=torch.zeros(12))
    cloud = some_gaussians(60)
    cloud = dataclasses.replace(cloud, time_scales=torch.full((60,), durations))
    frame = SceneFrame.fit(cameras)
    truth = GaussianScene(cloud, frame, cameras, background=torch.ones(3))
    inputs = dataclasses.replace(cameras, rgb=truth.render(cameras).rgb)
    start = GaussianScene(_blurred_copy(cloud, 0.2), frame, cameras)
    config = dataclasses.replace(QUICK, steps=40)
    refined = refine(start, inputs, config)
    assert refined.chosen is not None
    assert refined.chosen.step > 0
    assert bool(refined.scene.gaussians.is_static.all())
    assert torch.equal(
        refined.scene.render(cameras).rgb,
        refined.scene.render(dataclasses.replace(cameras, time=torch.full((12,), 9.0))).rgb,
    )
