"""Trajectories against closed forms and finite differences."""

import dataclasses
import math

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.motion.quaternions import matrices, multiply, of_matrices, unit
from fsm.renderers.motion.trajectories import Trajectories

DOUBLE = torch.float64


def some_trajectories(k: int = 5, g: int = 2) -> Trajectories:
    """Random motions that turn by less than half a turn between knots; uneven knots."""
    times = torch.linspace(-1, 1, k, dtype=DOUBLE) + 0.1 * torch.rand(k, dtype=DOUBLE) / k
    quats = torch.tensor([1.0, 0, 0, 0], dtype=DOUBLE) + 0.5 * torch.randn(k, g, 4, dtype=DOUBLE)
    return Trajectories(times, quats, torch.randn(k, g, 3, dtype=DOUBLE))


def spinning(k: int, speed: float = 1.0) -> Trajectories:
    """About z at ``speed`` radians per unit of time, and along a parabola."""
    t = torch.linspace(-1, 1, k, dtype=DOUBLE)
    zero = torch.zeros_like(t)
    quats = torch.stack([(speed * t / 2).cos(), zero, zero, (speed * t / 2).sin()], -1)
    return Trajectories(t, quats[:, None], torch.stack([t, t * t, zero], -1)[:, None])


def test_knots_are_met_and_ends_are_held() -> None:
    moves = some_trajectories()
    quats, translations = moves.poses(moves.times)
    assert torch.allclose(translations, moves.translations, atol=1e-12)
    assert torch.allclose(matrices(quats), matrices(unit(moves.quats)), atol=1e-12)
    for time, knot in ((-7.0, 0), (7.0, -1)):
        assert torch.allclose(moves.at(time)[1], moves.translations[knot], atol=1e-12)


def test_a_parabola_and_a_steady_spin_come_back() -> None:
    moves = spinning(9)
    for t in (-0.7, 0.01, 0.6):
        rotation, translation = moves.at(t)
        assert torch.allclose(translation[0], torch.tensor([t, t * t, 0.0], dtype=DOUBLE))
        c, s = math.cos(t), math.sin(t)
        turned = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=DOUBLE)
        assert float((rotation[0] - turned).abs().max()) < 1e-3
    # the speed has no steps at knots
    t = torch.linspace(-0.999, 0.999, 2001, dtype=DOUBLE)
    steps = moves.poses(t)[1][:, 0].diff(dim=0).diff(dim=0).norm(dim=-1)
    assert float(steps.max()) < 2.1 * float((t[1] - t[0]) ** 2)


def test_signs_of_quaternions_do_not_matter() -> None:
    moves = some_trajectories()
    signs = torch.where(torch.rand(5, 2, 1) < 0.5, -1.0, 1.0)
    other = Trajectories(moves.times, moves.quats * signs, moves.translations)
    assert torch.allclose(moves.at(0.33)[0], other.at(0.33)[0], atol=1e-12)


def test_relative_carries_points_from_one_moment_to_another() -> None:
    moves = some_trajectories()
    (a, p), (b, q) = moves.at(-0.4), moves.at(0.7)
    turn, shift = moves.relative(-0.4, 0.7)
    body = torch.randn(3, dtype=DOUBLE)
    assert torch.allclose(
        turn @ (a @ body + p)[..., None] + shift[..., None], (b @ body + q)[..., None], atol=1e-12
    )


def test_motions_move_with_space() -> None:
    moves = dataclasses.replace(some_trajectories(), centres=torch.randn(2, 3, dtype=DOUBLE))
    turn = matrices(unit(torch.randn(4, dtype=DOUBLE)))
    shift = torch.randn(3, dtype=DOUBLE)
    point = torch.randn(3, dtype=DOUBLE)
    (a, p), (b, q) = moves.at(0.2), moves.transformed(turn, shift, 2.5).at(0.2)
    expected = 2.5 * (a @ point + p) @ turn.T + shift
    assert torch.allclose(b @ (2.5 * turn @ point + shift) + q, expected, atol=1e-9)


def test_gradients_of_knots_are_those_of_finite_differences() -> None:
    moves = some_trajectories(k=4)
    when = torch.tensor([-0.8, 0.15, 0.55], dtype=DOUBLE)

    def values(quats, translations, at):
        return Trajectories(moves.times, quats, translations).poses(at)

    free = tuple(t.clone().requires_grad_() for t in (moves.quats, moves.translations, when))
    assert torch.autograd.gradcheck(values, free)


def test_one_knot_rests() -> None:
    moves = some_trajectories(k=1)
    assert torch.equal(moves.at(-1.0)[1], moves.at(0.5)[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"times": torch.tensor([0.0, 0.0])}, "do not increase"),
        ({"translations": torch.full((2, 1, 3), math.nan)}, "NaN"),
    ],
)
def test_impossible_knots_are_refused(change: dict, says: str) -> None:
    fields = {
        "times": torch.tensor([0.0, 1.0]),
        "quats": torch.ones(2, 1, 4),
        "translations": torch.zeros(2, 1, 3),
    }
    with pytest.raises(InputError, match=says):
        Trajectories(**(fields | change)).check("somewhere")


def test_matrices_and_quaternions_are_inverse() -> None:
    quats = unit(torch.randn(200, 4, dtype=DOUBLE))
    rotations = matrices(quats)
    assert torch.allclose(matrices(of_matrices(rotations)), rotations, atol=1e-12)
    product = matrices(multiply(quats[:100], quats[100:]))
    assert torch.allclose(product, rotations[:100] @ rotations[100:], atol=1e-12)
    half = torch.diag(torch.tensor([1.0, -1, -1], dtype=DOUBLE))
    assert torch.allclose(matrices(of_matrices(half)), half)
