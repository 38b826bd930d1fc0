"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian splatting
files.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

SH_C0 = 0.28209479177387814  # the constant harmonic


def basis(direction: Float[Tensor, "n 3"], degree: int) -> Float[Tensor, "n k"]:
    """The (degree + 1)² harmonics at unit directions."""
    x, y, z = direction.unbind(-1)
    values = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        c = 0.4886025119029199
        values += [-c * y, c * z, -c * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2.0 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            -0.5900435899266435 * y * (3.0 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4.0 * zz - xx - yy),
            0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
            -0.4570457994644658 * x * (4.0 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3.0 * yy),
        ]
    return torch.stack(values, dim=-1)


def rotate_sh(sh: Float[Tensor, "n k c"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "n k c"]:
    """Coefficients of the same colours on a scene turned by ``rotation``.

    Every band turns within itself: its matrix is what maps the harmonics at some directions to
    those at the directions turned back, found by least squares in float64 (exact to rounding, there
    are more directions than coefficients).
    """
    degree = math.isqrt(sh.shape[1]) - 1
    if degree == 0:
        return sh
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    here = basis(directions, degree)
    there = basis(directions @ rotation.double().cpu(), degree)
    out = [sh[:, :1]]
    for band in range(1, degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        turn = torch.linalg.lstsq(here[:, part], there[:, part]).solution.to(sh)
        out.append(torch.einsum("ij,njc->nic", turn, sh[:, part]))
    return torch.cat(out, dim=1)
