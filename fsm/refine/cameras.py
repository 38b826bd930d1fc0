"""Corrections of the input cameras: a rotation about the camera's centre, and a shift.

Rasterisers have no gradients by cameras. The Gaussians are moved instead: what the corrected camera
sees of them is what the given camera sees of Gaussians moved the other way.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.renderers.gaussians.types import Gaussians3D

WIDTH = 6  # rotation vector in radians, shift in units of length, in the axes of the scene


def corrected(
    c2w: Float[Tensor, "v 4 4"], values: Float[Tensor, "v 6"], unit: float
) -> Float[Tensor, "v 4 4"]:
    """Corrected poses; ``unit`` is the length of a shift of 1."""
    out = c2w.clone()
    out[:, :3, :3] = rotations(values[:, :3]) @ c2w[:, :3, :3]
    out[:, :3, 3] = c2w[:, :3, 3] + unit * values[:, 3:]
    return out


def moved(
    now: Gaussians3D, c2w: Float[Tensor, "4 4"], values: Float[Tensor, " 6"], unit: float
) -> Gaussians3D:
    """Gaussians that the camera ``c2w`` sees as the corrected one sees ``now``. Differentiable."""
    back = rotations(-values[None, :3])[0]
    centre = c2w[:3, 3]
    return now.transformed(back, centre - back @ (centre + unit * values[3:]), 1.0)


def rotations(vectors: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3 3"]:
    """Rotation matrices of rotation vectors (axis times angle in radians). Differentiable."""
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(skew)


@torch.no_grad()
def centre_cameras(
    values: Float[Tensor, "c 6"], frames: Int[Tensor, " m"], centres: Float[Tensor, "c 3"]
) -> None:
    """Make the mean over ``frames`` (rows, repeated ones count again) the identity, in place.

    Pictures do not tell a shift, a turn or a larger scale of the whole scene. Where the cameras
    stand apart, the shifts are also freed of their growth away from the mean of ``centres``.
    """
    values -= values[frames].mean(0)
    away = centres - centres[frames].mean(0)
    spread = away[frames].square().sum()
    if float(spread) > 0.0:
        growth = (values[frames, 3:] * away[frames]).sum() / spread
        values[:, 3:] -= growth * away
