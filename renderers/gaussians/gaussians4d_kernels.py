"""Kernels of ``gaussians4d_cpu``: conditioning 4D Gaussians on time, and who is there at a time.

The arithmetic is float64 inside and float32 outside. Where it matters LANES Gaussians are computed
together, in loops without branches over short rows of one array, which is what compilers turn into
vector instructions.
"""

import math

import numpy as np

from fsm.kernels.compiled import kernel, loose_part
from fsm.renderers.gaussians.constants import LEAST_NORM, LEAST_VARIANCE, LONGEST, SHORTEST

# Gaussians that a thread takes at a time
BLOCK = 4096
# of which so many are computed together
LANES = 64
# scales, time scales, left, right
FREE = "float32[:, ::1], float32[::1], float32[:, ::1], float32[:, ::1]"
# means, covariances, opacities, sh (flat)
KEPT = "float32[:, ::1], float32[:, ::1], float32[::1], float32[:, ::1]"


@loose_part
def row(a, b, c, d, p, q, r, s):
    """Row (a b c d) of the left quaternion's matrix times the matrix of the right quaternion (p q r
    s).
    """
    first, second = a * p + b * s - c * r + d * q, b * p - a * s + c * q + d * r
    return first, second, a * r - b * q + c * p + d * s, d * p - a * q - b * r - c * s


@loose_part
def unit(w, x, y, z):
    """Normalised quaternion and one over its length; of a zero one the identity and 0."""
    norm = w * w + x * x + y * y + z * z
    # NaN stays NaN
    none = norm <= LEAST_NORM
    scale = 0.0 if none else 1.0 / math.sqrt(norm)
    return (1.0 if none else w * scale), x * scale, y * scale, z * scale, scale


@loose_part
def _four(raw, row, l):
    """Four numbers that stand below each other."""
    w, x = np.float64(raw[row * LANES + l]), np.float64(raw[(row + 1) * LANES + l])
    y, z = np.float64(raw[(row + 2) * LANES + l]), np.float64(raw[(row + 3) * LANES + l])
    return w, x, y, z


@loose_part
def held(scale):
    """Temporal scale within its limits; NaN stays NaN."""
    size = abs(scale)
    size = LONGEST if size > LONGEST else size
    return SHORTEST if size < SHORTEST else size


@loose_part
def _load_free(scales, time_scales, left, right, index, first, count, raw):
    """Free parameters of Gaussians ``index[first : first + count]`` (or, without index, of those
    themselves) as rows.
    """
    for l in range(count):
        i = np.uintp(index[first + l]) if len(index) else np.uintp(first + l)
        raw[l], raw[LANES + l], raw[2 * LANES + l] = scales[i, 0], scales[i, 1], scales[i, 2]
        raw[3 * LANES + l] = time_scales[i]
        for j in range(4):
            raw[(4 + j) * LANES + l], raw[(8 + j) * LANES + l] = left[i, j], right[i, j]


@loose_part
def _variances(raw, out):
    """Row 3 of ``_conditioned`` alone."""
    for l in range(LANES):
        s0, s1, s2 = raw[l], raw[1 * LANES + l], raw[2 * LANES + l]
        s3 = held(np.float64(raw[3 * LANES + l]))
        a, b, c, d, _ = unit(*_four(raw, 4, l))
        p, q, r, s, _ = unit(*_four(raw, 8, l))
        t0, t1, t2, t3 = row(-b, -c, -d, a, p, q, r, s)
        t0, t1, t2, t3 = t0 * s0, t1 * s1, t2 * s2, t3 * s3
        variance = t0 * t0 + t1 * t1 + t2 * t2 + t3 * t3
        out[3 * LANES + l] = LEAST_VARIANCE if variance < LEAST_VARIANCE else variance


@loose_part
def _minors(xk, xl, yk, yl, zk, zl, tk, tl, scale):
    """What one pair of axes adds to the conditional covariance, as the vector whose square it
    is.
    """
    return (xk * tl - xl * tk) * scale, (yk * tl - yl * tk) * scale, (zk * tl - zl * tk) * scale


@loose_part
def _conditioned(raw, out):
    """Rows 0 to 2: velocity, 3: variance over time, 4 to 9: covariance given the time, of LANES
    Gaussians.
    """
    for l in range(LANES):
        s0, s1 = np.float64(raw[l]), np.float64(raw[1 * LANES + l])
        s2 = np.float64(raw[2 * LANES + l])
        s3 = held(np.float64(raw[3 * LANES + l]))
        a, b, c, d, _ = unit(*_four(raw, 4, l))
        p, q, r, s, _ = unit(*_four(raw, 8, l))
        x0, x1, x2, x3 = row(a, -d, c, b, p, q, r, s)
        y0, y1, y2, y3 = row(d, a, -b, c, p, q, r, s)
        z0, z1, z2, z3 = row(-c, b, a, d, p, q, r, s)
        t0, t1, t2, t3 = row(-b, -c, -d, a, p, q, r, s)
        q0, q1, q2, q3 = t0 * s0 * s0, t1 * s1 * s1, t2 * s2 * s2, t3 * s3 * s3
        variance = t0 * q0 + t1 * q1 + t2 * q2 + t3 * q3
        variance = LEAST_VARIANCE if variance < LEAST_VARIANCE else variance
        inverse = 1.0 / variance
        root = math.sqrt(inverse)
        a0, a1, a2 = _minors(x0, x1, y0, y1, z0, z1, t0, t1, s0 * s1 * root)
        b0, b1, b2 = _minors(x0, x2, y0, y2, z0, z2, t0, t2, s0 * s2 * root)
        c0, c1, c2 = _minors(x0, x3, y0, y3, z0, z3, t0, t3, s0 * s3 * root)
        d0, d1, d2 = _minors(x1, x2, y1, y2, z1, z2, t1, t2, s1 * s2 * root)
        e0, e1, e2 = _minors(x1, x3, y1, y3, z1, z3, t1, t3, s1 * s3 * root)
        f0, f1, f2 = _minors(x2, x3, y2, y3, z2, z3, t2, t3, s2 * s3 * root)
        out[l] = (x0 * q0 + x1 * q1 + x2 * q2 + x3 * q3) * inverse
        out[1 * LANES + l] = (y0 * q0 + y1 * q1 + y2 * q2 + y3 * q3) * inverse
        out[2 * LANES + l] = (z0 * q0 + z1 * q1 + z2 * q2 + z3 * q3) * inverse
        out[3 * LANES + l] = variance
        out[4 * LANES + l] = a0 * a0 + b0 * b0 + c0 * c0 + d0 * d0 + e0 * e0 + f0 * f0
        out[5 * LANES + l] = a0 * a1 + b0 * b1 + c0 * c1 + d0 * d1 + e0 * e1 + f0 * f1
        out[6 * LANES + l] = a0 * a2 + b0 * b2 + c0 * c2 + d0 * d2 + e0 * e2 + f0 * f2
        out[7 * LANES + l] = a1 * a1 + b1 * b1 + c1 * c1 + d1 * d1 + e1 * e1 + f1 * f1
        out[8 * LANES + l] = a1 * a2 + b1 * b2 + c1 * c2 + d1 * d2 + e1 * e2 + f1 * f2
        out[9 * LANES + l] = a2 * a2 + b2 * b2 + c2 * c2 + d2 * d2 + e2 * e2 + f2 * f2


@kernel(f"void(int64, int64, {FREE}, float32[:, ::1], float32[::1], float32[:, ::1])")
def condition_all(
    worker, workers, scales, time_scales, left, right, velocities, variances, covariances
):
    """Velocity, variance over time and covariance of every Gaussian."""
    raw, out = np.zeros(12 * LANES, np.float32), np.empty(10 * LANES, np.float32)
    all_of = np.empty(0, np.int32)
    n = len(scales)
    for block in range(worker * BLOCK, n, workers * BLOCK):
        for first in range(block, min(block + BLOCK, n), LANES):
            count = min(LANES, n - first)
            _load_free(scales, time_scales, left, right, all_of, first, count, raw)
            _conditioned(raw, out)
            for l in range(count):
                i = np.uintp(first + l)
                for j in range(3):
                    velocities[i, j] = out[j * LANES + l]
                variances[i] = out[3 * LANES + l]
                for j in range(6):
                    covariances[i, j] = out[(4 + j) * LANES + l]


@loose_part
def _there(times, variances, time, least, first, count, index, shown):
    """Add those of ``first`` to ``first + count`` to ``index`` whose weight has a logarithm of at
    least ``least``.
    """
    for l in range(count):
        dt = np.float64(np.float32(time) - times[first + l])
        exponent = -0.5 * dt * dt / np.float64(variances[l])
        # overwritten by the next unless it counts
        index[shown] = first + l
        shown += (exponent >= least) | (least != least)
    return shown


@kernel("void(int64, int64, float32[::1], float32[::1], float64, float64, int32[::1], int64[::1])")
def find_moving(worker, workers, times, variances, time, least, index, counts):
    """Indices of those there, packed at the start of every block, and how many."""
    for block in range(worker, len(counts), workers):
        first = block * BLOCK
        count = min(BLOCK, len(times) - first)
        counts[block] = (
            _there(times, variances[first:], time, least, first, count, index, first) - first
        )


@kernel(f"void(int64, int64, {FREE}, float32[::1], float64, float64, int32[::1], int64[::1])")
def find_free(worker, workers, scales, time_scales, left, right, times, time, least, index, counts):
    """The same for Gaussians not conditioned yet."""
    raw, out = np.zeros(12 * LANES, np.float32), np.empty(10 * LANES, np.float32)
    all_of = index[:0]
    for block in range(worker, len(counts), workers):
        shown = block * BLOCK
        for first in range(shown, min(shown + BLOCK, len(times)), LANES):
            count = min(LANES, len(times) - first)
            _load_free(scales, time_scales, left, right, all_of, first, count, raw)
            _variances(raw, out)
            shown = _there(times, out[3 * LANES :], time, least, first, count, index, shown)
        counts[block] = shown - block * BLOCK


@kernel(
    f"void(int64, int64, {KEPT}, float32[:, ::1], float32[::1], float32[::1], float64, "
    f"int32[::1], int64[::1], int64[::1], {KEPT})"
)
def write_moving(
    worker, workers, means, covariances, opacities, sh, velocities, times, variances, time, index,
    counts, ends,
    to_means, to_covariances, to_opacities, to_sh,
):  # fmt: skip
    """Those there at ``time``, one block after the other."""
    for block in range(worker, len(counts), workers):
        start = ends[block] - counts[block]
        for k in range(counts[block]):
            i, o = np.uintp(index[block * BLOCK + k]), np.uintp(start + k)
            dt = np.float32(time) - times[i]
            for j in range(3):
                to_means[o, j] = means[i, j] + velocities[i, j] * dt
            for j in range(6):
                to_covariances[o, j] = covariances[i, j]
            to_opacities[o] = opacities[i] * math.exp(
                -0.5 * np.float64(dt) * np.float64(dt) / np.float64(variances[i])
            )
            for j in range(sh.shape[1]):
                to_sh[o, j] = sh[i, j]


@kernel(
    f"void(int64, int64, {FREE}, float32[::1], float64, float32[:, ::1], float32[::1], "
    "float32[:, ::1],"
    f" int32[::1], int64[::1], int64[::1], {KEPT})"
)
def write_free(
    worker, workers, scales, time_scales, left, right, times, time, means, opacities, sh, index,
    counts, ends,
    to_means, to_covariances, to_opacities, to_sh,
):  # fmt: skip
    """The same for Gaussians not conditioned yet."""
    raw, out = np.zeros(12 * LANES, np.float32), np.empty(10 * LANES, np.float32)
    for block in range(worker, len(counts), workers):
        there = index[block * BLOCK : block * BLOCK + counts[block]]
        for first in range(0, len(there), LANES):
            count = min(LANES, len(there) - first)
            _load_free(scales, time_scales, left, right, there, first, count, raw)
            _conditioned(raw, out)
            for l in range(count):
                i, o = np.uintp(there[first + l]), np.uintp(ends[block] - counts[block] + first + l)
                dt = np.float32(time) - times[i]
                for j in range(3):
                    to_means[o, j] = means[i, j] + out[j * LANES + l] * dt
                for j in range(6):
                    to_covariances[o, j] = out[(4 + j) * LANES + l]
                variance = np.float64(out[3 * LANES + l])
                to_opacities[o] = opacities[i] * math.exp(
                    -0.5 * np.float64(dt) * np.float64(dt) / variance
                )
                for j in range(sh.shape[1]):
                    to_sh[o, j] = sh[i, j]
