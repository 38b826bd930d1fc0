"""Kernels of ``projection_cpu``: which Gaussians show, and their splats.

The arithmetic is float64 inside and float32 outside. LANES Gaussians are projected together, in
loops without branches over short rows of one array each, which is what compilers turn into vector
instructions.
"""

import math

import numpy as np

from fsm.kernels.compiled import kernel, loose_part
from fsm.renderers.gaussians.constants import LEAST_ALPHA, SLACK
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.spherical_harmonics_kernels import fill_basis

# Gaussians that a thread takes at a time
BLOCK = 4096
# of which so many are projected together
LANES = 64
HIDDEN, SHOWN, DROPPED = 0, 1, 2
LOG_LEAST = math.log(LEAST_ALPHA)
# means, covariances, opacities, sh
FIELDS = "float32[:, ::1], float32[:, ::1], float32[::1], float32[:, :, ::1]"
# centres to colours
SPLATS = "float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32[:, ::1]"

# Places in the array that tells about camera and projection; the rotation from world to camera
# stands first, row by row.
CENTRE, INTRINSICS, WINDOW, SIZE = 9, 12, 16, 20
NEAR, FAR, BLUR, CLIP, ANTIALIASED = 22, 23, 24, 25, 26


@loose_part
def _log(a):
    """Logarithm of a float32 in operations that vectorise: exponent, and the series of atanh for
    the mantissa.
    """
    bits = np.float32(a).view(np.int32)
    # mantissa from √½ to √2
    shift = (bits - np.int32(0x3F3504F3)) & np.int32(-0x800000)
    m = np.float64(np.int32(bits - shift).view(np.float32))
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return 2.0 * s * series + (shift >> np.int32(23)) * 0.6931471805599453


@loose_part
def load(means, covariances, opacities, index, first, count, raw):
    """Fields of Gaussians ``index[first : first + count]`` (or, without index, of those
    themselves), one field a row.
    """
    for l in range(count):
        i = np.uintp(index[first + l]) if len(index) else np.uintp(first + l)
        raw[l], raw[LANES + l], raw[2 * LANES + l] = means[i, 0], means[i, 1], means[i, 2]
        for j in range(6):
            raw[(3 + j) * LANES + l] = covariances[i, j]
        raw[9 * LANES + l] = opacities[i]


@loose_part
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


@loose_part
def three(raw, row, l):
    """Three numbers that stand below each other, as float64."""
    first, second = np.float64(raw[row * LANES + l]), np.float64(raw[(row + 1) * LANES + l])
    return first, second, np.float64(raw[(row + 2) * LANES + l])


@loose_part
def _splats(raw, cam, out):
    """LANES splats from their fields. A loop without branches over short rows, which is what
    compilers turn into vectors.
    """
    ox, oy, oz = cam[CENTRE], cam[CENTRE + 1], cam[CENTRE + 2]
    r0, r1, r2 = cam[0], cam[1], cam[2]
    r3, r4, r5 = cam[3], cam[4], cam[5]
    r6, r7, r8 = cam[6], cam[7], cam[8]
    kx, ky, cx, cy = cam[INTRINSICS], cam[INTRINSICS + 1], cam[INTRINSICS + 2], cam[INTRINSICS + 3]
    low_x, high_x, low_y, high_y = cam[WINDOW], cam[WINDOW + 1], cam[WINDOW + 2], cam[WINDOW + 3]
    width, height, near, far = cam[SIZE], cam[SIZE + 1], cam[NEAR], cam[FAR]
    blur, clip, antialiased = cam[BLUR], cam[CLIP], cam[ANTIALIASED]
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
        # 0, or NaN where one of them is not finite
        nothing = (px + py + rx + ry) * np.float32(0.0)
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
        out[4 * LANES + l], out[5 * LANES + l] = yy * inverse, -xy * inverse
        out[6 * LANES + l], out[7 * LANES + l] = xx * inverse, z
        out[8 * LANES + l], out[9 * LANES + l] = alpha, state


@loose_part
def _find_block(means, covariances, opacities, sh, cam, index, first, last, raw, out):
    """Indices of what shows among [first, last), packed from ``first`` on; how many, and how
    many are no Gaussians.
    """
    shown, dropped, all_of = first, 0, index[:0]
    for start in range(first, last, LANES):
        count = min(LANES, last - start)
        load(means, covariances, opacities, all_of, start, count, raw)
        _add_up(sh, start, count, raw)
        _splats(raw, cam, out)
        for l in range(count):
            state = out[9 * LANES + l]
            # overwritten by the next unless it counts
            index[shown] = start + l
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


@loose_part
def _write_block(index, start, raw, out, shown, centres, conics, depths, alphas, radii):
    """Splats of one batch, from ``start`` on."""
    for l in range(len(index)):
        o = np.uintp(start + l)
        shown[o] = index[l]
        centres[o, 0], centres[o, 1] = out[l], out[LANES + l]
        radii[o, 0], radii[o, 1] = out[2 * LANES + l], out[3 * LANES + l]
        conics[o, 0], conics[o, 1] = out[4 * LANES + l], out[5 * LANES + l]
        conics[o, 2] = out[6 * LANES + l]
        depths[o], alphas[o] = out[7 * LANES + l], out[8 * LANES + l]


@loose_part
def direction(means, i, cam):
    """Unit vector from the camera to a centre, and one over the distance."""
    x = means[i, 0] - cam[CENTRE]
    y = means[i, 1] - cam[CENTRE + 1]
    z = means[i, 2] - cam[CENTRE + 2]
    scale = 1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x * scale, y * scale, z * scale, scale


@loose_part
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
        x, y, z, _ = direction(means, i, cam)
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
    raw, out = np.zeros(11 * LANES, np.float32), np.empty(11 * LANES, np.float32)
    harmonics = np.empty(16)
    for block in range(worker, len(counts), workers):
        there = index[block * BLOCK : block * BLOCK + counts[block, 0]]
        start = ends[block] - counts[block, 0]
        for first in range(0, len(there), LANES):
            batch = there[first : first + LANES]
            load(means, covariances, opacities, batch, 0, len(batch), raw)
            _splats(raw, cam, out)
            _write_block(
                batch, start + first, raw, out, shown, centres, conics, depths, alphas, radii
            )
            _colours(sh, batch, means, cam, harmonics, colours, start + first)
