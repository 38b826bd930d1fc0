"""Kernel of ``subpixel_cpu``: how colours in the source views change along the rays of a view.

A pixel of a map is one vector: colours, their changes to the right and downwards, and zeros up to
LANES.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import fill, load, store
from fsm.renderers.stereo.constants import MOST_CHANNELS, NEAR_LIMIT

LANES = MOST_CHANNELS
MAPS, INDEX, RHO = "float32[:, :, :, :, ::1]", "int64[:, :, ::1]", "float32[:, :, :, ::1]"
# rotation, translation, focal lengths, principal points, rays
CAMERAS = f"{MAPS}, {', '.join(3 * [RHO])}, {MAPS}"


@part
def _sample(flat, start, hn, wn, px, py, out):
    """Write the map at a position inside the frame that starts at ``start``."""
    one, half, zero = np.float32(1.0), np.float32(0.5), np.float32(0.0)
    x = min(max(px - half, zero), np.float32(wn) - one)
    y = min(max(py - half, zero), np.float32(hn) - one)
    left, top = max(min(np.int64(x), wn - 2), 0), max(min(np.int64(y), hn - 2), 0)
    right, down = LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    rx, ry = x - np.float32(left), y - np.float32(top)
    o = start + (top * wn + left) * LANES
    above = load(flat, o) * fill((one - rx) * (one - ry))
    above = above + load(flat, o + right) * fill(rx * (one - ry))
    o += down
    below = load(flat, o) * fill((one - rx) * ry) + load(flat, o + right) * fill(rx * ry)
    store(out, 0, above + below)


@kernel(
    f"void(int64, int64, float32, float32, {MAPS}, {MAPS}, {INDEX}, {CAMERAS}, {RHO}, {RHO}, "
    f"{MAPS})"
)
def fill_equations(
    worker, workers, outlier, unseen, maps, pictures, index,
    rotation, translation, focal, principal, rays, rho, units, sums,
):  # fmt: skip
    """Fill ``sums`` [b v 3 h w]: rows of the views in turn."""
    b, v, _, h, w = sums.shape
    k, n, hn, wn = index.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    one, two, zero = np.float32(1.0), np.float32(2.0), np.float32(0.0)
    share, third, steep = one / np.float32(k), one / np.float32(3.0), one / (outlier * outlier)
    width, height = np.float32(wn), np.float32(hn)
    flat, found = maps.reshape(-1), np.zeros(LANES, np.float32)
    for task in range(worker, b * v * h, workers):
        s, t, row = task // (v * h), task // h % v, task % h
        for c in range(3):
            for column in range(w):
                sums[s, t, c, row, column] = zero
        for j in range(k):
            turn, start = rotation[s, t, j], (s * n + index[s, t, j]) * hn * wn * LANES
            ox, oy, oz = translation[s, t, j, 0], translation[s, t, j, 1], translation[s, t, j, 2]
            fx, fy = focal[s, t, j, 0], focal[s, t, j, 1]
            cx, cy = principal[s, t, j, 0], principal[s, t, j, 1]
            for column in range(w):
                ray_x, ray_y = rays[s, t, 0, row, column], rays[s, t, 1, row, column]
                at = rho[s, t, row, column]
                z = turn[2, 0] * ray_x + turn[2, 1] * ray_y + turn[2, 2] + oz * at
                ahead = z > np.float32(NEAR_LIMIT)
                scale = one / (z if ahead else one)
                x = (turn[0, 0] * ray_x + turn[0, 1] * ray_y + turn[0, 2] + ox * at) * scale
                y = (turn[1, 0] * ray_x + turn[1, 1] * ray_y + turn[1, 2] + oy * at) * scale
                px, py = x * fx + cx, y * fy + cy
                inside_x = abs(px / width * two - one) <= one
                inside_y = abs(py / height * two - one) <= one
                if not (ahead & inside_x & inside_y):
                    sums[s, t, 2, row, column] += share * unseen
                    continue
                _sample(flat, start, hn, wn, px, py, found)
                unit = units[s, t, row, column] * scale
                right, down = (ox - x * oz) * fx * unit, (oy - y * oz) * fy * unit
                square, along, steepness = zero, zero, zero
                for c in range(3):
                    difference = found[c] - pictures[s, t, row, column, c]
                    slope = found[3 + c] * right + found[6 + c] * down
                    square += difference * difference
                    along += slope * difference
                    steepness += slope * slope
                ratio = square * third * steep
                weight = share / (one + ratio)
                sums[s, t, 0, row, column] += weight * along * third
                sums[s, t, 1, row, column] += weight * steepness * third
                sums[s, t, 2, row, column] += weight * ratio
