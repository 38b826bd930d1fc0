"""Adam over rows against torch's own; the Gaussians of a moment against plain torch."""

import dataclasses
import math

import pytest
import torch

from fsm.refine.adam import Adam, at_moment, rate_columns
from fsm.refine.config import Rates
from fsm.refine.parameters import FreeGaussians
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.types import Gaussians3D
from tests.refine.small_scenes import some_gaussians


def test_static_gaussians_keep_their_scales_and_stay_static() -> None:
    g = some_gaussians(5)
    static = Gaussians4D.static(g.means, g.left, g.scales, g.opacities, g.sh)
    adam = Adam(FreeGaussians.from_gaussians(static))
    rates = rate_columns(Rates(), adam.values.shape[1], 1.0, 1.0)
    assert adam.there(torch.tensor([17.0])).tolist() == [0, 1, 2, 3, 4]
    gradients = torch.ones_like(adam.values)
    gradients[:, 7] = math.nan  # what autograd makes of an infinite duration
    adam.step(torch.arange(5), gradients, rates, torch.ones(5))
    out = adam.free.gaussians()
    assert bool(out.is_static.all())
    assert not torch.equal(out.means, g.means)
    torch.testing.assert_close(out.times, torch.zeros(5), atol=0, rtol=0)
    assert torch.equal(adam.free.velocities, torch.zeros(5, 3))
    # Scales were moved by one step of Adam, which is the rate, down.
    expected = (g.scales.sort().values.log() - Rates().log_scales).exp()
    torch.testing.assert_close(out.scales.sort().values, expected, rtol=1e-4, atol=0)


def test_adam_of_all_rows_is_torchs() -> None:
    adam = Adam(FreeGaussians.from_gaussians(some_gaussians(9)))
    rates = rate_columns(Rates(), adam.values.shape[1], 1.0, 1.0)
    columns = [adam.values[:, i].clone().requires_grad_() for i in range(len(rates))]
    theirs = torch.optim.Adam(
        [{"params": [c], "lr": float(r)} for c, r in zip(columns, rates, strict=True)], eps=1e-15
    )
    for step in range(5):
        gradients = torch.randn(adam.values.shape, generator=torch.Generator().manual_seed(step))
        for i, column in enumerate(columns):
            column.grad = gradients[:, i].clone()
        theirs.step()
        adam.step(torch.arange(9), gradients, rates, torch.ones(9))
    torch.testing.assert_close(adam.values, torch.stack(columns, 1).detach(), atol=1e-6, rtol=1e-6)


def test_absent_gaussians_and_bad_gradients_change_nothing() -> None:
    free = FreeGaussians.from_gaussians(some_gaussians(6))
    one, other = Adam(free), Adam(free)
    rates = rate_columns(Rates(), one.values.shape[1], 1.0, 1.0)
    gradients = torch.randn(4, one.values.shape[1])
    gradients[2, 5] = math.nan
    one.step(torch.tensor([0, 3, 4, 5]), gradients, rates, torch.ones(6))
    other.step(torch.tensor([5, 0, 3]), gradients[[3, 0, 1]], rates, torch.ones(6))
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name
    assert one.age.tolist() == [1, 0, 0, 1, 0, 1]
    assert torch.equal(one.values[[1, 2, 4]], free.packed()[[1, 2, 4]])


def test_moments_follow_the_gaussians_that_stay_and_new_ones_start_without() -> None:
    adam = Adam(FreeGaussians.from_gaussians(some_gaussians(6)))
    p = adam.values.shape[1]
    adam.step(torch.arange(6), torch.randn(6, p), torch.full((p,), 1e-3), torch.ones(6))
    before = {k: v.clone() for k, v in adam.state().items()}
    added = torch.randn(2, p)
    adam.replace(torch.tensor([1, 4, 5]), added, torch.tensor([0, 2]))
    for name, value in adam.state().items():
        assert torch.equal(value[:3], before[name][[1, 4, 5]]), name
    assert torch.equal(adam.values[3:], added)
    for name in ("first", "second", "age"):
        assert not bool(adam.state()[name][3:].any())


@pytest.mark.parametrize(
    "name", ["means", "velocities", "times", "log_scales", "quats", "sh", "background"]
)
def test_rates_reach_their_columns(name: str) -> None:
    zero = Rates(*([0.0] * 9))
    columns = rate_columns(dataclasses.replace(zero, **{name: 2.0}), 20, 0.5, 0.25)
    expected = {
        "means": {0: 1.0, 1: 1.0, 2: 1.0},
        "velocities": {3: 1.0, 4: 1.0, 5: 1.0},
        "times": {6: 1.0},
        "log_scales": {8: 0.5, 9: 0.5, 10: 0.5},
        "quats": {11: 0.5, 12: 0.5, 13: 0.5, 14: 0.5},
        "sh": {16: 0.5, 17: 0.5, 18: 0.5, 19: 0.025},
        "background": {},
    }[name]
    assert {i: round(float(c), 6) for i, c in enumerate(columns) if c} == expected


@pytest.mark.parametrize("static", [False, True])
def test_a_moment_is_that_of_plain_torch_in_values_and_gradients(static: bool) -> None:
    g = some_gaussians(200, sh_degree=1)
    if static:
        g = Gaussians4D.static(g.means, g.left, g.scales, g.opacities, g.sh)
    free = FreeGaussians.from_gaussians(g)
    free = dataclasses.replace(free, quats=free.quats * torch.exp(torch.randn(200, 1)))
    time, weights, results = torch.tensor(0.3), None, []
    for compiled in (True, False):
        columns = free.packed().requires_grad_()
        now = (
            at_moment(columns, time)
            if compiled
            else FreeGaussians.unpacked(columns).moving().at(time, 0.0)
        )
        fields = [getattr(now, f.name) for f in dataclasses.fields(Gaussians3D)]
        weights = weights or [torch.randn_like(t) for t in fields]
        total = torch.stack([(t * w).sum() for t, w in zip(fields, weights, strict=True)]).sum()
        (gradient,) = torch.autograd.grad(total, columns)
        results.append((*(t.detach() for t in fields), gradient))
    for ours, plain in zip(*results, strict=True):
        if static and ours is results[0][-1]:  # of durations without end plain torch makes NaN
            assert not bool(ours[:, 7].any())
            plain[:, 7] = 0.0
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_a_compiled_step_is_that_of_torch() -> None:
    g = some_gaussians(12)
    moving = FreeGaussians.from_gaussians(g)
    static = FreeGaussians.from_gaussians(
        Gaussians4D.static(g.means, g.left, g.scales, g.opacities, g.sh)
    )
    pair = [
        Adam(FreeGaussians.unpacked(torch.cat([moving.packed(), static.packed()])))
        for _ in range(2)
    ]
    rates, units = rate_columns(Rates(), 19, 0.5, 0.25), torch.rand(24)
    for step in range(4):
        rows = torch.randperm(24)[:15].sort().values
        gradient = torch.randn(15, 19)
        gradient[step, 2 * step] = (math.nan, math.inf, -math.inf, math.nan)[step]
        pair[0].step(rows, gradient, rates, units)
        pair[1]._step_in_torch(rows, gradient, rates, units)
    for name, value in pair[0].state().items():
        torch.testing.assert_close(value, pair[1].state()[name], rtol=1e-5, atol=1e-6)
