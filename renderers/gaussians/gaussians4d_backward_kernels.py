"""Kernel of ``gaussians4d_cpu``: gradients of conditioning. The arithmetic is float64 inside."""

import math

import numpy as np

from fsm.kernels.compiled import kernel, loose_part
from fsm.renderers.gaussians.constants import LEAST_VARIANCE, LONGEST, SHORTEST
from fsm.renderers.gaussians.gaussians4d_kernels import BLOCK, FREE, held, row, unit


@loose_part
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


@loose_part
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
            m0 = rotation[0, k] * t[l] - rotation[0, l] * t[k]
            m1 = rotation[1, k] * t[l] - rotation[1, l] * t[k]
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


@loose_part
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


@loose_part
def _quaternion(quats, i):
    """Row ``i`` normalised, and one over its length."""
    w, x = np.float64(quats[i, 0]), np.float64(quats[i, 1])
    y, z = np.float64(quats[i, 2]), np.float64(quats[i, 3])
    return unit(w, x, y, z)


@loose_part
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
    s, gs = np.empty(4), np.empty(4)
    l, r, gl, gr = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    lhs, rhs, rotation = np.empty((4, 4)), np.empty((4, 4)), np.empty((4, 4))
    g, h = np.empty((4, 4)), np.empty((4, 4))
    for block in range(worker * BLOCK, len(scales), workers * BLOCK):
        for i in range(block, min(block + BLOCK, len(scales))):
            s[0], s[1], s[2] = scales[i, 0], scales[i, 1], scales[i, 2]
            s[3] = held(np.float64(time_scales[i]))
            l[0], l[1], l[2], l[3], l_scale = _quaternion(left, i)
            r[0], r[1], r[2], r[3], r_scale = _quaternion(right, i)
            _matrices(l, r, lhs, rhs)
            for j in range(4):
                rotation[j, 0], rotation[j, 1], rotation[j, 2], rotation[j, 3] = row(
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
