"""Compiled for the processor: parameters to the Gaussians of one moment, their gradients, Adam's
step, and structural similarity.

Columns are those of ``FreeGaussians.packed``. All threads take equal parts of the rows; no two
write to the same place.
"""

import math

import numpy as np

from fsm.kernels.compiled import kernel, part

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-15
SH = 16  # first column of the spherical harmonics
MOVING = 8  # columns before are centre, velocity, time and duration
ROWS = "float32[:, ::1]"


@part
def _share(worker, workers, n):
    return worker * n // workers, (worker + 1) * n // workers


@part
def _axes(row, axes):
    """Write the rotation, squared scales and unit quaternion of a row; the quaternion's length."""
    w, x, y, z = row[11], row[12], row[13], row[14]
    length = max(math.sqrt(w * w + x * x + y * y + z * z), 1e-12)
    w, x, y, z = w / length, x / length, y / length, z / length
    axes[0], axes[1], axes[2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    axes[3], axes[4], axes[5] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    axes[6], axes[7], axes[8] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for k in range(3):
        axes[9 + k] = math.exp(2.0 * row[8 + k])
    axes[12], axes[13], axes[14], axes[15] = w, x, y, z
    return length


@kernel(f"void(int64, int64, {ROWS}, float64, {ROWS}, {ROWS}, float32[::1])")
def at_moment(worker, workers, columns, time, means, covariances, opacities):
    """Centres, covariances (xx, xy, xz, yy, yz, zz) and opacities at ``time``."""
    first, last = _share(worker, workers, len(columns))
    a = np.empty(16)
    for i in range(first, last):
        row = columns[i]
        _axes(row, a)
        dt = time - row[6]
        for d in range(3):
            means[i, d] = row[d] + row[3 + d] * dt
        place = 0
        for d in range(3):
            for e in range(d, 3):
                total = 0.0
                for k in range(3):
                    total += a[3 * d + k] * a[3 * e + k] * a[9 + k]
                covariances[i, place] = total
                place += 1
        weight = math.exp(-0.5 * dt * dt * math.exp(-2.0 * row[7]))
        opacities[i] = weight / (1.0 + math.exp(-row[15]))


@kernel(f"void(int64, int64, {ROWS}, float64, {ROWS}, {ROWS}, float32[::1], {ROWS})")
def at_moment_backward(
    worker, workers, columns, time, g_means, g_covariances, g_opacities, gradient
):
    """Gradients of the columns before ``SH`` from those of what ``at_moment`` writes."""
    first, last = _share(worker, workers, len(columns))
    a, g, turn = np.empty(16), np.empty((3, 3)), np.empty((3, 3))
    for i in range(first, last):
        row, out = columns[i], gradient[i]
        length = _axes(row, a)
        # Motion and weight.
        dt, precision = time - row[6], math.exp(-2.0 * row[7])
        weight, opacity = math.exp(-0.5 * dt * dt * precision), 1.0 / (1.0 + math.exp(-row[15]))
        g_weight = g_opacities[i] * opacity * weight
        along = 0.0
        for d in range(3):
            out[d], out[3 + d] = g_means[i, d], g_means[i, d] * dt
            along += g_means[i, d] * row[3 + d]
        out[6] = g_weight * dt * precision - along
        out[7] = g_weight * dt * dt * precision
        out[15] = g_weight * (1.0 - opacity)
        # Shape: the covariance is the sum over axes k of s² r rᵀ, so its gradients are s² rᵀ G r
        # and 2 s² G r.
        place = 0
        for d in range(3):
            for e in range(d, 3):
                g[d, e] = g[e, d] = g_covariances[i, place] * (1.0 if d == e else 0.5)
                place += 1
        for k in range(3):
            squared, quadratic = a[9 + k], 0.0
            for d in range(3):
                total = g[d, 0] * a[k] + g[d, 1] * a[3 + k] + g[d, 2] * a[6 + k]
                quadratic += a[3 * d + k] * total
                turn[d, k] = 2.0 * squared * total
            out[8 + k] = 2.0 * squared * quadratic
        w, x, y, z = a[12], a[13], a[14], a[15]
        ws = (
            x * (turn[2, 1] - turn[1, 2])
            + y * (turn[0, 2] - turn[2, 0])
            + z * (turn[1, 0] - turn[0, 1])
        )
        xy, xz, yz = turn[0, 1] + turn[1, 0], turn[0, 2] + turn[2, 0], turn[1, 2] + turn[2, 1]
        gw = 2.0 * ws
        gx = 2.0 * (
            y * xy + z * xz - 2.0 * x * (turn[1, 1] + turn[2, 2]) + w * (turn[2, 1] - turn[1, 2])
        )
        gy = 2.0 * (
            x * xy + z * yz - 2.0 * y * (turn[0, 0] + turn[2, 2]) + w * (turn[0, 2] - turn[2, 0])
        )
        gz = 2.0 * (
            x * xz + y * yz - 2.0 * z * (turn[0, 0] + turn[1, 1]) + w * (turn[1, 0] - turn[0, 1])
        )
        radial = w * gw + x * gx + y * gy + z * gz
        out[11], out[12] = (gw - w * radial) / length, (gx - x * radial) / length
        out[13], out[14] = (gy - y * radial) / length, (gz - z * radial) / length


@kernel(
    f"void(int64, int64, {ROWS}, {ROWS}, {ROWS}, float32[::1], int64[::1], {ROWS}, "
    "float32[::1], float32[::1])"
)
def adam_step(worker, workers, values, firsts, seconds, age, rows, gradient, rates, units):
    """Adam's step of the distinct ``rows``; centres and velocities move in ``units`` of length.

    A row whose gradient is not finite is left as it is; one that is always there keeps its motion.
    """
    first, last = _share(worker, workers, len(rows))
    p = values.shape[1]
    for j in range(first, last):
        i = rows[j]
        start = 3 if math.isinf(values[i, 7]) else MOVING
        total = 0.0
        for c in range(p):
            if c < start or c >= MOVING:
                total += abs(gradient[j, c])
        if not total < math.inf:
            continue
        age[i] += 1.0
        one, two = 1.0 - BETA1 ** age[i], 1.0 - BETA2 ** age[i]
        for c in range(p):
            slope = gradient[j, c] if c < start or c >= MOVING else 0.0
            m = BETA1 * firsts[i, c] + (1.0 - BETA1) * slope
            v = BETA2 * seconds[i, c] + (1.0 - BETA2) * slope * slope
            firsts[i, c], seconds[i, c] = m, v
            rate = rates[c] * (units[i] if c < 6 else 1.0)
            if m != 0.0:
                values[i, c] -= rate * (m / one) / (math.sqrt(v / two) + EPSILON)


@kernel(f"void(int64, int64, {ROWS}, {ROWS}, float64, float64)")
def similarity_terms(worker, workers, means, out, c1, c2):
    """SSIM of every pixel, and its derivatives by the local means of a, a² and ab, as rows of
    ``out``; ``means`` has those of a, a², ab, b and b².
    """
    first, last = _share(worker, workers, means.shape[1])
    for i in range(first, last):
        a, aa, ab, b, bb = means[0, i], means[1, i], means[2, i], means[3, i], means[4, i]
        squares = a * a + b * b
        n1, d1 = 2.0 * a * b + c1, squares + c1
        n2, d2 = 2.0 * (ab - a * b) + c2, aa + bb - squares + c2
        both = 1.0 / (d1 * d2)
        value = n1 * n2 * both
        out[0, i] = value
        out[1, i] = 2.0 * b * (n2 - n1) * both - 2.0 * a * value * (d2 - d1) * both
        out[2, i] = -value * d1 * both
        out[3, i] = 2.0 * n1 * both
