"""A small cloud of moving Gaussians and a ring of cameras around it."""

import math

import torch

from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views


def some_gaussians(n: int = 60, seed: int = 0, sh_degree: int = 0) -> Gaussians4D:
    """Moving Gaussians about the origin, there for a good part of model time -1 to 1."""
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(n, 4, generator=g)
    return Gaussians4D(
        0.5 * torch.randn(n, 3, generator=g),
        2.0 * torch.rand(n, generator=g) - 1.0,
        torch.exp(0.3 * torch.randn(n, 3, generator=g)) * 0.1,
        torch.exp(0.3 * torch.randn(n, generator=g)),
        left,
        left + 0.1 * torch.randn(n, 4, generator=g),
        0.3 + 0.6 * torch.rand(n, generator=g),
        torch.randn(n, (sh_degree + 1) ** 2, 3, generator=g),
    )


def ring(v: int = 12, hw: tuple[int, int] = (24, 32)) -> Views:
    """Cameras on a circle of radius 3 that look at the origin, one every half second."""
    angle = torch.arange(v) * (2.0 * math.pi / v)
    forward = torch.stack([-angle.sin(), torch.zeros(v), -angle.cos()], -1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand(v, 3)
    right = torch.linalg.cross(down, forward)
    c2w = torch.eye(4).repeat(v, 1, 1)
    c2w[:, :3, :3] = torch.stack([right, down, forward], -1)
    c2w[:, :3, 3] = -3.0 * forward
    intrinsics = torch.tensor([40.0, 40.0, hw[1] / 2, hw[0] / 2]).expand(v, 4)
    return Views(c2w, intrinsics, torch.arange(v) / 2.0, hw)


def scene_of(
    gaussians: Gaussians4D, cameras: Views, background: torch.Tensor | None = None
) -> GaussianScene:
    """A scene in the cameras' own space, their times as model time -1 to 1."""
    frame = SceneFrame.identity(
        (), float(cameras.time.min()), float(cameras.time.max() - cameras.time.min())
    )
    return GaussianScene(gaussians, frame, cameras, background=background)


def filmed(scene: GaussianScene, cameras: Views) -> Views:
    """Observations of ``scene``."""
    from dataclasses import replace

    return replace(cameras, rgb=scene.render(cameras).rgb)
