"""Gaussians in space and time against dense 4x4 covariances; plain and compiled forms against each
other.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.gaussians import gaussians4d_plain as plain
from fsm.renderers.gaussians.constants import SHORTEST
from fsm.renderers.gaussians.gaussians4d import (
    Gaussians4D,
    MovingGaussians,
    check_finite,
)
from fsm.renderers.gaussians.rotations import (
    covariance_matrix,
    rotation_3d,
    rotation_4d,
    upper_triangle,
)
from fsm.renderers.gaussians.spherical_harmonics import colours_from_sh
from fsm.renderers.gaussians.types import Gaussians3D


def plain_condition(g: Gaussians4D) -> MovingGaussians:
    """``Gaussians4D.condition`` in torch."""
    moving = plain.condition(g.scales, g.time_scales, g.left, g.right)
    return MovingGaussians(g.means, moving[0], g.times, *moving[1:], g.opacities, g.sh)


Condition = Callable[[Gaussians4D], MovingGaussians]
FORMS = [plain_condition, Gaussians4D.condition]
FREE = ("scales", "time_scales", "left", "right")


def some(n: int, *, degree: int = 0, always: float = 0.0, seed: int = 0) -> Gaussians4D:
    """Scales around 0.1, rotations that mix space and time; the share ``always`` is there at all
    times.
    """
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(n, 4, generator=g)
    time_scales = 0.3 * torch.exp(torch.randn(n, generator=g))
    time_scales[torch.rand(n, generator=g) < always] = math.inf
    return Gaussians4D(
        torch.randn(n, 3, generator=g),
        0.5 * torch.randn(n, generator=g),
        0.1 * torch.exp(torch.randn(n, 3, generator=g)),
        time_scales,
        left,
        left + 0.5 * torch.randn(n, 4, generator=g),
        torch.rand(n, generator=g),
        torch.randn(n, (degree + 1) ** 2, 3, generator=g),
    )


def in_double(g: Gaussians4D) -> Gaussians4D:
    return g._mapped(lambda t: t.double())


def dense(g: Gaussians4D) -> torch.Tensor:
    """The 4x4 covariance in float64, axes x y z t, by quaternion products of the axes
    themselves.
    """

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        scalar = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(-1, keepdim=True)
        vector = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + torch.linalg.cross(a[:, 1:], b[:, 1:])
        return torch.cat([scalar, vector], -1)

    left, right = (q.double() / q.double().norm(dim=-1, keepdim=True) for q in (g.left, g.right))
    conjugate = right * torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    columns = []
    for axis in range(4):
        e = torch.zeros(len(g), 4, dtype=torch.float64)
        e[:, (axis + 1) % 4] = 1.0  # quaternions are t x y z
        columns.append(product(product(left, e), conjugate)[:, [1, 2, 3, 0]])
    scales = torch.cat([g.scales, g.time_scales[:, None]], -1).double()
    half = torch.stack(columns, -1) * scales[:, None]
    return half @ half.transpose(-1, -2)


@pytest.mark.parametrize("condition", FORMS)
def test_conditioning_is_that_of_the_dense_covariance(condition: Condition) -> None:
    g = some(300)
    full = dense(g)
    space, mixed, time = full[:, :3, :3], full[:, :3, 3], full[:, 3, 3]
    moving = condition(g)
    assert torch.allclose(moving.time_variances.double(), time, rtol=1e-5)
    assert torch.allclose(moving.velocities.double(), mixed / time[:, None], rtol=1e-4, atol=1e-4)
    expected = space - mixed[:, :, None] * mixed[:, None] / time[:, None, None]
    error = (covariance_matrix(moving.covariances).double() - expected).abs().amax(
        (1, 2)
    ) / expected.abs().amax((1, 2))
    assert float(error.max()) < 1e-5


@pytest.mark.parametrize("condition", FORMS)
def test_over_all_times_they_are_the_four_dimensional_density(condition: Condition) -> None:
    g = some(20)
    g = dataclasses.replace(g, opacities=torch.ones(20), time_scales=g.time_scales.clamp_max(0.8))
    full, moving = dense(g), condition(g)
    times = torch.linspace(-9.0, 9.0, 451)
    # five places for each Gaussian
    points = torch.randn(20, 5, 3) * g.scales[:, None] * 2.0 + g.means[:, None]
    inverse, total = torch.linalg.inv(full), torch.zeros(20, 5, dtype=torch.float64)
    for time in times:
        at = moving.at(float(time), min_weight=0.0)
        d = (points - at.means[:, None]).double()
        precision = torch.linalg.inv(covariance_matrix(at.covariances).double())
        density = at.opacities[:, None].double() * torch.exp(
            -0.5 * torch.einsum("npi,nij,npj->np", d, precision, d)
        )
        d4 = torch.cat(
            [points - g.means[:, None], (time - g.times)[:, None, None].expand(-1, 5, 1)], -1
        ).double()
        expected = torch.exp(-0.5 * torch.einsum("npi,nij,npj->np", d4, inverse, d4))
        assert torch.allclose(density, expected, rtol=1e-3, atol=1e-5)
        total += density * float(times[1] - times[0])
    # The integral over time is the marginal: a Gaussian with the spatial block, up to the two
    # normalisations.
    d = (points - g.means[:, None]).double()
    marginal = torch.exp(
        -0.5 * torch.einsum("npi,nij,npj->np", d, torch.linalg.inv(full[:, :3, :3]), d)
    )
    factor = (2 * math.pi * torch.linalg.det(full) / torch.linalg.det(full[:, :3, :3])).sqrt()
    assert torch.allclose(total, marginal * factor[:, None], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("condition", FORMS)
def test_static_ones_are_plain_3d_gaussians_at_all_times(condition: Condition) -> None:
    quats, scales = torch.randn(50, 4), torch.rand(50, 3) + 0.01
    g = Gaussians4D.static(torch.randn(50, 3), quats, scales, torch.rand(50), torch.randn(50, 4, 3))
    half = rotation_3d(quats) * scales[:, None]
    assert bool(g.is_static.all())
    for time in (-100.0, 0.0, 3.0):
        there = condition(g).at(time)
        assert torch.allclose(there.means, g.means, atol=1e-4)
        assert torch.allclose(
            there.covariances, upper_triangle(half @ half.transpose(-1, -2)), atol=1e-6
        )
        assert torch.allclose(there.opacities, g.opacities)
        assert torch.equal(there.sh, g.sh)


@pytest.mark.parametrize("condition", FORMS)
def test_thin_gaussians_that_move_fast_keep_their_digits(condition: Condition) -> None:
    g = dataclasses.replace(
        some(500),
        scales=torch.tensor([[1e-3, 1e-3, 1e-4]]).repeat(500, 1),
        time_scales=torch.full((500,), 10.0),
        right=some(500, seed=1).left,
    )
    expected = plain_condition(in_double(g)).covariances
    assert float(plain_condition(g).velocities.norm(dim=-1).median()) > 1.0
    error = (condition(g).covariances - expected).abs().amax(-1) / expected.abs().amax(-1)
    # Σxx - Σxt Σtx / Σtt is off by 1e-6 / 1e-6: all digits
    assert float(error.quantile(0.99)) < 1e-4


def test_gradients_of_the_plain_form_are_those_of_finite_differences() -> None:
    g = in_double(some(6))

    def outputs(*free: torch.Tensor) -> tuple[torch.Tensor, ...]:
        moving = plain_condition(dataclasses.replace(g, **dict(zip(FREE, free, strict=True))))
        there = plain.at(0.2, 0.0, *moving.tensors())
        return there.means, there.covariances, there.opacities

    assert torch.autograd.gradcheck(
        outputs, tuple(getattr(g, name).requires_grad_() for name in FREE)
    )


def gradients(g: Gaussians4D, condition: Condition) -> tuple[torch.Tensor, ...]:
    free = tuple(getattr(g, name).clone().requires_grad_() for name in FREE)
    moving = condition(dataclasses.replace(g, **dict(zip(FREE, free, strict=True))))
    outputs = (moving.velocities, moving.time_variances, moving.covariances)
    generator = torch.Generator().manual_seed(1)
    upstream = [
        torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs
    ]
    return torch.autograd.grad(outputs, free, upstream)


def test_gradients_of_the_compiled_form_are_those_of_the_plain_one() -> None:
    g = some(5000)
    g = dataclasses.replace(
        g, time_scales=g.time_scales * torch.where(torch.arange(5000) % 2 == 0, 1.0, -1.0)
    )
    for found, expected in zip(
        gradients(g, Gaussians4D.condition), gradients(in_double(g), plain_condition), strict=True
    ):
        scale = expected.flatten(1).norm(dim=-1) if expected.ndim == 2 else expected.abs()
        error = (found - expected).abs() / (
            scale[:, None] if expected.ndim == 2 else scale
        ).clamp_min(1e-6)
        assert float(error.quantile(0.999) if error.numel() < 1e6 else error.max()) < 1e-4


def test_both_forms_agree_and_keep_the_order() -> None:
    g = some(20_000, degree=1, always=0.3)
    expected, compiled = plain_condition(in_double(g)), g.condition()
    for name in MovingGaussians.names():
        a, b = getattr(expected, name), getattr(compiled, name)
        assert torch.allclose(a.float(), b, rtol=1e-5, atol=1e-6), name
    expected = plain.at(0.3, 0.05, *compiled.tensors())
    assert 5000 < len(expected) < 19_000
    for found in (compiled.at(0.3), compiled.at(torch.tensor(0.3)), g.at(0.3)):
        for field in dataclasses.fields(Gaussians3D):
            a, b = getattr(expected, field.name), getattr(found, field.name)
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-6), field.name
    assert len(g.at(0.3, min_weight=0.0)) == len(g)
    assert len(g[:0].at(0.3)) == len(g[:0].condition().at(0.3)) == 0


def test_any_number_of_threads_gives_the_same_bits() -> None:
    g, threads, results = some(30_000, always=0.3), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            moving = g.condition()
            there = g.at(0.1), moving.at(0.1)
            parts = [getattr(t, f.name) for t in there for f in dataclasses.fields(Gaussians3D)]
            results.append(
                [
                    moving.velocities,
                    moving.covariances,
                    *parts,
                    *gradients(g, Gaussians4D.condition),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("condition", FORMS)
def test_temporal_scales_of_no_length_any_sign_and_no_end(condition: Condition) -> None:
    """Means, in order: an instant; an instant; both signs of the same; always; none."""
    g = some(5)
    scales = torch.tensor([0.0, SHORTEST / 10, -0.2, math.inf, math.nan])
    g = dataclasses.replace(
        g,
        time_scales=scales,
        times=torch.tensor([0.5, 0.0, 0.5, 0.0, 0.5]),
        left=g.right,
        opacities=torch.ones(5),
    )
    moving = condition(g)
    assert [round(float(o), 3) for o in moving.at(0.5, min_weight=0.0).opacities[:4]] == [
        1.0,
        0.0,
        1.0,
        1.0,
    ]
    at = moving.at(0.5)
    assert len(at) == 3
    half = rotation_3d(g.left) * g.scales[:, None]
    expected = upper_triangle(half @ half.transpose(-1, -2))[[0, 2, 3]]
    assert torch.allclose(at.covariances, expected, rtol=1e-4, atol=1e-7)
    positive = condition(dataclasses.replace(g, time_scales=scales.abs()))
    assert torch.equal(positive.covariances[:4], moving.covariances[:4])
    for gradient in gradients(g[:4], condition):
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("condition", FORMS)
def test_zero_quaternions_and_flat_gaussians_are_defined(condition: Condition) -> None:
    g = some(3)
    zero = torch.zeros(3, 4)
    moving = condition(dataclasses.replace(g, left=zero, right=zero))
    expected = torch.zeros(3, 6)
    expected[:, [0, 3, 5]] = g.scales.square()
    assert torch.allclose(moving.covariances, expected)
    flat = dataclasses.replace(g, left=zero, scales=torch.zeros(3, 3))
    for gradient in gradients(flat, condition):
        assert bool(torch.isfinite(gradient).all())
    assert not bool(gradients(flat, condition)[2].any())


def test_gradients_flow_through_a_moment() -> None:
    g, time = some(200), torch.tensor(0.3, requires_grad=True)
    free = tuple(values.clone().requires_grad_() for values in g.tensors())
    there = Gaussians4D(*free).at(time)
    loss = there.means.sum() + there.covariances.sum() + there.opacities.sum() + there.sh.sum()
    for gradient in torch.autograd.grad(loss, (*free, time)):
        assert bool(torch.isfinite(gradient).all())
        assert bool(gradient.any())
    with torch.no_grad():
        again = Gaussians4D(*free).at(time)
    assert not again.means.requires_grad
    assert torch.allclose(again.means, there.means, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_similarity_moves_turns_and_scales_everything(degree: int) -> None:
    g = some(100, degree=degree).at(0.2)
    rotation, translation, scale = (
        rotation_3d(torch.randn(1, 4))[0],
        torch.tensor([0.3, -2.0, 1.0]),
        1.7,
    )
    moved = g.transformed(rotation, translation, scale)
    assert torch.allclose(moved.means, scale * (g.means @ rotation.T + translation), atol=1e-5)
    expected = scale**2 * rotation @ covariance_matrix(g.covariances) @ rotation.T
    assert torch.allclose(covariance_matrix(moved.covariances), expected, atol=1e-5)
    assert torch.equal(moved.opacities, g.opacities)
    # What is seen along a direction is seen, after turning, along the turned direction.
    directions = torch.randn(len(g), 3)
    seen = colours_from_sh(g.sh, directions)
    assert torch.allclose(colours_from_sh(moved.sh, directions @ rotation.T), seen, atol=1e-5)


def test_rotations_are_rotations_and_equal_quaternions_leave_time_alone() -> None:
    left, right = torch.randn(50, 4), torch.randn(50, 4)
    rotation = rotation_4d(left, right)
    assert torch.allclose(
        rotation @ rotation.transpose(-1, -2), torch.eye(4).expand(50, 4, 4), atol=1e-5
    )
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(50), atol=1e-5)
    still = rotation_4d(left, left)
    # Exactly: of an instant, whose time scale is tiny, rounding would make a long streak.
    assert torch.equal(still[:, 3, :3], torch.zeros(50, 3))
    assert torch.equal(still[:, :3, 3], torch.zeros(50, 3))
    assert torch.allclose(still[:, 3, 3], torch.ones(50), atol=1e-6)


def test_selecting_and_joining() -> None:
    g = some(10)
    again = Gaussians4D.cat([g[:3], g[torch.arange(3, 10)]])
    assert all(torch.equal(a, b) for a, b in zip(g.tensors(), again.tensors(), strict=True))
    mask = torch.arange(10) % 2 == 0
    assert len(g[mask]) == len(Gaussians3D.cat([g.at(0.0, 0.0)[mask]])) == 5


def test_values_that_are_none_are_named() -> None:
    g = some(10, always=0.5)
    check_finite(g, "scene")
    broken = g.scales.clone()
    broken[2, 1] = math.nan
    with pytest.raises(InputError, match="scene: 1 values of scales are NaN or infinite"):
        check_finite(dataclasses.replace(g, scales=broken), "scene")
