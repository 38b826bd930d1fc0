"""Covariances to rotations and scales: exact, canonical, stable."""

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.gaussians.factorise import THINNEST, rotations_and_scales
from fsm.renderers.gaussians.rotations import rotation_3d, upper_triangle


def covariances(quats: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    half = rotation_3d(quats.double()) * scales.double()[:, None]
    return upper_triangle(half @ half.transpose(-1, -2))


def test_the_factors_give_the_covariance_back() -> None:
    scales = torch.exp(2.0 * torch.randn(500, 3, dtype=torch.float64))
    given = covariances(torch.randn(500, 4), scales)
    quats, found = rotations_and_scales(given)
    assert torch.allclose(
        covariances(quats, found), given, rtol=0, atol=1e-12 * float(given.abs().max())
    )
    assert torch.allclose(found, scales.sort(-1, descending=True).values, rtol=1e-7)
    assert torch.allclose(quats.norm(dim=-1), torch.ones(500, dtype=torch.float64))
    assert bool((quats[:, 0] >= 0).all())


def test_equal_covariances_give_equal_bits_wherever_they_stand() -> None:
    given = covariances(torch.randn(100, 4), torch.rand(100, 3) + 0.01).float()
    order = torch.randperm(100)
    for whole, part in zip(
        rotations_and_scales(given), rotations_and_scales(given[order]), strict=True
    ):
        assert torch.equal(whole[order], part)


@pytest.mark.parametrize(
    "scales",
    [
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 0.1),
        (0.01, 2.0, 2.0),
        (1.0, 0.1, 0.1),
        (0.3, 0.2, 0.1),
        (0.1, 0.2, 0.3),
    ],
)
@pytest.mark.parametrize(
    "quat", [(1.0, 0, 0, 0), (1.0, 1, 0, 0), (1.0, 0, 0, 1), (1.0, 1, 1, 1), (1.0, 0.4142136, 0, 0)]
)
def test_rounding_does_not_flip_even_symmetric_ones(scales: tuple, quat: tuple) -> None:
    given = covariances(torch.tensor([quat]), torch.tensor([scales])).float().repeat(200, 1)
    shaken = given * (1.0 + 2.0**-24 * (torch.rand(200, 6) - 0.5))
    shaken = shaken + 2.0**-25 * given.amax() * (torch.rand(200, 6) - 0.5)
    quats, sizes = rotations_and_scales(shaken)
    expected_quats, expected_sizes = rotations_and_scales(given)
    assert torch.allclose(quats, expected_quats, atol=1e-4)
    # of a variance; thin axes have fewer digits in float32
    rounding = 2.0**-22 * float(given.amax())
    assert torch.allclose(sizes.square(), expected_sizes.square(), rtol=0, atol=rounding)


def test_a_ball_is_not_turned_and_a_disc_keeps_its_normal() -> None:
    quats, scales = rotations_and_scales(
        covariances(torch.randn(1, 4), torch.tensor([[0.2, 0.2, 0.2]]))
    )
    assert torch.equal(quats.float(), torch.tensor([[1.0, 0, 0, 0]]))
    assert torch.allclose(scales, torch.full((1, 3), 0.2, dtype=torch.float64))
    turn = torch.randn(50, 4, dtype=torch.float64)
    quats, _ = rotations_and_scales(
        covariances(turn, torch.tensor([[0.5, 0.5, 0.01]]).repeat(50, 1))
    )
    normals, expected = rotation_3d(quats)[..., 2], rotation_3d(turn)[..., 2]
    assert torch.allclose((normals * expected).sum(-1).abs(), torch.ones(50, dtype=torch.float64))


def test_degenerate_covariances_have_scales_above_zero() -> None:
    flat = torch.tensor(
        [[1.0, 0, 0, 1.0, 0, -1e-8], [0.0] * 6, [1e-30, 0, 0, 0, 0, 0], [1e20, 0, 0, 1e20, 0, 1e20]]
    )
    quats, scales = rotations_and_scales(flat)
    assert bool((scales > 0).all())
    assert bool(torch.isfinite(scales).all())
    assert torch.allclose(quats.norm(dim=-1), torch.ones(4))
    assert float(scales[0, 2]) == pytest.approx(THINNEST)
    assert [t.shape[0] for t in rotations_and_scales(torch.zeros(0, 6))] == [0, 0]


def test_not_finite_covariances_are_refused() -> None:
    with pytest.raises(InputError, match="1 covariances are NaN or infinite"):
        rotations_and_scales(torch.tensor([[1.0, 0, 0, 1.0, 0, torch.nan], [1.0, 0, 0, 1, 0, 1]]))
