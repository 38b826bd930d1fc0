"""Kernels of ``projection_cpu``: which Gaussians show, their splats, and the gradients.

The arithmetic is float64 inside and float32 outside. LANES Gaussians are projected together, in
loops without branches over short rows of one array each, which is what compilers turn into vector
instructions.
"""

import inspect
import math

import numba
import numpy as np

from fsm.kernels.compiled import kernel
from fsm.renderers.gaussians.projection import LEAST_ALPHA, SLACK
from fsm.renderers.gaussians.spherical_harmonics import SH_C0

BLOCK = 4096  # Gaussians that a thread takes at a time
LANES = 64  # of which so many are projected together
HIDDEN, SHOWN, DROPPED = 0, 1, 2
LOG_LEAST = math.log(LEAST_ALPHA)
# means, covariances, opacities, sh
FIELDS = "float32[:, ::1], float32[:, ::1], float32[::1], float32[:, :, ::1]"
# centres to colours
SPLATS = "float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32[:, ::1]"

# Places in the array that tells about camera and projection; the rotation from world to camera
# stands first, row by row.
CENTRE, INTRINSICS, WINDOW, SIZE, NEAR, FAR, BLUR, CLIP, ANTIALIASED = (
    9,
    12,
    16,
    20,
    22,
    23,
    24,
    25,
    26,
)

C1, C2, C2_Z, C2_X = 0.4886025119029199, 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
C3, C3_XYZ, C3_R, C3_Z, C3_D = (
    0.5900435899266435,
    2.890611442640554,
    0.4570457994644658,
    0.3731763325901154,
    1.445305721320277,
)


def _part(function):
    """A function for the kernels below; sums may be reordered and fused, NaN and infinity keep
    their meaning.
    """
    loose = {"contract", "reassoc", "nsz", "arcp"}
    return numba.njit(error_model="numpy", fastmath=loose)(inspect.unwrap(function))


@_part
def fill_basis(out, degree, x, y, z):
    """Write the (degree + 1)² harmonics at the unit direction (x, y, z) to ``out``."""
    out[0] = SH_C0
    if degree >= 1:
        out[1], out[2], out[3] = -C1 * y, C1 * z, -C1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out[4], out[5], out[7] = C2 * x * y, -C2 * y * z, -C2 * x * z
        out[6] = C2_Z * (2.0 * zz - xx - yy)
        out[8] = C2_X * (xx - yy)
        if degree >= 3:
            out[9] = -C3 * y * (3.0 * xx - yy)
            out[10] = C3_XYZ * x * y * z
            out[11] = -C3_R * y * (4.0 * zz - xx - yy)
            out[12] = C3_Z * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
            out[13] = -C3_R * x * (4.0 * zz - xx - yy)
            out[14] = C3_D * z * (xx - yy)
            out[15] = -C3 * x * (xx - 3.0 * yy)


@_part
def basis_gradient(w, degree, x, y, z):
    """Gradient of Σ w Y over (x, y, z), taken as free variables of the polynomials."""
    gx = gy = gz = 0.0
    if degree >= 1:
        gx, gy, gz = -C1 * w[3], -C1 * w[1], C1 * w[2]
    if degree >= 2:
        gx += C2 * (y * w[4] - z * w[7]) - 2.0 * C2_Z * x * w[6] + 2.0 * C2_X * x * w[8]
        gy += C2 * (x * w[4] - z * w[5]) - 2.0 * C2_Z * y * w[6] - 2.0 * C2_X * y * w[8]
        gz += 4.0 * C2_Z * z * w[6] - C2 * (y * w[5] + x * w[7])
        if degree >= 3:
            xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
            gx += C3 * (-6.0 * xy * w[9] - 3.0 * (xx - yy) * w[15]) + C3_XYZ * yz * w[10]
            gx += (
                C3_R * (2.0 * xy * w[11] - (4.0 * zz - 3.0 * xx - yy) * w[13])
                - 6.0 * C3_Z * xz * w[12]
            )
            gx += 2.0 * C3_D * xz * w[14]
            gy += C3 * (6.0 * xy * w[15] - 3.0 * (xx - yy) * w[9]) + C3_XYZ * xz * w[10]
            gy += (
                C3_R * (2.0 * xy * w[13] - (4.0 * zz - xx - 3.0 * yy) * w[11])
                - 6.0 * C3_Z * yz * w[12]
            )
            gy -= 2.0 * C3_D * yz * w[14]
            gz += C3_XYZ * xy * w[10] - 8.0 * C3_R * (yz * w[11] + xz * w[13])
            gz += 3.0 * C3_Z * (2.0 * zz - xx - yy) * w[12] + C3_D * (xx - yy) * w[14]
    return gx, gy, gz


@_part
def _log(a):
    """Logarithm of a float32 in operations that vectorise: exponent, and the series of atanh for
    the mantissa.
    """
    bits = np.float32(a).view(np.int32)
    shift = (bits - np.int32(0x3F3504F3)) & np.int32(-0x800000)  # mantissa from √½ to √2
    m = np.float64(np.int32(bits - shift).view(np.float32))
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return 2.0 * s * series + (shift >> np.int32(23)) * 0.6931471805599453


@_part
def _load(means, covariances, opacities, index, first, count, raw):
    """Fields of Gaussians ``index[first : first + count]`` (or, without index, of those
    themselves), one field a row.
    """
    for l in range(count):
        i = np.uintp(index[first + l]) if len(index) else np.uintp(first + l)
        raw[l], raw[LANES + l], raw[2 * LANES + l] = means[i, 0], means[i, 1], means[i, 2]
        for j in range(6):
            raw[(3 + j) * LANES + l] = covariances[i, j]
        raw[9 * LANES + l] = opacities[i]


@_part
def _add_up(sh, first, count, raw):
    """Sum of the harmonics' magnitudes over a large number: not finite exactly where one of them is
    not.
    """
    for l in range(count):
        total = np.float32(0.0)
        for k in range(sh.shape[1]):
            for c in range(3):
                total += abs(sh[first + l, k, c]) * np.float32(2.0**-8)
        raw[10 * LANES + l] = total


@_part
def _splats(raw, cam, out):
    """LANES splats from their fields. A loop without branches over short rows, which is what
    compilers turn into vectors.
    """
    ox, oy, oz = cam[CENTRE], cam[CENTRE + 1], cam[CENTRE + 2]
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = (
        cam[0],
        cam[1],
        cam[2],
        cam[3],
        cam[4],
        cam[5],
        cam[6],
        cam[7],
        cam[8],
    )
    kx, ky, cx, cy = cam[INTRINSICS], cam[INTRINSICS + 1], cam[INTRINSICS + 2], cam[INTRINSICS + 3]
    low_x, high_x, low_y, high_y = cam[WINDOW], cam[WINDOW + 1], cam[WINDOW + 2], cam[WINDOW + 3]
    width, height, near, far = cam[SIZE], cam[SIZE + 1], cam[NEAR], cam[FAR]
    blur, clip, antialiased = cam[BLUR], cam[CLIP], cam[ANTIALIASED]
    for l in range(LANES):
        dx, dy, dz = raw[l] - ox, raw[1 * LANES + l] - oy, raw[2 * LANES + l] - oz
        x, y, z = (
            r0 * dx + r1 * dy + r2 * dz,
            r3 * dx + r4 * dy + r5 * dz,
            r6 * dx + r7 * dy + r8 * dz,
        )
        a, b, c, d, e, f = (
            np.float64(raw[3 * LANES + l]), np.float64(raw[4 * LANES + l]),
            np.float64(raw[5 * LANES + l]),
            np.float64(raw[6 * LANES + l]), np.float64(raw[7 * LANES + l]),
            np.float64(raw[8 * LANES + l]),
        )  # fmt: skip
        near_one = 1.0 / z
        px, py = x * near_one, y * near_one
        tx, ty = min(max(px, low_x), high_x), min(max(py, low_y), high_y)
        fx, fy = kx * near_one, ky * near_one
        u0, u1, u2 = (r0 - tx * r6) * fx, (r1 - tx * r7) * fx, (r2 - tx * r8) * fx
        v0, v1, v2 = (r3 - ty * r6) * fy, (r4 - ty * r7) * fy, (r5 - ty * r8) * fy
        s0, s1, s2 = a * u0 + b * u1 + c * u2, b * u0 + d * u1 + e * u2, c * u0 + e * u1 + f * u2
        xx, xy = u0 * s0 + u1 * s1 + u2 * s2, v0 * s0 + v1 * s1 + v2 * s2
        s0, s1, s2 = a * v0 + b * v1 + c * v2, b * v0 + d * v1 + e * v2, c * v0 + e * v1 + f * v2
        yy = v0 * s0 + v1 * s1 + v2 * s2
        plain = max(xx * yy - xy * xy, 0.0)
        determinant = plain + blur * (xx + yy + blur)
        xx, yy = xx + blur, yy + blur
        inverse = 1.0 / determinant
        dimming = math.sqrt(max(plain * inverse, 1e-12)) if antialiased != 0.0 else 1.0
        alpha = np.float32(raw[9 * LANES + l] * dimming)
        seen = alpha >= np.float32(LEAST_ALPHA)
        reach = 2.0 * _log(alpha) - 2.0 * LOG_LEAST + SLACK if seen else 0.0
        px, py = np.float32(px * kx + cx), np.float32(py * ky + cy)
        rx, ry = np.float32(math.sqrt(reach * xx)), np.float32(math.sqrt(reach * yy))
        nothing = (px + py + rx + ry) * np.float32(0.0)  # 0, or NaN where one of them is not finite
        # The sum is finite unless a value is not: float32 cannot overflow float64.
        total = x + y + z + a + b + c + d + e + f + raw[9 * LANES + l] + raw[10 * LANES + l]
        usable = (total * 0.0 == 0.0) & (a >= 0.0) & (d >= 0.0) & (f >= 0.0)
        ahead = (z >= near) & (z <= far)
        sound = (determinant > 0.0) & (nothing == 0.0)
        inside = (px + rx > 0.0) & (py + ry > 0.0) & (px - rx < width) & (py - ry < height)
        shown = inside & (rx > 0.0) & (ry > 0.0) & (max(rx, ry) > clip)
        state = (SHOWN if shown else HIDDEN) if sound else DROPPED
        state = (state if ahead else HIDDEN) if usable else DROPPED
        out[l], out[1 * LANES + l], out[2 * LANES + l], out[3 * LANES + l] = px, py, rx, ry
        out[4 * LANES + l], out[5 * LANES + l], out[6 * LANES + l] = (
            yy * inverse,
            -xy * inverse,
            xx * inverse,
        )
        out[7 * LANES + l], out[8 * LANES + l], out[9 * LANES + l] = z, alpha, state


@_part
def _find_block(means, covariances, opacities, sh, cam, index, first, last, raw, out):
    """Indices of what is drawn among [first, last), packed from ``first`` on; how many, and how
    many are no Gaussians.
    """
    shown, dropped, all_of = first, 0, index[:0]
    for start in range(first, last, LANES):
        count = min(LANES, last - start)
        _load(means, covariances, opacities, all_of, start, count, raw)
        _add_up(sh, start, count, raw)
        _splats(raw, cam, out)
        for l in range(count):
            state = out[9 * LANES + l]
            index[shown] = start + l  # overwritten by the next unless it counts
            shown += state == SHOWN
            dropped += state == DROPPED
    return shown - first, dropped


@kernel(f"void(int64, int64, {FIELDS}, float64[::1], int32[::1], int64[:, ::1])")
def find_what_shows(worker, workers, means, covariances, opacities, sh, cam, index, counts):
    """Fill ``index`` and ``counts`` [blocks 2] for every block of BLOCK Gaussians."""
    raw, out = np.zeros(11 * LANES, np.float32), np.empty(10 * LANES, np.float32)
    for block in range(worker, len(counts), workers):
        first, last = block * BLOCK, min(block * BLOCK + BLOCK, len(means))
        found = _find_block(means, covariances, opacities, sh, cam, index, first, last, raw, out)
        counts[block, 0], counts[block, 1] = found


@_part
def _write_block(index, start, raw, out, shown, centres, conics, depths, alphas, radii):
    """Splats of one batch, from ``start`` on."""
    for l in range(len(index)):
        o = np.uintp(start + l)
        shown[o] = index[l]
        centres[o, 0], centres[o, 1] = out[l], out[LANES + l]
        radii[o, 0], radii[o, 1] = out[2 * LANES + l], out[3 * LANES + l]
        conics[o, 0], conics[o, 1], conics[o, 2] = (
            out[4 * LANES + l],
            out[5 * LANES + l],
            out[6 * LANES + l],
        )
        depths[o], alphas[o] = out[7 * LANES + l], out[8 * LANES + l]


@_part
def _direction(means, i, cam):
    """Unit vector from the camera to a centre, and one over the distance."""
    x, y, z = (
        means[i, 0] - cam[CENTRE],
        means[i, 1] - cam[CENTRE + 1],
        means[i, 2] - cam[CENTRE + 2],
    )
    scale = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x * scale, y * scale, z * scale, scale


@_part
def _colours(sh, batch, means, cam, harmonics, colours, start):
    """sRGB seen from the camera, of one batch."""
    degree = int(math.sqrt(sh.shape[1])) - 1
    for l in range(len(batch)):
        i, o = np.uintp(batch[l]), np.uintp(start + l)
        if degree == 0:
            for c in range(3):
                colours[o, c] = max(
                    np.float32(0.5) + np.float32(SH_C0) * sh[i, 0, c], np.float32(0.0)
                )
            continue
        x, y, z, _ = _direction(means, i, cam)
        fill_basis(harmonics, degree, x, y, z)
        r = g = b = 0.5
        for k in range(sh.shape[1]):
            r += harmonics[k] * sh[i, k, 0]
            g += harmonics[k] * sh[i, k, 1]
            b += harmonics[k] * sh[i, k, 2]
        colours[o, 0], colours[o, 1], colours[o, 2] = max(r, 0.0), max(g, 0.0), max(b, 0.0)


@kernel(
    f"void(int64, int64, {FIELDS}, float64[::1], int32[::1], int64[:, ::1], int64[::1], "
    f"int32[::1], {SPLATS}, float32[:, ::1])"
)
def write_splats(
    worker, workers, means, covariances, opacities, sh, cam, index, counts, ends,
    shown, centres, conics, depths, alphas, colours, radii,
):  # fmt: skip
    """Splats of all blocks, one block after the other."""
    raw, out, harmonics = (
        np.zeros(11 * LANES, np.float32),
        np.empty(11 * LANES, np.float32),
        np.empty(16),
    )
    for block in range(worker, len(counts), workers):
        there = index[block * BLOCK : block * BLOCK + counts[block, 0]]
        start = ends[block] - counts[block, 0]
        for first in range(0, len(there), LANES):
            batch = there[first : first + LANES]
            _load(means, covariances, opacities, batch, 0, len(batch), raw)
            _splats(raw, cam, out)
            _write_block(
                batch, start + first, raw, out, shown, centres, conics, depths, alphas, radii
            )
            _colours(sh, batch, means, cam, harmonics, colours, start + first)


@_part
def _splat_gradients(raw, up, cam, out):
    """Gradients over centre (camera axes), covariance and opacity of LANES Gaussians, in rows as
    they were read.
    """
    ox, oy, oz = cam[CENTRE], cam[CENTRE + 1], cam[CENTRE + 2]
    r0, r1, r2, r3, r4, r5, r6, r7, r8 = (
        cam[0],
        cam[1],
        cam[2],
        cam[3],
        cam[4],
        cam[5],
        cam[6],
        cam[7],
        cam[8],
    )
    kx, ky, blur, antialiased = cam[INTRINSICS], cam[INTRINSICS + 1], cam[BLUR], cam[ANTIALIASED]
    low_x, high_x, low_y, high_y = cam[WINDOW], cam[WINDOW + 1], cam[WINDOW + 2], cam[WINDOW + 3]
    for l in range(LANES):
        dx, dy, dz = raw[l] - ox, raw[1 * LANES + l] - oy, raw[2 * LANES + l] - oz
        x, y, z = (
            r0 * dx + r1 * dy + r2 * dz,
            r3 * dx + r4 * dy + r5 * dz,
            r6 * dx + r7 * dy + r8 * dz,
        )
        a, b, c, d, e, f = (
            np.float64(raw[3 * LANES + l]), np.float64(raw[4 * LANES + l]),
            np.float64(raw[5 * LANES + l]),
            np.float64(raw[6 * LANES + l]), np.float64(raw[7 * LANES + l]),
            np.float64(raw[8 * LANES + l]),
        )  # fmt: skip
        near_one = 1.0 / z
        px, py = x * near_one, y * near_one
        tx, ty = min(max(px, low_x), high_x), min(max(py, low_y), high_y)
        fx, fy = kx * near_one, ky * near_one
        u0, u1, u2 = (r0 - tx * r6) * fx, (r1 - tx * r7) * fx, (r2 - tx * r8) * fx
        v0, v1, v2 = (r3 - ty * r6) * fy, (r4 - ty * r7) * fy, (r5 - ty * r8) * fy
        s0, s1, s2 = a * u0 + b * u1 + c * u2, b * u0 + d * u1 + e * u2, c * u0 + e * u1 + f * u2
        t0, t1, t2 = a * v0 + b * v1 + c * v2, b * v0 + d * v1 + e * v2, c * v0 + e * v1 + f * v2
        xx, xy, yy = (
            u0 * s0 + u1 * s1 + u2 * s2,
            v0 * s0 + v1 * s1 + v2 * s2,
            v0 * t0 + v1 * t1 + v2 * t2,
        )
        plain = max(xx * yy - xy * xy, 0.0)
        inverse = 1.0 / (plain + blur * (xx + yy + blur))
        # The conic is (yy + blur, -xy, xx + blur) / determinant.
        c0, c1, c2 = (
            up[2 * LANES + l] * inverse,
            up[3 * LANES + l] * inverse,
            up[4 * LANES + l] * inverse,
        )
        g_determinant = -inverse * (c0 * (yy + blur) - c1 * xy + c2 * (xx + blur))
        share, g_alpha = plain * inverse, np.float64(up[6 * LANES + l])
        dimming = math.sqrt(max(share, 1e-12)) if antialiased != 0.0 else 1.0
        bends = (antialiased != 0.0) & (share >= 1e-12)
        g_share = g_alpha * raw[9 * LANES + l] * 0.5 / dimming * inverse if bends else 0.0
        g_determinant -= g_share * share
        g_plain = g_determinant + g_share if xx * yy - xy * xy >= 0.0 else 0.0
        g_xx, g_yy = (
            c2 + g_plain * yy + g_determinant * blur,
            c0 + g_plain * xx + g_determinant * blur,
        )
        g_xy = -c1 - 2.0 * g_plain * xy
        p0, p1, p2 = (
            2.0 * g_xx * s0 + g_xy * t0,
            2.0 * g_xx * s1 + g_xy * t1,
            2.0 * g_xx * s2 + g_xy * t2,
        )
        q0, q1, q2 = (
            g_xy * s0 + 2.0 * g_yy * t0,
            g_xy * s1 + 2.0 * g_yy * t1,
            g_xy * s2 + 2.0 * g_yy * t2,
        )
        g_tx = -fx * (p0 * r6 + p1 * r7 + p2 * r8) if (px >= low_x) & (px <= high_x) else 0.0
        g_ty = -fy * (q0 * r6 + q1 * r7 + q2 * r8) if (py >= low_y) & (py <= high_y) else 0.0
        g_px, g_py = g_tx + kx * up[l], g_ty + ky * up[1 * LANES + l]
        g_z = p0 * u0 + p1 * u1 + p2 * u2 + q0 * v0 + q1 * v1 + q2 * v2 + g_px * px + g_py * py
        out[l], out[1 * LANES + l], out[2 * LANES + l] = (
            g_px * near_one, g_py * near_one, up[5 * LANES + l] - g_z * near_one
        )  # fmt: skip
        out[3 * LANES + l] = g_xx * u0 * u0 + g_xy * u0 * v0 + g_yy * v0 * v0
        out[4 * LANES + l] = 2.0 * (g_xx * u0 * u1 + g_yy * v0 * v1) + g_xy * (u0 * v1 + u1 * v0)
        out[5 * LANES + l] = 2.0 * (g_xx * u0 * u2 + g_yy * v0 * v2) + g_xy * (u0 * v2 + u2 * v0)
        out[6 * LANES + l] = g_xx * u1 * u1 + g_xy * u1 * v1 + g_yy * v1 * v1
        out[7 * LANES + l] = 2.0 * (g_xx * u1 * u2 + g_yy * v1 * v2) + g_xy * (u1 * v2 + u2 * v1)
        out[8 * LANES + l], out[9 * LANES + l] = (
            g_xx * u2 * u2 + g_xy * u2 * v2 + g_yy * v2 * v2,
            g_alpha * dimming,
        )


@_part
def _load_gradients(d_centres, d_conics, d_depths, d_alphas, first, count, up):
    """Gradients over splats ``first`` to ``first + count``, one field a row."""
    for l in range(count):
        o = np.uintp(first + l)
        up[l], up[LANES + l], up[5 * LANES + l], up[6 * LANES + l] = (
            d_centres[o, 0],
            d_centres[o, 1],
            d_depths[o],
            d_alphas[o],
        )
        up[2 * LANES + l], up[3 * LANES + l], up[4 * LANES + l] = (
            d_conics[o, 0],
            d_conics[o, 1],
            d_conics[o, 2],
        )


@_part
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


@kernel(f"void(int64, int64, {FIELDS}, float64[::1], int32[::1], {SPLATS}, {FIELDS})")
def project_backward(
    worker, workers, means, covariances, opacities, sh, cam, shown, d_centres, d_conics, d_depths,
    d_alphas, d_colours,
    to_means, to_covariances, to_opacities, to_sh,
):  # fmt: skip
    """Gradients over the Gaussians of those over their splats; each Gaussian shows at most once, so
    no two threads meet.
    """
    raw, up, out = (
        np.zeros(11 * LANES, np.float32),
        np.zeros(7 * LANES, np.float32),
        np.empty(10 * LANES),
    )
    harmonics, weights = np.empty(16), np.empty(16)
    for block in range(worker * BLOCK, len(shown), workers * BLOCK):
        for first in range(block, min(block + BLOCK, len(shown)), LANES):
            batch = shown[first : min(first + LANES, block + BLOCK)]
            _load(means, covariances, opacities, batch, 0, len(batch), raw)
            _load_gradients(d_centres, d_conics, d_depths, d_alphas, first, len(batch), up)
            _splat_gradients(raw, up, cam, out)
            _write_gradients(batch, cam, out, to_means, to_covariances, to_opacities)
            _colour_gradients(
                batch, sh, means, cam, harmonics, weights, d_colours, first, to_sh, to_means
            )


@_part
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
        x, y, z, scale = _direction(means, i, cam)
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
            to_sh[i, k, 0], to_sh[i, k, 1], to_sh[i, k, 2] = (
                harmonics[k] * r,
                harmonics[k] * g,
                harmonics[k] * b,
            )
            weights[k] = sh[i, k, 0] * r + sh[i, k, 1] * g + sh[i, k, 2] * b
        gx, gy, gz = basis_gradient(weights, degree, x, y, z)
        along = gx * x + gy * y + gz * z
        to_means[i, 0] += (gx - along * x) * scale
        to_means[i, 1] += (gy - along * y) * scale
        to_means[i, 2] += (gz - along * z) * scale
