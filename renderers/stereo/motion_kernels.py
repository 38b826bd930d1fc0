"""Kernel of ``motion_cpu``: one level of the alignment of samples along straight paths through
time.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.renderers.stereo.constants import LEAST_VARIANCE, LEAST_WEIGHT

PRODUCTS = 5  # xx, xy, yy, xt, yt
MAPS, INDEX, PATHS = (
    "float32[:, :, :, :, ::1]",
    "int64[:, :, ::1]",
    "float32[:, :, ::1], float32[:, :, ::1]",
)
POSITIONS = "float32[:, :, :, :, :, ::1]"


@part
def _place(at, size):
    """First of the two pixels between which a position lies, held inside the frame; share of the
    second; whether it was inside.
    """
    one, half = np.float32(1.0), np.float32(0.5)
    relative = at / size * np.float32(2.0) - one
    x = min(max((relative + one) * (size * half) - half, np.float32(0.0)), size - one)
    first = min(np.int64(x), np.int64(size) - 2)
    first = max(first, 0)
    return first, x - np.float32(first), abs(relative) <= one


@part
def _sample(maps, index, start, u, gaps, weights, y, samples, shares):
    """Samples [k w 3] of a row of pixels, and how much each counts [k w]."""
    hn, wn, one = maps.shape[1], maps.shape[2], np.float32(1.0)
    for j in range(len(gaps)):
        frame, gap = index[j], gaps[j]
        for x in range(u.shape[2]):
            left, rx, in_x = _place(start[j, 0, y, x] + u[0, y, x] * gap, np.float32(wn))
            top, ry, in_y = _place(start[j, 1, y, x] + u[1, y, x] * gap, np.float32(hn))
            right, below = min(left + 1, wn - 1), min(top + 1, hn - 1)
            nw, ne, sw, se = (one - rx) * (one - ry), rx * (one - ry), (one - rx) * ry, rx * ry
            for c in range(3):
                upper = maps[frame, top, left, c] * nw + maps[frame, top, right, c] * ne
                samples[j, x, c] = (
                    upper + maps[frame, below, left, c] * sw + maps[frame, below, right, c] * se
                )
            shares[j, x] = weights[j] * (
                (one if in_x & in_y else np.float32(0.0)) + np.float32(LEAST_WEIGHT)
            )


@part
def _fit(samples, shares, gaps, fits, y):
    """Fit A + D g to the samples of a row: A where no time has passed [3], D [3], and the variance
    of the gaps.
    """
    zero = np.float32(0.0)
    for x in range(fits.shape[2]):
        total, mean_gap, variance = zero, zero, zero
        r, g, b, dr, dg, db = zero, zero, zero, zero, zero, zero
        for j in range(len(gaps)):
            total += shares[j, x]
            mean_gap += shares[j, x] * gaps[j]
        mean_gap /= total
        for j in range(len(gaps)):
            centred, share = gaps[j] - mean_gap, shares[j, x] / total
            along = share * centred
            variance += along * centred
            r += share * samples[j, x, 0]
            g += share * samples[j, x, 1]
            b += share * samples[j, x, 2]
            dr += along * samples[j, x, 0]
            dg += along * samples[j, x, 1]
            db += along * samples[j, x, 2]
        scale = np.float32(1.0) / max(variance, np.float32(LEAST_VARIANCE))
        dr, dg, db = dr * scale, dg * scale, db * scale
        fits[0, y, x], fits[1, y, x] = r - dr * mean_gap, g - dg * mean_gap
        fits[2, y, x] = b - db * mean_gap
        fits[3, y, x], fits[4, y, x], fits[5, y, x], fits[6, y, x] = dr, dg, db, variance


@part
def _multiply(fits, sums):
    """Products of the present picture's gradients with each other and with its change, summed over
    the colours.
    """
    h, w = fits.shape[1], fits.shape[2]
    for y in range(h):
        above, below = max(y - 1, 0), min(y + 1, h - 1)
        for x in range(w):
            left, right = max(x - 1, 0), min(x + 1, w - 1)
            xx = xy = yy = xt = yt = np.float32(0.0)
            for c in range(3):
                gx = (fits[c, y, right] - fits[c, y, left]) / np.float32(right - left)
                gy = (fits[c, below, x] - fits[c, above, x]) / np.float32(below - above)
                change = fits[3 + c, y, x]
                xx += gx * gx
                xy += gx * gy
                yy += gy * gy
                xt += gx * change
                yt += gy * change
            sums[0, y, x], sums[1, y, x], sums[2, y, x] = xx, xy, yy
            sums[3, y, x], sums[4, y, x] = xt, yt


@part
def _average(values, rows, side):
    """Means over a window, at the border over what there is of it, in place; rows first."""
    h, w = values.shape
    half = side // 2
    for y in range(h):
        for x in range(w):
            first, last = max(x - half, 0), min(x + half, w - 1)
            total = np.float32(0.0)
            for i in range(first, last + 1):
                total += values[y, i]
            rows[y, x] = total / np.float32(last - first + 1)
    for y in range(h):
        first, last = max(y - half, 0), min(y + half, h - 1)
        for x in range(w):
            values[y, x] = np.float32(0.0)
        for i in range(first, last + 1):
            for x in range(w):
                values[y, x] += rows[i, x]
        for x in range(w):
            values[y, x] /= np.float32(last - first + 1)


@part
def _advance(sums, fits, damping, most, u):
    """Add the Gauss-Newton steps to ``u``, none longer than ``most`` along an axis."""
    for y in range(u.shape[1]):
        for x in range(u.shape[2]):
            xx, xy, yy = sums[0, y, x] + damping, sums[1, y, x], sums[2, y, x] + damping
            xt, yt = sums[3, y, x], sums[4, y, x]
            determinant = xx * yy - xy * xy
            if fits[6, y, x] > np.float32(LEAST_VARIANCE):
                u[0, y, x] += min(max((xy * yt - yy * xt) / determinant, -most), most)
                u[1, y, x] += min(max((xy * xt - xx * yt) / determinant, -most), most)


@kernel(
    f"void(int64, int64, int64, int64, int64, float32, float32, {MAPS}, {INDEX}, {POSITIONS}, "
    f"{PATHS}, float32[:, :, :, :, ::1])"
)
def align(
    worker, workers, iterations, window, smoothing, damping, largest_step,
    maps, index, start, gaps, weights, u,
):  # fmt: skip
    """Improve the velocities ``u`` [b v 2 h w] of the reference views in turn; ``maps`` are
    [b n hn wn 3], ``start`` [b v k 2 h w].
    """
    b, v, _, h, w = u.shape
    k = index.shape[2]
    samples, shares = np.empty((k, w, 3), np.float32), np.empty((k, w), np.float32)
    rows, fits = np.empty((h, w), np.float32), np.empty((7, h, w), np.float32)
    sums = np.empty((PRODUCTS, h, w), np.float32)
    for task in range(worker, b * v, workers):
        s, t = task // v, task % v
        mine, times = u[s, t], gaps[s, t]
        for _ in range(iterations):
            for y in range(h):
                _sample(
                    maps[s], index[s, t], start[s, t], mine, times, weights[s, t], y,
                    samples, shares,
                )  # fmt: skip
                _fit(samples, shares, times, fits, y)
            _multiply(fits, sums)
            for i in range(PRODUCTS):
                _average(sums[i], rows, window)
            _advance(sums, fits, damping, largest_step, mine)
            for i in range(2):
                _average(mine[i], rows, smoothing)
