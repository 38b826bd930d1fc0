"""Kernel of ``subpixel_cpu``: what every reference says of moving the points of a view along their
rays.

A pixel of a map is one vector: colours, their changes to the right and downwards, and zeros up to
LANES.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import fill, load, store
from fsm.renderers.stereo.cost_volume import FARTHEST
from fsm.renderers.stereo.cost_volume_kernels import LANES
from fsm.renderers.stereo.subpixel import OUTLIER, UNSEEN

AHEAD = np.float32(1e-3)
MAPS, CHOSEN = "float32[:, :, :, :, ::1]", "int64[:, :, ::1]"
CAMERAS, LENSES, RHO = "float32[:, :, :, ::1]", "float32[:, :, ::1]", "float32[:, :, :, ::1]"


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
    above = load(flat, o) * fill((one - rx) * (one - ry)) + load(flat, o + right) * fill(
        rx * (one - ry)
    )
    o += down
    store(
        out,
        0,
        above + load(flat, o) * fill((one - rx) * ry) + load(flat, o + right) * fill(rx * ry),
    )


@kernel(f"void(int64, int64, {MAPS}, {MAPS}, {CHOSEN}, {CAMERAS}, {LENSES}, {RHO}, {MAPS})")
def equations(worker, workers, maps, pictures, chosen, cameras, lenses, rho, sums):
    """Fill ``sums`` [b v 3 h w]: rows of the views in turn."""
    b, v, _, h, w = sums.shape
    k, n, hn, wn = chosen.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    one, two, half, zero = np.float32(1.0), np.float32(2.0), np.float32(0.5), np.float32(0.0)
    share, third, steep = one / np.float32(k), one / np.float32(3.0), np.float32(1.0 / OUTLIER**2)
    width, height = np.float32(wn), np.float32(hn)
    flat, found = maps.reshape(-1), np.zeros(LANES, np.float32)
    for task in range(worker, b * v * h, workers):
        s, t, row = task // (v * h), task // h % v, task % h
        lens = lenses[s, t]
        ray_y = (np.float32(row) + half - lens[3]) / lens[1]
        for c in range(3):
            for column in range(w):
                sums[s, t, c, row, column] = zero
        for j in range(k):
            camera, start = cameras[s, t, j], (s * n + chosen[s, t, j]) * hn * wn * LANES
            ox, oy, oz, fx, fy, cx, cy = (
                camera[9],
                camera[10],
                camera[11],
                camera[12],
                camera[13],
                camera[14],
                camera[15],
            )
            for column in range(w):
                ray_x, at = (np.float32(column) + half - lens[2]) / lens[0], rho[s, t, row, column]
                z = camera[6] * ray_x + camera[7] * ray_y + camera[8] + oz * at
                ahead = z > AHEAD
                scale = one / (z if ahead else one)
                x = (camera[0] * ray_x + camera[1] * ray_y + camera[2] + ox * at) * scale
                y = (camera[3] * ray_x + camera[4] * ray_y + camera[5] + oy * at) * scale
                px, py = x * fx + cx, y * fy + cy
                inside = (abs(px / width * two - one) <= one) & (
                    abs(py / height * two - one) <= one
                )
                if not (ahead & inside):
                    sums[s, t, 2, row, column] += share * np.float32(UNSEEN)
                    continue
                _sample(flat, start, hn, wn, px, py, found)
                unit = (max(at, zero) + np.float32(FARTHEST)) * scale
                right, down = (ox - x * oz) * fx * unit, (oy - y * oz) * fy * unit
                off, push, pull = zero, zero, zero
                for c in range(3):
                    difference = found[c] - pictures[s, t, row, column, c]
                    slope = found[3 + c] * right + found[6 + c] * down
                    off, push, pull = (
                        off + difference * difference,
                        push + slope * difference,
                        pull + slope * slope,
                    )
                ratio = off * third * steep
                weight = share / (one + ratio)
                sums[s, t, 0, row, column] += weight * push * third
                sums[s, t, 1, row, column] += weight * pull * third
                sums[s, t, 2, row, column] += weight * ratio
