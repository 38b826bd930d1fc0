"""Spherical harmonics and their gradient for kernels; ``spherical_harmonics`` in torch."""

from fsm.kernels.compiled import loose_part
from fsm.renderers.gaussians.spherical_harmonics import (
    SH_C0,
    SH_C1,
    SH_C2,
    SH_C2_X,
    SH_C2_Z,
    SH_C3,
    SH_C3_D,
    SH_C3_R,
    SH_C3_XYZ,
    SH_C3_Z,
)


@loose_part
def fill_basis(out, degree, x, y, z):
    """Write the (degree + 1)² harmonics at the unit direction (x, y, z) to ``out``."""
    out[0] = SH_C0
    if degree >= 1:
        out[1], out[2], out[3] = -SH_C1 * y, SH_C1 * z, -SH_C1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out[4], out[5], out[7] = SH_C2 * x * y, -SH_C2 * y * z, -SH_C2 * x * z
        out[6] = SH_C2_Z * (2.0 * zz - xx - yy)
        out[8] = SH_C2_X * (xx - yy)
        if degree >= 3:
            out[9] = -SH_C3 * y * (3.0 * xx - yy)
            out[10] = SH_C3_XYZ * x * y * z
            out[11] = -SH_C3_R * y * (4.0 * zz - xx - yy)
            out[12] = SH_C3_Z * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
            out[13] = -SH_C3_R * x * (4.0 * zz - xx - yy)
            out[14] = SH_C3_D * z * (xx - yy)
            out[15] = -SH_C3 * x * (xx - 3.0 * yy)


@loose_part
def basis_gradient(w, degree, x, y, z):
    """Gradient of Σ w Y over (x, y, z), taken as free variables of the polynomials."""
    gx = gy = gz = 0.0
    if degree >= 1:
        gx, gy, gz = -SH_C1 * w[3], -SH_C1 * w[1], SH_C1 * w[2]
    if degree >= 2:
        gx += SH_C2 * (y * w[4] - z * w[7]) - 2.0 * SH_C2_Z * x * w[6] + 2.0 * SH_C2_X * x * w[8]
        gy += SH_C2 * (x * w[4] - z * w[5]) - 2.0 * SH_C2_Z * y * w[6] - 2.0 * SH_C2_X * y * w[8]
        gz += 4.0 * SH_C2_Z * z * w[6] - SH_C2 * (y * w[5] + x * w[7])
        if degree >= 3:
            xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
            gx += SH_C3 * (-6.0 * xy * w[9] - 3.0 * (xx - yy) * w[15]) + SH_C3_XYZ * yz * w[10]
            gx += (
                SH_C3_R * (2.0 * xy * w[11] - (4.0 * zz - 3.0 * xx - yy) * w[13])
                - 6.0 * SH_C3_Z * xz * w[12]
            )
            gx += 2.0 * SH_C3_D * xz * w[14]
            gy += SH_C3 * (6.0 * xy * w[15] - 3.0 * (xx - yy) * w[9]) + SH_C3_XYZ * xz * w[10]
            gy += (
                SH_C3_R * (2.0 * xy * w[13] - (4.0 * zz - xx - 3.0 * yy) * w[11])
                - 6.0 * SH_C3_Z * yz * w[12]
            )
            gy -= 2.0 * SH_C3_D * yz * w[14]
            gz += SH_C3_XYZ * xy * w[10] - 8.0 * SH_C3_R * (yz * w[11] + xz * w[13])
            gz += 3.0 * SH_C3_Z * (2.0 * zz - xx - yy) * w[12] + SH_C3_D * (xx - yy) * w[14]
    return gx, gy, gz
