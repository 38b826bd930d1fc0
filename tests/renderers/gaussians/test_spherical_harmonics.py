"""Harmonics: orthonormal, gsplat's in order and sign, turning as they should, and the compiled
copies the same.
"""

import numpy as np
import pytest
import torch

from fsm.renderers.gaussians import spherical_harmonics_kernels as kernels
from fsm.renderers.gaussians.rotations import rotation_3d
from fsm.renderers.gaussians.spherical_harmonics import (
    basis,
    colour_to_sh,
    colours_from_sh,
    rotate_sh,
)


def directions(n: int = 50) -> torch.Tensor:
    d = torch.randn(n, 3, dtype=torch.float64)
    return d / d.norm(dim=-1, keepdim=True)


def test_they_are_orthonormal_over_the_sphere() -> None:
    # Gauss-Legendre in z times equal steps around: exact for polynomials of degree 6.
    z, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(8))
    around = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    across = (1 - z * z).sqrt()[:, None]
    points = torch.stack(
        [across * around.cos(), across * around.sin(), z[:, None].expand(-1, 16)], -1
    ).view(-1, 3)
    values = basis(points, 3)
    area = (weights[:, None].expand(-1, 16) * (2 * torch.pi / 16)).reshape(-1, 1)
    assert torch.allclose(
        values.T @ (area * values), torch.eye(16, dtype=torch.float64), atol=1e-12
    )


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_are_gsplats(degree: int) -> None:
    _spherical_harmonics = pytest.importorskip("gsplat.cuda._torch_impl")._spherical_harmonics

    d, sh = 3.0 * directions(), 0.3 * torch.randn(50, (degree + 1) ** 2, 3, dtype=torch.float64)
    expected = (_spherical_harmonics(degree, d, sh) + 0.5).clamp_min(0.0)
    assert torch.allclose(colours_from_sh(sh, d), expected, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_turned_harmonics_look_the_same_from_turned_directions(degree: int) -> None:
    d, sh = directions(), torch.randn(50, (degree + 1) ** 2, 3, dtype=torch.float64)
    rotation = rotation_3d(torch.randn(1, 4, dtype=torch.float64))[0]
    turned = rotate_sh(sh, rotation)
    before = (basis(d, degree)[:, :, None] * sh).sum(1)
    after = (basis(d @ rotation.T, degree)[:, :, None] * turned).sum(1)
    assert torch.allclose(before, after, atol=1e-10)
    assert torch.allclose(rotate_sh(turned, rotation.T), sh, atol=1e-10)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_compiled_copies_and_their_gradient(degree: int) -> None:
    weights = torch.randn((degree + 1) ** 2, dtype=torch.float64)
    for d in directions(10):
        values = np.zeros(16)
        kernels.fill_basis(values, degree, *d.tolist())
        leaf = d.clone().requires_grad_()
        expected = basis(leaf[None], degree)[0]
        assert np.allclose(values[: len(expected)], expected.detach().numpy(), atol=1e-14)
        found = kernels.basis_gradient(weights.numpy(), degree, *d.tolist())
        (gradient,) = torch.autograd.grad((expected * weights).sum() + 0.0 * leaf.sum(), leaf)
        assert np.allclose(found, gradient.numpy(), atol=1e-13)


def test_plain_colours_are_seen_from_everywhere() -> None:
    rgb = torch.rand(50, 3)
    assert torch.allclose(colours_from_sh(colour_to_sh(rgb), directions().float()), rgb, atol=1e-6)
