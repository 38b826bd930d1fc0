"""The inverse of conditioning on time: velocity, duration and shape to the two quaternions and four
scales of ``Gaussians4D``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.gaussians.rotations import rotation_4d

# standard deviations in model time (a clip lasts 2) beyond this change nothing but rounding
LONGEST = 30.0


def rotation(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of wxyz quaternions of any length above 0."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True).clamp_min(1e-12)).unbind(-1)
    entries = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


@torch.no_grad()
def four_dimensional(
    velocities: Float[Tensor, "n 3"],
    time_variances: Float[Tensor, " n"],
    quats: Float[Tensor, "n 4"],
    log_scales: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Quaternions left, right and the four scales of the 4D covariance, the axis closest to time
    last, all in model time and units. In float64.

    ``quats`` (wxyz, any length) and ``log_scales`` are those of one moment.
    """
    velocity, variance = velocities.double(), time_variances.double().clamp_max(LONGEST**2)
    space = rotation(quats.double()) * log_scales.double().exp()[:, None]
    full = velocity.new_zeros(len(velocity), 4, 4)
    full[:, :3, :3] = (
        space @ space.mT + variance[:, None, None] * velocity[:, :, None] * velocity[:, None]
    )
    full[:, :3, 3] = full[:, 3, :3] = variance[:, None] * velocity
    full[:, 3, 3] = variance
    values, axes = torch.linalg.eigh(full)  # rows x y z t, columns axes
    last = axes[:, 3].abs().argmax(-1, keepdim=True)
    order = (torch.arange(4) == last).to(torch.int8).argsort(dim=-1, stable=True)
    values, axes = values.gather(-1, order), axes.gather(-1, order[:, None].expand(-1, 4, -1))
    axes = axes * torch.linalg.det(axes)[:, None, None].sign() ** (torch.arange(4) == 0)
    left, right = _isoclinic(axes)
    return left.float(), right.float(), values.clamp_min(1e-20).sqrt().float()


def _isoclinic(rotation: Float[Tensor, "n 4 4"]) -> tuple[Tensor, Tensor]:
    """Unit quaternions with rotation v = left · v · conj(right) (van Elfrinkhof's formula, arXiv
    math/0501249).

    The matrices of  v -> e_i · v · conj(e_j)  are orthogonal, so projecting onto them gives  left_i
    right_j, of rank one.
    """
    unit = torch.eye(4, dtype=rotation.dtype)
    pairs = rotation_4d(unit.repeat_interleave(4, 0), unit.repeat(4, 1)).unflatten(0, (4, 4))
    outer = torch.einsum("nab,ijab->nij", rotation, pairs) / 4.0
    best = outer.norm(dim=-1).argmax(-1)
    right = outer[torch.arange(len(outer)), best]
    right = right / right.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (outer @ right[..., None])[..., 0], right
