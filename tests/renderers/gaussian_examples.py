"""Gaussians and a camera that several tests share."""

import torch

from fsm.renderers.gaussians.rotations import rotation_3d, upper_triangle
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.views import Views


def some_gaussians(n: int, degree: int = 0, *, size: float = 0.05, seed: int = 0) -> Gaussians3D:
    """Around the origin, scales from a third to three times ``size``, more than grey colours."""
    g = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(n, 3, generator=g)
    half = (
        rotation_3d(torch.randn(n, 4, generator=g))
        * torch.exp(0.7 * torch.randn(n, 3, generator=g))[:, None]
        * size
    )
    sh = 0.4 * torch.randn(n, (degree + 1) ** 2, 3, generator=g)
    covariances = upper_triangle(half @ half.transpose(-1, -2)).contiguous()
    return Gaussians3D(means, covariances, torch.rand(n, generator=g), sh)


def some_camera(hw: tuple[int, int] = (48, 64)) -> Views:
    """Looks past the origin from three units away, turned and off centre; some Gaussians lie behind
    it and beside it.
    """
    c2w = torch.eye(4)[None].clone()
    c2w[0, :3, :3] = rotation_3d(torch.tensor([[1.0, 0.1, -0.2, 0.05]]))[0]
    c2w[0, :3, 3] = torch.tensor([0.5, 0.3, -3.0])
    h, w = hw
    intrinsics = torch.tensor([[0.9 * w, 1.0 * w, 0.5 * w + 3.0, 0.5 * h - 2.0]])
    return Views(c2w, intrinsics, torch.zeros(1), hw)


def fields(g: Gaussians3D) -> tuple[torch.Tensor, ...]:
    """Means, covariances, opacities, harmonics."""
    return g.means, g.covariances, g.opacities, g.sh
