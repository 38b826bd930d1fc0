"""Products and matrices of quaternions, wxyz, over any leading axes."""

import torch
from jaxtyping import Float
from torch import Tensor

# of a squared length
LEAST = 1e-24


def unit(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The same directions with length 1; what has no length is the identity."""
    squared = quats.square().sum(-1, keepdim=True)
    identity = torch.zeros_like(quats)
    identity[..., 0] = 1.0
    usable = squared > LEAST
    return torch.where(usable, quats / torch.where(usable, squared, 1.0).sqrt(), identity)


def conjugate(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The inverse of unit quaternions."""
    return torch.cat([quats[..., :1], -quats[..., 1:]], dim=-1)


def multiply(a: Float[Tensor, "*n 4"], b: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """The rotation ``b`` followed by ``a``."""
    w, v, x, u = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    real = w * x - (v * u).sum(-1, keepdim=True)
    return torch.cat([real, w * u + x * v + torch.linalg.cross(v, u)], dim=-1)


def matrices(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation matrices of unit quaternions."""
    w, x, y, z = quats.unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def of_matrices(rotations: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 4"]:
    """Unit quaternions, w >= 0, of rotation matrices: the row of 4 q qᵀ with the largest diagonal.

    The row with the largest diagonal is never small.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotations.unbind(-2))
    rows = [
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    outer = torch.stack([torch.stack(row, -1) for row in rows], -2)
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    index = best[..., None, None].expand(*best.shape, 1, 4)
    chosen = unit(outer.gather(-2, index)[..., 0, :])
    return torch.where(chosen[..., :1] < 0, -chosen, chosen)


def aligned(
    quats: Float[Tensor, "*#n 4"], reference: Float[Tensor, "*#n 4"]
) -> Float[Tensor, "*#n 4"]:
    """The same rotations with the sign nearer to ``reference``."""
    return torch.where((quats * reference).sum(-1, keepdim=True) < 0, -quats, quats)
