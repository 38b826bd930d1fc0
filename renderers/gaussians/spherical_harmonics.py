"""Real spherical harmonics up to degree 3, in the order and with the signs of 3D Gaussian splatting
files.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Factors of the harmonics by degree; the suffix says which polynomial of x, y, z one goes with.
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2, SH_C2_Z, SH_C2_X = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
SH_C3, SH_C3_XYZ, SH_C3_R = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
SH_C3_Z, SH_C3_D = 0.3731763325901154, 1.445305721320277


def basis(direction: Float[Tensor, "n 3"], degree: int) -> Float[Tensor, "n k"]:
    """The (degree + 1)² harmonics at unit directions."""
    x, y, z = direction.unbind(-1)
    values = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        values += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            SH_C2 * x * y,
            -SH_C2 * y * z,
            SH_C2_Z * (2.0 * zz - xx - yy),
            -SH_C2 * x * z,
            SH_C2_X * (xx - yy),
        ]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            -SH_C3 * y * (3.0 * xx - yy),
            SH_C3_XYZ * x * y * z,
            -SH_C3_R * y * (4.0 * zz - xx - yy),
            SH_C3_Z * z * (2.0 * zz - 3.0 * xx - 3.0 * yy),
            -SH_C3_R * x * (4.0 * zz - xx - yy),
            SH_C3_D * z * (xx - yy),
            -SH_C3 * x * (xx - 3.0 * yy),
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


def colour_to_sh(rgb: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1 3"]:
    """The degree-0 coefficients that look like sRGB ``rgb`` from everywhere."""
    return ((rgb - 0.5) / SH_C0)[:, None]


def colours_from_sh(
    sh: Float[Tensor, "m k 3"], directions: Float[Tensor, "m 3"]
) -> Float[Tensor, "m 3"]:
    """sRGB of spherical harmonics seen along ``directions`` (camera to Gaussian, any length):
    max(0, 0.5 + Σ sh Y).
    """
    degree = math.isqrt(sh.shape[1]) - 1
    if degree == 0:
        return (0.5 + SH_C0 * sh[:, 0]).clamp_min(0.0)
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (0.5 + (basis(unit, degree)[:, :, None] * sh).sum(1)).clamp_min(0.0)
