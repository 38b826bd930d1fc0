"""Splines against closed forms: lines, knots, continuous velocity, rotations about one axis."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.renderers.film.splines import hermite, linear, pose_spline, quaternions, rotations

finite = st.floats(-3, 3, allow_nan=False)
gaps = st.lists(st.floats(0.05, 5.0), min_size=1, max_size=7)


def _knots(gaps: list[float]) -> torch.Tensor:
    return torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0)


def _turn(angle: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """Rodrigues' formula, as the matrix exponential of the cross-product matrix."""
    x, y, z = torch.nn.functional.normalize(axis.double(), dim=0).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(angle.double()[..., None, None] * cross)


@settings(deadline=None, max_examples=40)
@given(gaps, finite, finite)
def test_straight_lines_are_reproduced_however_uneven_the_knots(
    gaps: list[float], offset: float, slope: float
) -> None:
    knots = _knots(gaps)
    at = torch.linspace(0, float(knots[-1]), 57, dtype=torch.float64)
    for curve in (hermite, linear):
        assert torch.allclose(
            curve(knots, (offset + slope * knots)[:, None], at)[:, 0],
            offset + slope * at,
            atol=1e-9,
        )


@settings(deadline=None, max_examples=40)
@given(gaps, st.integers(0, 1000))
def test_curve_meets_its_knots_and_its_velocity_does_not_jump(gaps: list[float], seed: int) -> None:
    knots = _knots(gaps)
    values = torch.randn(
        len(knots), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.allclose(hermite(knots, values, knots), values, atol=1e-12)
    before = _velocity(knots, values, knots[1:-1] - 1e-9)
    after = _velocity(knots, values, knots[1:-1] + 1e-9)
    assert torch.allclose(before, after, atol=1e-4)


def _velocity(knots: torch.Tensor, values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    at = at.clone().requires_grad_()
    curve = hermite(knots, values, at)
    return torch.stack(
        [torch.autograd.grad(curve[:, i].sum(), at, retain_graph=True)[0] for i in range(3)]
    )


def test_curve_of_uneven_knots_stays_near_its_values() -> None:
    """A jump over a thousandth of the other gaps must not fling the curve away."""
    knots = torch.tensor([0.0, 1.0, 1.001, 2.0, 3.0], dtype=torch.float64)
    values = torch.tensor([[0.0], [0.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
    curve = hermite(knots, values, torch.linspace(0, 3, 4001, dtype=torch.float64))
    assert float(curve.min()) > -0.35
    assert float(curve.max()) < 1.35


def test_values_are_held_outside_the_knots() -> None:
    knots = torch.tensor([0.0, 1.0], dtype=torch.float64)
    values = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    for curve in (hermite, linear):
        assert curve(knots, values, torch.tensor([-9.0, 9.0], dtype=torch.float64))[
            :, 0
        ].tolist() == [1.0, 5.0]


@settings(deadline=None, max_examples=60)
@given(st.floats(-math.pi, math.pi), finite, finite, finite)
def test_quaternions_and_rotations_are_inverses(angle: float, x: float, y: float, z: float) -> None:
    R = _turn(
        torch.tensor(angle, dtype=torch.float64), torch.tensor([x + 4, y, z], dtype=torch.float64)
    )
    q = quaternions(R)
    assert torch.allclose(rotations(q), R, atol=1e-12)
    # Half-angle formula: |w| = |cos(angle / 2)|.
    assert abs(float(q[0])) == pytest.approx(abs(math.cos(angle / 2)), abs=1e-9)


def test_quaternions_of_half_turns_are_well_conditioned() -> None:
    for axis in torch.eye(3):
        R = _turn(torch.tensor(math.pi), axis)
        assert torch.allclose(rotations(quaternions(R)), R, atol=1e-12)


def test_even_turn_about_one_axis_keeps_its_axis_and_nearly_its_rate() -> None:
    axis = torch.tensor([1.0, 2.0, -0.5])
    knots = torch.arange(9, dtype=torch.float64)
    c2w = torch.eye(4).repeat(9, 1, 1)
    c2w[:, :3, :3] = _turn(0.3 * knots, axis).float()
    at = torch.linspace(1, 7, 61, dtype=torch.float64)
    R = pose_spline(knots, c2w, at)[:, :3, :3]
    oracle = _turn(0.3 * at, axis)
    cosine = (torch.einsum("nij,nij->n", R, oracle) - 1) / 2
    assert float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).max()) < 0.02
    unit = torch.nn.functional.normalize(axis, dim=0).double()
    assert torch.allclose(R @ unit, unit.expand(61, 3), atol=1e-6)


def test_poses_are_rigid_and_go_the_short_way_round() -> None:
    """Neighbours 350 degrees apart by angle are 10 degrees apart by rotation."""
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[1, :3, :3] = _turn(torch.tensor(math.radians(350)), torch.tensor([0.0, 0.0, 1.0])).float()
    R = pose_spline(torch.tensor([0.0, 1.0]), c2w, torch.linspace(0, 1, 11))[:, :3, :3]
    assert torch.allclose(
        R @ R.transpose(-1, -2), torch.eye(3, dtype=torch.float64).expand(11, 3, 3), atol=1e-12
    )
    assert torch.allclose(torch.linalg.det(R), torch.ones(11, dtype=torch.float64))
    assert math.degrees(math.acos(min(1.0, float(R[5, 0, 0])))) == pytest.approx(5, abs=1e-3)
