"""Kernels of ``gaussians_cpu``: conditioning 4D Gaussians on time, who is there at a time, and the
gradients.

The arithmetic is float64 inside and float32 outside. Where it matters LANES Gaussians are computed
together, in loops without branches over short rows of one array, which is what compilers turn into
vector instructions.
"""

import inspect
import math

import numba
import numpy as np

from fsm.kernels.compiled import kernel
from fsm.renderers.gaussians.gaussians4d import LEAST_NORM, LEAST_VARIANCE, LONGEST, SHORTEST

BLOCK, LANES = 4096, 64  # Gaussians that a thread takes at a time, and that are computed together
# scales, time scales, left, right
FREE = "float32[:, ::1], float32[::1], float32[:, ::1], float32[:, ::1]"
# means, covariances, opacities, sh (flat)
KEPT = "float32[:, ::1], float32[:, ::1], float32[::1], float32[:, ::1]"


def _part(function):
    """A function for the kernels below; sums may be reordered and fused, NaN and infinity keep
    their meaning.
    """
    loose = {"contract", "reassoc", "nsz", "arcp"}
    return numba.njit(error_model="numpy", fastmath=loose)(inspect.unwrap(function))


@_part
def _row(a, b, c, d, p, q, r, s):
    """Row (a b c d) of the left quaternion's matrix times the matrix of the right quaternion (p q r
    s).
    """
    first, second = a * p + b * s - c * r + d * q, b * p - a * s + c * q + d * r
    return first, second, a * r - b * q + c * p + d * s, d * p - a * q - b * r - c * s


@_part
def _unit(w, x, y, z):
    """Normalised quaternion and one over its length; of a zero one the identity and 0."""
    norm = w * w + x * x + y * y + z * z
    none = norm <= LEAST_NORM  # NaN stays NaN
    scale = 0.0 if none else 1.0 / math.sqrt(norm)
    return (1.0 if none else w * scale), x * scale, y * scale, z * scale, scale


@_part
def _four(raw, row, l):
    """Four numbers that stand below each other."""
    w, x, y, z = (
        raw[row * LANES + l],
        raw[(row + 1) * LANES + l],
        raw[(row + 2) * LANES + l],
        raw[(row + 3) * LANES + l],
    )
    return np.float64(w), np.float64(x), np.float64(y), np.float64(z)


@_part
def _held(scale):
    """Temporal scale within its limits; NaN stays NaN."""
    size = abs(scale)
    size = LONGEST if size > LONGEST else size
    return SHORTEST if size < SHORTEST else size


@_part
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


@_part
def _variances(raw, out):
    """Row 3 of ``_conditioned`` alone."""
    for l in range(LANES):
        s0, s1, s2, s3 = (
            raw[l],
            raw[1 * LANES + l],
            raw[2 * LANES + l],
            _held(np.float64(raw[3 * LANES + l])),
        )
        a, b, c, d, _ = _unit(*_four(raw, 4, l))
        p, q, r, s, _ = _unit(*_four(raw, 8, l))
        t0, t1, t2, t3 = _row(-b, -c, -d, a, p, q, r, s)
        t0, t1, t2, t3 = t0 * s0, t1 * s1, t2 * s2, t3 * s3
        variance = t0 * t0 + t1 * t1 + t2 * t2 + t3 * t3
        out[3 * LANES + l] = LEAST_VARIANCE if variance < LEAST_VARIANCE else variance


@_part
def _minors(xk, xl, yk, yl, zk, zl, tk, tl, scale):
    """What one pair of axes adds to the conditional covariance, as the vector whose square it
    is.
    """
    return (xk * tl - xl * tk) * scale, (yk * tl - yl * tk) * scale, (zk * tl - zl * tk) * scale


@_part
def _conditioned(raw, out):
    """Rows 0 to 2: velocity, 3: variance over time, 4 to 9: covariance given the time, of LANES
    Gaussians.
    """
    for l in range(LANES):
        s0, s1, s2 = (
            np.float64(raw[l]),
            np.float64(raw[1 * LANES + l]),
            np.float64(raw[2 * LANES + l]),
        )
        s3 = _held(np.float64(raw[3 * LANES + l]))
        a, b, c, d, _ = _unit(*_four(raw, 4, l))
        p, q, r, s, _ = _unit(*_four(raw, 8, l))
        x0, x1, x2, x3 = _row(a, -d, c, b, p, q, r, s)
        y0, y1, y2, y3 = _row(d, a, -b, c, p, q, r, s)
        z0, z1, z2, z3 = _row(-c, b, a, d, p, q, r, s)
        t0, t1, t2, t3 = _row(-b, -c, -d, a, p, q, r, s)
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
    raw, out, all_of = (
        np.zeros(12 * LANES, np.float32),
        np.empty(10 * LANES, np.float32),
        np.empty(0, np.int32),
    )
    n = len(scales)
    for block in range(worker * BLOCK, n, workers * BLOCK):
        for first in range(block, min(block + BLOCK, n), LANES):
            count = min(LANES, n - first)
            _load_free(scales, time_scales, left, right, all_of, first, count, raw)
            _conditioned(raw, out)
            for l in range(count):
                i = np.uintp(first + l)
                velocities[i, 0], velocities[i, 1], velocities[i, 2] = (
                    out[l],
                    out[LANES + l],
                    out[2 * LANES + l],
                )
                variances[i] = out[3 * LANES + l]
                for j in range(6):
                    covariances[i, j] = out[(4 + j) * LANES + l]


@_part
def _there(times, variances, time, least, first, count, index, shown):
    """Add those of ``first`` to ``first + count`` to ``index`` whose weight has a logarithm of at
    least ``least``.
    """
    for l in range(count):
        dt = np.float64(np.float32(time) - times[first + l])
        exponent = -0.5 * dt * dt / np.float64(variances[l])
        index[shown] = first + l  # overwritten by the next unless it counts
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


@_part
def _matrices(l, r, left, right):
    """Matrices of multiplying by ``l`` from the left and by the conjugate of ``r`` from the
    right.
    """
    a, b, c, d = l[0], l[1], l[2], l[3]
    left[0, 0], left[0, 1], left[0, 2], left[0, 3] = a, -d, c, b
    left[1, 0], left[1, 1], left[1, 2], left[1, 3] = d, a, -b, c
    left[2, 0], left[2, 1], left[2, 2], left[2, 3] = -c, b, a, d
    left[3, 0], left[3, 1], left[3, 2], left[3, 3] = -b, -c, -d, a
    p, q, r, s = r[0], r[1], r[2], r[3]
    right[0, 0], right[0, 1], right[0, 2], right[0, 3] = p, -s, r, -q
    right[1, 0], right[1, 1], right[1, 2], right[1, 3] = s, p, -q, -r
    right[2, 0], right[2, 1], right[2, 2], right[2, 3] = -r, q, p, -s
    right[3, 0], right[3, 1], right[3, 2], right[3, 3] = q, r, s, p


@_part
def _over_rotation(rotation, s, d_velocity, d_variance, d_covariance, g, gs):
    """Gradients over the 4x4 rotation and the four scales, given those over velocity, variance and
    covariance.
    """
    t = rotation[3]
    variance = 0.0
    for k in range(4):
        variance += t[k] * t[k] * s[k] * s[k]
    clamped = variance < LEAST_VARIANCE
    inverse = 1.0 / (LEAST_VARIANCE if clamped else variance)
    root = math.sqrt(inverse)
    g[:] = 0.0
    gs[:] = 0.0
    g_variance = np.float64(d_variance)
    for x in range(3):
        velocity = 0.0
        for k in range(4):
            velocity += rotation[x, k] * t[k] * s[k] * s[k]
        g_sum = d_velocity[x] * inverse
        g_variance -= g_sum * velocity * inverse
        for k in range(4):
            g[x, k] += g_sum * t[k] * s[k] * s[k]
            g[3, k] += g_sum * rotation[x, k] * s[k] * s[k]
            gs[k] += 2.0 * g_sum * rotation[x, k] * t[k] * s[k]
    c = d_covariance
    xx, xy, xz, yy, yz, zz = c[0], c[1], c[2], c[3], c[4], c[5]
    for k in range(3):
        for l in range(k + 1, 4):
            scale = s[k] * s[l] * root
            m0, m1 = (
                rotation[0, k] * t[l] - rotation[0, l] * t[k],
                rotation[1, k] * t[l] - rotation[1, l] * t[k],
            )
            m2 = rotation[2, k] * t[l] - rotation[2, l] * t[k]
            # Over the minors once the scale is taken out: covariance = Σ scale² m mᵀ.
            n0, n1 = 2.0 * xx * m0 + xy * m1 + xz * m2, xy * m0 + 2.0 * yy * m1 + yz * m2
            n = (n0, n1, xz * m0 + yz * m1 + 2.0 * zz * m2)
            along = n[0] * m0 + n[1] * m1 + n[2] * m2
            gs[k] += along * scale * s[l] * root
            gs[l] += along * scale * s[k] * root
            g_variance -= 0.5 * along * scale * scale * inverse
            for x in range(3):
                over = n[x] * scale * scale
                g[x, k] += over * t[l]
                g[x, l] -= over * t[k]
                g[3, l] += over * rotation[x, k]
                g[3, k] -= over * rotation[x, l]
    if not clamped:
        for k in range(4):
            g[3, k] += 2.0 * g_variance * t[k] * s[k] * s[k]
            gs[k] += 2.0 * g_variance * t[k] * t[k] * s[k]


@_part
def _over_quaternions(g, left, right, h, gl, gr):
    """Gradients over the two unit quaternions, given ``g`` over the product of their matrices;
    ``h`` is room to work in.
    """
    for i in range(4):
        for j in range(4):
            h[i, j] = (
                g[i, 0] * right[j, 0]
                + g[i, 1] * right[j, 1]
                + g[i, 2] * right[j, 2]
                + g[i, 3] * right[j, 3]
            )
    gl[0], gl[1] = h[0, 0] + h[1, 1] + h[2, 2] + h[3, 3], h[0, 3] - h[1, 2] + h[2, 1] - h[3, 0]
    gl[2], gl[3] = h[0, 2] + h[1, 3] - h[2, 0] - h[3, 1], h[1, 0] - h[0, 1] + h[2, 3] - h[3, 2]
    for i in range(4):
        for j in range(4):
            h[i, j] = (
                left[0, i] * g[0, j]
                + left[1, i] * g[1, j]
                + left[2, i] * g[2, j]
                + left[3, i] * g[3, j]
            )
    gr[0], gr[1] = h[0, 0] + h[1, 1] + h[2, 2] + h[3, 3], h[2, 1] + h[3, 0] - h[0, 3] - h[1, 2]
    gr[2], gr[3] = h[0, 2] - h[1, 3] - h[2, 0] + h[3, 1], h[1, 0] - h[0, 1] - h[2, 3] + h[3, 2]


@_part
def _write_quaternion(out, i, q, scale, g):
    """Gradient over a quaternion that was normalised to ``q`` with ``scale``."""
    along = q[0] * g[0] + q[1] * g[1] + q[2] * g[2] + q[3] * g[3]
    for k in range(4):
        out[i, k] = (g[k] - along * q[k]) * scale


@kernel(f"void(int64, int64, {FREE}, float32[:, ::1], float32[::1], float32[:, ::1], {FREE})")
def condition_backward(
    worker, workers, scales, time_scales, left, right, d_velocities, d_variances, d_covariances,
    to_scales, to_time_scales, to_left, to_right,
):  # fmt: skip
    """Gradients over the free parameters of those over what ``condition_all`` writes."""
    s, gs, l, r, gl, gr = (
        np.empty(4),
        np.empty(4),
        np.empty(4),
        np.empty(4),
        np.empty(4),
        np.empty(4),
    )
    lhs, rhs, rotation, g, h = (
        np.empty((4, 4)),
        np.empty((4, 4)),
        np.empty((4, 4)),
        np.empty((4, 4)),
        np.empty((4, 4)),
    )
    for block in range(worker * BLOCK, len(scales), workers * BLOCK):
        for i in range(block, min(block + BLOCK, len(scales))):
            s[0], s[1], s[2], s[3] = (
                scales[i, 0],
                scales[i, 1],
                scales[i, 2],
                _held(np.float64(time_scales[i])),
            )
            l[0], l[1], l[2], l[3], l_scale = _unit(
                np.float64(left[i, 0]),
                np.float64(left[i, 1]),
                np.float64(left[i, 2]),
                np.float64(left[i, 3]),
            )
            r[0], r[1], r[2], r[3], r_scale = _unit(
                np.float64(right[i, 0]),
                np.float64(right[i, 1]),
                np.float64(right[i, 2]),
                np.float64(right[i, 3]),
            )
            _matrices(l, r, lhs, rhs)
            for j in range(4):
                rotation[j, 0], rotation[j, 1], rotation[j, 2], rotation[j, 3] = _row(
                    lhs[j, 0], lhs[j, 1], lhs[j, 2], lhs[j, 3], r[0], r[1], r[2], r[3]
                )
            _over_rotation(rotation, s, d_velocities[i], d_variances[i], d_covariances[i], g, gs)
            _over_quaternions(g, lhs, rhs, h, gl, gr)
            _write_quaternion(to_left, i, l, l_scale, gl)
            _write_quaternion(to_right, i, r, r_scale, gr)
            to_scales[i, 0], to_scales[i, 1], to_scales[i, 2] = gs[0], gs[1], gs[2]
            size = abs(time_scales[i])
            within = (size >= np.float32(SHORTEST)) & (size <= np.float32(LONGEST))
            to_time_scales[i] = (gs[3] if time_scales[i] > 0.0 else -gs[3]) if within else 0.0
