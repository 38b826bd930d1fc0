"""Redistribution: who goes, who is split, and that halves together look like the whole."""

import dataclasses
import math

import torch

from fsm.refine.adam import Adam
from fsm.refine.config import Density
from fsm.refine.densify import redistribute, split
from fsm.refine.parameters import FreeGaussians
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import rasterize
from tests.refine.small_scenes import ring, some_gaussians


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_faint_go_and_the_blamed_are_split() -> None:
    free = FreeGaussians.from_gaussians(some_gaussians(40))
    free.logit_opacities[:5] = -9.0
    adam = Adam(free)
    blame = torch.zeros(40)
    blame[[2, 10, 11, 12]] = 1.0  # the first of them is faint
    done = redistribute(adam, blame, Density(growth=0.5, most=100), 0.0, _generator())
    assert done == 3
    kept = [i for i in range(5, 40) if i not in (10, 11, 12)]
    assert torch.equal(adam.values[: len(kept)], free.packed()[kept])
    assert len(adam.values) == len(kept) + 6
    middles = FreeGaussians.unpacked(adam.values[len(kept) :]).means.view(2, 3, 3).mean(0)
    expected = free.means[[10, 11, 12]]
    torch.testing.assert_close(middles[middles[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_numbers_follow_the_plan() -> None:
    blame = torch.ones(40)
    for most, growth, expected in ((100, 0.25, 50), (44, 0.25, 44), (30, 0.25, 40), (100, 0.0, 40)):
        adam = Adam(FreeGaussians.from_gaussians(some_gaussians(40)))
        redistribute(adam, blame, Density(growth=growth, most=most), 0.0, _generator())
        assert len(adam.values) == len(adam.age) == expected


def test_halves_in_space_look_like_the_whole() -> None:
    g = some_gaussians(1)
    g = dataclasses.replace(
        g, times=torch.zeros(1), time_scales=torch.full((1,), math.inf), right=g.left
    )
    g = dataclasses.replace(g, means=torch.zeros(1, 3), scales=torch.tensor([[0.5, 0.2, 0.2]]))
    g = dataclasses.replace(g, opacities=torch.tensor([0.5]))
    camera = ring(3)
    whole = FreeGaussians.from_gaussians(g)
    halves = FreeGaussians.unpacked(split(whole.packed(), 0.0, 0.0, _generator()))
    pictures = [
        rasterize(f.moving().at(0.0), camera, backend="plain").alpha for f in (whole, halves)
    ]
    assert pictures[0] is not None
    assert pictures[1] is not None
    # Two Gaussians are never one: some light moves, but not more than this.
    assert float((pictures[0] - pictures[1]).abs().mean()) < 0.2 * float(pictures[0].mean())
    # Along a line the sum of the optical depth, -log(1 - opacity) times the width, is the same.
    thick = [
        -torch.log1p(-torch.sigmoid(f.logit_opacities)) * f.log_scales.exp().amax(1)
        for f in (whole, halves)
    ]
    torch.testing.assert_close(thick[1].sum(), thick[0].sum(), rtol=1e-5, atol=0)
    assert not torch.equal(halves.means[0], halves.means[1])


def test_halves_in_time_lie_on_the_path_and_share_the_shape() -> None:
    whole = FreeGaussians.from_gaussians(some_gaussians(50))
    halves = FreeGaussians.unpacked(split(whole.packed(), 0.0, 1.0, _generator()))
    assert torch.equal(halves.log_scales, whole.log_scales.repeat(2, 1))
    for at in (-0.5, 0.7):
        expected = whole.means + (at - whole.times)[:, None] * whole.velocities
        for part in (slice(0, 50), slice(50, 100)):
            found = (
                halves.means[part] + (at - halves.times[part])[:, None] * halves.velocities[part]
            )
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool((halves.times[:50] < whole.times).all())
    assert bool((halves.times[50:] > whole.times).all())
    assert bool((halves.log_time_scales < whole.log_time_scales.repeat(2)).all())


def test_static_and_short_gaussians_are_split_in_space_only() -> None:
    g = some_gaussians(10)
    static = FreeGaussians.from_gaussians(
        Gaussians4D.static(g.means, g.left, g.scales, g.opacities, g.sh)
    )
    short = FreeGaussians.from_gaussians(g)
    for whole, least in ((static, 0.0), (short, 100.0)):
        halves = FreeGaussians.unpacked(split(whole.packed(), least, 1.0, _generator()))
        assert torch.equal(halves.times, whole.times.repeat(2))
        assert torch.equal(halves.log_time_scales, whole.log_time_scales.repeat(2))
        assert bool((halves.log_scales.sum(1) < whole.log_scales.sum(1).repeat(2)).all())


def test_a_round_depends_on_its_generator_alone() -> None:
    results = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        adam = Adam(FreeGaussians.from_gaussians(some_gaussians(30)))
        redistribute(adam, torch.arange(30.0), Density(growth=0.3), 0.0, _generator())
        results.append(adam.values)
    assert torch.equal(*results)
