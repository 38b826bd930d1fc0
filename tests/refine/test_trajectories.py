"""Gaussians on trajectories under refinement: knots are found again, splits follow, bits stay."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fsm.evaluate.metrics import psnr
from fsm.refine import Density, Rates, RefineConfig, refine
from fsm.refine.loop import Refinement
from fsm.refine.trajectories import Motions
from fsm.renderers.gaussians.follow import Follow
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.motion.quaternions import multiply, unit
from fsm.renderers.motion.trajectories import Trajectories
from fsm.views import SceneFrame, Views
from tests.refine.small_scenes import filmed, ring, some_gaussians

N, FOLLOWERS, KNOTS = 60, 40, 5
STILL = Density(every=0)


def _moves() -> Trajectories:
    """One body goes a third of the way around the middle and sinks; a second one rises."""
    times = torch.linspace(-1.0, 1.0, KNOTS)
    turn = 0.5 * (times + 1.0) * math.pi / 3.0
    quats = torch.zeros(KNOTS, 2, 4)
    quats[:, 0, 0], quats[:, 0, 2] = torch.cos(turn), torch.sin(turn)
    quats[:, 1, 0] = 1.0
    translations = torch.zeros(KNOTS, 2, 3)
    translations[:, 0, 1], translations[:, 1, 1] = 0.3 * times, -0.5 * times
    return Trajectories(times, quats, translations)


def _cloud(moves: Trajectories) -> Gaussians4D:
    """Gaussians that are always there; of the first two thirds each follows one motion or both."""
    cloud = some_gaussians(N)
    always = torch.full((N,), math.inf)
    shares = torch.zeros(FOLLOWERS, 2)
    shares[::2, 0], shares[1::2, 1] = 1.0, 1.0
    shares[0] = 0.5
    follow = Follow(moves, shares, torch.arange(FOLLOWERS))
    return dataclasses.replace(
        cloud, right=cloud.left, time_scales=always, times=torch.zeros(N), follow=follow
    )


def _off(moves: Trajectories, size: float) -> Trajectories:
    """Knots turned and shifted at random, but for that in the middle, where Gaussians are given."""
    g = torch.Generator().manual_seed(4)
    turn = torch.cat([torch.ones(KNOTS, 2, 1), size * torch.randn(KNOTS, 2, 3, generator=g)], -1)
    shift = size * torch.randn(KNOTS, 2, 3, generator=g)
    turn[KNOTS // 2, :, 1:], shift[KNOTS // 2] = 0.0, 0.0
    quats = multiply(unit(turn), unit(moves.quats))
    return dataclasses.replace(moves, quats=quats, translations=moves.translations + shift)


def _film(scene: GaussianScene, turn: float = 0.0, v: int = 24) -> Views:
    cameras = ring(v)
    angle = torch.tensor(turn)
    around = torch.eye(4)
    around[0, 0] = around[2, 2] = angle.cos()
    around[0, 2], around[2, 0] = angle.sin(), -angle.sin()
    cameras = dataclasses.replace(cameras, c2w=around @ cameras.c2w, time=torch.arange(v) / v)
    return filmed(scene, cameras)


def _scene(gaussians: Gaussians4D) -> GaussianScene:
    frame = SceneFrame.identity((), 0.0, 23.0 / 24.0)
    return GaussianScene(gaussians, frame, ring(), background=torch.ones(3))


def _paths(scene: GaussianScene) -> torch.Tensor:
    """Centres of the followers at nine moments, [9 m 3]."""
    now = [scene.moving.at(t, 0.0).means[:FOLLOWERS] for t in torch.linspace(-1.0, 1.0, 9)]
    return torch.stack(now)


def test_a_follower_cloud_on_perturbed_knots_goes_back_to_the_truth() -> None:
    truth = _scene(_cloud(_moves()))
    start = _scene(_cloud(_off(_moves(), 0.06)))
    inputs, unseen = _film(truth), _film(truth, 0.4)
    nothing_else = dict.fromkeys(
        ("means", "velocities", "log_scales", "quats", "logit_opacities", "sh", "background"), 0.0
    )
    rates = Rates(**nothing_else, trajectories=4e-3)
    config = RefineConfig(steps=300, density=STILL, rates=rates, roughness=0.0)
    refined = refine(start, inputs, config).scene
    before, after = (
        float((_paths(s) - _paths(truth)).norm(dim=-1).mean()) for s in (start, refined)
    )
    assert unseen.rgb is not None
    shown = [float(psnr(s.render(unseen).rgb, unseen.rgb).mean()) for s in (start, refined)]
    assert after < 0.1 * before
    assert shown[1] > shown[0] + 10.0


def test_what_refinement_shows_is_what_the_scene_shows() -> None:
    """Carried centres and shapes, of times of their own and with velocities, too."""
    cloud = _cloud(_off(_moves(), 0.05))
    wild = some_gaussians(N, seed=3, sh_degree=1)
    cloud = dataclasses.replace(wild, follow=cloud.follow)
    scene = _scene(cloud)
    film = _film(scene)
    run = Refinement(scene, film, RefineConfig(density=STILL, hold_back=0))
    for time in (-1.0, 0.3):
        now = torch.tensor(time)
        ours = run._at(run.adam.there(now[None]), now)
        for one, other in zip(ours.tensors(), scene.moving.at(now).tensors(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    again = run.result()
    assert again.gaussians.follow is not None
    assert torch.equal(again.gaussians.follow.index, torch.arange(FOLLOWERS))
    torch.testing.assert_close(again.render(film).rgb, scene.render(film).rgb, rtol=0, atol=1e-3)


def test_gradients_of_knots_are_those_of_the_trajectories() -> None:
    """Through the scene's own forms in plain torch; at the start a turn of 1 is two radians."""
    scene = _scene(_cloud(_moves()))
    follow = scene.gaussians.follow
    assert follow is not None
    run = Refinement(scene, _film(scene), RefineConfig(density=STILL, hold_back=0))
    rows, now = torch.arange(N), torch.tensor(0.35)
    weights = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    (run._at(rows, now).means * weights).sum().backward()
    found = run.motions.knots.values.grad
    assert found is not None
    found = found.unflatten(1, (2, 6))[..., 3:] / run.motions.unit
    translations = follow.trajectories.translations.clone().requires_grad_()
    moves = dataclasses.replace(follow.trajectories, translations=translations)
    moving = dataclasses.replace(
        scene.moving, follow=dataclasses.replace(follow, trajectories=moves)
    )
    (expected,) = torch.autograd.grad((moving.at(now, 0.0).means * weights).sum(), translations)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_halves_follow_what_their_parents_did() -> None:
    truth = _scene(_cloud(_moves()))
    config = RefineConfig(steps=20, density=Density(every=5, growth=0.5, stop=1.0), hold_back=0)
    run = Refinement(truth, _film(truth), config)
    before = run.adam.shares.unique(dim=0)
    for _ in range(20):
        run.one_step()
    assert len(run.adam.shares) == len(run.adam.values) > N + 50
    assert torch.equal(run.adam.shares.unique(dim=0), before)
    follow = run.result().gaussians.follow
    assert follow is not None
    assert len(follow) > FOLLOWERS + 20


@torch.no_grad()
def test_roughness_is_that_of_second_differences() -> None:
    moves = _moves()
    follow = Follow(moves, torch.ones(1, 2) / 2.0, torch.arange(1))
    smooth = float(Motions(follow, 1.0).roughness())
    bent = dataclasses.replace(moves, translations=moves.translations.clone())
    bent.translations[2, 1, 0] += 0.2  # second differences 0.2, -0.4, 0.2 of one motion of two
    rough = float(Motions(dataclasses.replace(follow, trajectories=bent), 2.0).roughness())
    expected = (0.04 + 0.16 + 0.04) / 4.0 / 6.0
    assert smooth < 1e-2
    assert rough - float(Motions(follow, 2.0).roughness()) == pytest.approx(expected, rel=1e-3)


def test_resuming_changes_no_bit(tmp_path: Path) -> None:
    truth, start = _scene(_cloud(_moves())), _scene(_cloud(_off(_moves(), 0.05)))
    inputs = _film(truth, v=12)
    rates = Rates(means=1e-4, sh=1e-3, logit_opacities=1e-3, log_scales=1e-3, trajectories=4e-3)
    density = Density(every=8, start=0.5, stop=1.0)
    config = RefineConfig(steps=24, check_every=6, density=density, rates=rates)
    whole = refine(start, inputs, config)
    for part in (7, 11, 4, 3):
        refine(start, inputs, config, out=tmp_path, stop_after=part)
    resumed = refine(start, inputs, config, out=tmp_path)
    one, other = (r.scene.gaussians.follow for r in (whole, resumed))
    assert one is not None
    assert other is not None
    assert whole.chosen is not None
    assert whole.chosen.step > 0
    assert torch.equal(one.trajectories.quats, other.trajectories.quats)
    assert torch.equal(one.trajectories.translations, other.trajectories.translations)
    assert torch.equal(one.weights, other.weights)
    assert torch.equal(whole.scene.gaussians.means, resumed.scene.gaussians.means)
