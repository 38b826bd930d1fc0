"""Kernel of ``projection_cpu``: gradients over Gaussians of those over their splats."""

import math

import numpy as np

from fsm.kernels.compiled import kernel, loose_part
from fsm.renderers.gaussians.projection_kernels import (
    ANTIALIASED,
    BLOCK,
    BLUR,
    CENTRE,
    FIELDS,
    INTRINSICS,
    LANES,
    SPLATS,
    WINDOW,
    direction,
    load,
    three,
)
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.spherical_harmonics_kernels import basis_gradient, fill_basis


@loose_part
def _splat_gradients(raw, up, cam, out):
    """Gradients over centre (camera axes), covariance and opacity of LANES Gaussians, in rows as
    they were read.
    """
    ox, oy, oz = cam[CENTRE], cam[CENTRE + 1], cam[CENTRE + 2]
    r0, r1, r2 = cam[0], cam[1], cam[2]
    r3, r4, r5 = cam[3], cam[4], cam[5]
    r6, r7, r8 = cam[6], cam[7], cam[8]
    kx, ky, blur, antialiased = cam[INTRINSICS], cam[INTRINSICS + 1], cam[BLUR], cam[ANTIALIASED]
    low_x, high_x, low_y, high_y = cam[WINDOW], cam[WINDOW + 1], cam[WINDOW + 2], cam[WINDOW + 3]
    for l in range(LANES):
        dx, dy, dz = raw[l] - ox, raw[1 * LANES + l] - oy, raw[2 * LANES + l] - oz
        x = r0 * dx + r1 * dy + r2 * dz
        y = r3 * dx + r4 * dy + r5 * dz
        z = r6 * dx + r7 * dy + r8 * dz
        a, b, c = three(raw, 3, l)
        d, e, f = three(raw, 6, l)
        near_one = 1.0 / z
        px, py = x * near_one, y * near_one
        tx, ty = min(max(px, low_x), high_x), min(max(py, low_y), high_y)
        fx, fy = kx * near_one, ky * near_one
        u0, u1, u2 = (r0 - tx * r6) * fx, (r1 - tx * r7) * fx, (r2 - tx * r8) * fx
        v0, v1, v2 = (r3 - ty * r6) * fy, (r4 - ty * r7) * fy, (r5 - ty * r8) * fy
        s0, s1, s2 = a * u0 + b * u1 + c * u2, b * u0 + d * u1 + e * u2, c * u0 + e * u1 + f * u2
        t0, t1, t2 = a * v0 + b * v1 + c * v2, b * v0 + d * v1 + e * v2, c * v0 + e * v1 + f * v2
        xx, xy = u0 * s0 + u1 * s1 + u2 * s2, v0 * s0 + v1 * s1 + v2 * s2
        yy = v0 * t0 + v1 * t1 + v2 * t2
        plain = max(xx * yy - xy * xy, 0.0)
        inverse = 1.0 / (plain + blur * (xx + yy + blur))
        # The conic is (yy + blur, -xy, xx + blur) / determinant.
        c0, c1 = up[2 * LANES + l] * inverse, up[3 * LANES + l] * inverse
        c2 = up[4 * LANES + l] * inverse
        g_determinant = -inverse * (c0 * (yy + blur) - c1 * xy + c2 * (xx + blur))
        share, g_alpha = plain * inverse, np.float64(up[6 * LANES + l])
        dimming = math.sqrt(max(share, 1e-12)) if antialiased != 0.0 else 1.0
        bends = (antialiased != 0.0) & (share >= 1e-12)
        g_share = g_alpha * raw[9 * LANES + l] * 0.5 / dimming * inverse if bends else 0.0
        g_determinant -= g_share * share
        g_plain = g_determinant + g_share if xx * yy - xy * xy >= 0.0 else 0.0
        g_xx = c2 + g_plain * yy + g_determinant * blur
        g_yy = c0 + g_plain * xx + g_determinant * blur
        g_xy = -c1 - 2.0 * g_plain * xy
        p0, q0 = 2.0 * g_xx * s0 + g_xy * t0, g_xy * s0 + 2.0 * g_yy * t0
        p1, q1 = 2.0 * g_xx * s1 + g_xy * t1, g_xy * s1 + 2.0 * g_yy * t1
        p2, q2 = 2.0 * g_xx * s2 + g_xy * t2, g_xy * s2 + 2.0 * g_yy * t2
        g_tx = -fx * (p0 * r6 + p1 * r7 + p2 * r8) if (px >= low_x) & (px <= high_x) else 0.0
        g_ty = -fy * (q0 * r6 + q1 * r7 + q2 * r8) if (py >= low_y) & (py <= high_y) else 0.0
        g_px, g_py = g_tx + kx * up[l], g_ty + ky * up[1 * LANES + l]
        g_z = p0 * u0 + p1 * u1 + p2 * u2 + q0 * v0 + q1 * v1 + q2 * v2 + g_px * px + g_py * py
        out[l], out[1 * LANES + l] = g_px * near_one, g_py * near_one
        out[2 * LANES + l] = up[5 * LANES + l] - g_z * near_one
        out[3 * LANES + l] = g_xx * u0 * u0 + g_xy * u0 * v0 + g_yy * v0 * v0
        out[4 * LANES + l] = 2.0 * (g_xx * u0 * u1 + g_yy * v0 * v1) + g_xy * (u0 * v1 + u1 * v0)
        out[5 * LANES + l] = 2.0 * (g_xx * u0 * u2 + g_yy * v0 * v2) + g_xy * (u0 * v2 + u2 * v0)
        out[6 * LANES + l] = g_xx * u1 * u1 + g_xy * u1 * v1 + g_yy * v1 * v1
        out[7 * LANES + l] = 2.0 * (g_xx * u1 * u2 + g_yy * v1 * v2) + g_xy * (u1 * v2 + u2 * v1)
        out[8 * LANES + l] = g_xx * u2 * u2 + g_xy * u2 * v2 + g_yy * v2 * v2
        out[9 * LANES + l] = g_alpha * dimming


@loose_part
def _load_gradients(d_centres, d_conics, d_depths, d_alphas, first, count, up):
    """Gradients over splats ``first`` to ``first + count``, one field a row."""
    for l in range(count):
        o = np.uintp(first + l)
        up[l], up[LANES + l] = d_centres[o, 0], d_centres[o, 1]
        for j in range(3):
            up[(2 + j) * LANES + l] = d_conics[o, j]
        up[5 * LANES + l], up[6 * LANES + l] = d_depths[o], d_alphas[o]


@loose_part
def _write_gradients(batch, cam, out, to_means, to_covariances, to_opacities):
    """From rows to where the Gaussians of ``batch`` stand; gradients over centres are turned to
    world axes.
    """
    for l in range(len(batch)):
        i = np.uintp(batch[l])
        x, y, z = out[l], out[LANES + l], out[2 * LANES + l]
        to_means[i, 0] = cam[0] * x + cam[3] * y + cam[6] * z
        to_means[i, 1] = cam[1] * x + cam[4] * y + cam[7] * z
        to_means[i, 2] = cam[2] * x + cam[5] * y + cam[8] * z
        for j in range(6):
            to_covariances[i, j] = out[(3 + j) * LANES + l]
        to_opacities[i] = out[9 * LANES + l]


@loose_part
def _colour_gradients(batch, sh, means, cam, harmonics, weights, d_colours, first, to_sh, to_means):
    """Gradients over the harmonics and, by way of the direction they are seen in, over the centres
    (added).
    """
    degree, count = int(math.sqrt(sh.shape[1])) - 1, sh.shape[1]
    for l in range(len(batch)):
        i, o = np.uintp(batch[l]), np.uintp(first + l)
        if degree == 0:
            for c in range(3):
                value = np.float32(0.5) + np.float32(SH_C0) * sh[i, 0, c]
                to_sh[i, 0, c] = np.float32(SH_C0) * d_colours[o, c] if value >= 0.0 else 0.0
            continue
        x, y, z, scale = direction(means, i, cam)
        fill_basis(harmonics, degree, x, y, z)
        r = g = b = 0.5
        for k in range(count):
            r += harmonics[k] * sh[i, k, 0]
            g += harmonics[k] * sh[i, k, 1]
            b += harmonics[k] * sh[i, k, 2]
        r = d_colours[o, 0] if r >= 0.0 else 0.0
        g = d_colours[o, 1] if g >= 0.0 else 0.0
        b = d_colours[o, 2] if b >= 0.0 else 0.0
        for k in range(count):
            to_sh[i, k, 0], to_sh[i, k, 1] = harmonics[k] * r, harmonics[k] * g
            to_sh[i, k, 2] = harmonics[k] * b
            weights[k] = sh[i, k, 0] * r + sh[i, k, 1] * g + sh[i, k, 2] * b
        gx, gy, gz = basis_gradient(weights, degree, x, y, z)
        along = gx * x + gy * y + gz * z
        to_means[i, 0] += (gx - along * x) * scale
        to_means[i, 1] += (gy - along * y) * scale
        to_means[i, 2] += (gz - along * z) * scale


@kernel(f"void(int64, int64, {FIELDS}, float64[::1], int32[::1], {SPLATS}, {FIELDS})")
def project_backward(
    worker, workers, means, covariances, opacities, sh, cam, shown, d_centres, d_conics, d_depths,
    d_alphas, d_colours,
    to_means, to_covariances, to_opacities, to_sh,
):  # fmt: skip
    """Gradients over the Gaussians of those over their splats; each Gaussian shows at most once, so
    no two threads meet.
    """
    raw, up = np.zeros(11 * LANES, np.float32), np.zeros(7 * LANES, np.float32)
    out = np.empty(10 * LANES)
    harmonics, weights = np.empty(16), np.empty(16)
    for block in range(worker * BLOCK, len(shown), workers * BLOCK):
        for first in range(block, min(block + BLOCK, len(shown)), LANES):
            batch = shown[first : min(first + LANES, block + BLOCK)]
            load(means, covariances, opacities, batch, 0, len(batch), raw)
            _load_gradients(d_centres, d_conics, d_depths, d_alphas, first, len(batch), up)
            _splat_gradients(raw, up, cam, out)
            _write_gradients(batch, cam, out, to_means, to_covariances, to_opacities)
            _colour_gradients(
                batch, sh, means, cam, harmonics, weights, d_colours, first, to_sh, to_means
            )
