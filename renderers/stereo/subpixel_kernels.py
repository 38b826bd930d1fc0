"""Kernel of ``subpixel_cpu``: how colours in the source views change along the rays of a view.

LANES neighbouring pixels of a view are taken together, as in ``sampling_kernels``.
"""

import numpy as np

from fsm.kernels.compiled import kernel
from fsm.kernels.simd import fill, load, select, store
from fsm.kernels.simd_types import LANES
from fsm.renderers.stereo.sampling_kernels import (
    CAMERAS,
    FIVE,
    FOUR,
    INDEX,
    THREE,
    bilinear,
    cell_of,
    group_start,
    in_frame,
    placed,
    seen_from,
)

TOGETHER = 64  # groups of pixels that a thread takes at a time


@kernel(
    f"void(int64, int64, float32, float32, {FIVE}, {FOUR}, {INDEX}, {CAMERAS}, {THREE}, {THREE}, "
    f"{FOUR})"
)
def fill_equations(
    worker, workers, outlier, unseen, maps, pictures, index,
    rotation, translation, focal, principal, rays, rho, units, sums,
):  # fmt: skip
    """Fill ``sums`` [b v 3 p]."""
    b, v, _, p = sums.shape
    k, n, hn, wn = index.shape[2], maps.shape[1], maps.shape[3], maps.shape[4]
    flat, picture, flat_rays = maps.reshape(-1), pictures.reshape(-1), rays.reshape(-1)
    depths, steps, out = rho.reshape(-1), units.reshape(-1), sums.reshape(-1)
    right, down, plane = min(wn - 1, 1), wn * min(hn - 1, 1), hn * wn
    one, zero = np.float32(1.0), fill(np.float32(0.0))
    share, third, steep = one / np.float32(k), one / np.float32(3.0), one / (outlier * outlier)
    groups = (p + LANES - 1) // LANES
    runs = (groups + TOGETHER - 1) // TOGETHER
    for task in range(worker, b * v * runs, workers):
        view, run = task // runs, task % runs
        s, t = view // v, view % v
        for group in range(run * TOGETHER, min((run + 1) * TOGETHER, groups)):
            i = group_start(group, p)
            depth, step = load(depths, view * p + i), load(steps, view * p + i)
            along = steepness = misfit = zero
            for j in range(k):
                lens, offset = focal[s, t, j], translation[s, t, j]
                x, y, z = seen_from(
                    rotation[s, t, j], offset, flat_rays, p, 3 * view * p + i, depth
                )
                px, py, scale = placed(x, y, z, lens, principal[s, t, j], -one - one)
                inside = in_frame(px, py, np.float32(wn), np.float32(hn))
                cells, rx, ry = cell_of(px, py, wn, hn)
                unit, x, y = step * scale, x * scale, y * scale
                across = (fill(offset[0]) - x * offset[2]) * lens[0] * unit
                below = (fill(offset[1]) - y * offset[2]) * lens[1] * unit
                start = (s * n + index[s, t, j]) * 9 * plane
                square = slope_off = slopes = zero
                for c in range(3):
                    first = start + c * plane
                    colour = bilinear(flat, first, cells, right, down, rx, ry)
                    gx = bilinear(flat, first + 3 * plane, cells, right, down, rx, ry)
                    gy = bilinear(flat, first + 6 * plane, cells, right, down, rx, ry)
                    off = colour - load(picture, (3 * view + c) * p + i)
                    slope = gx * across + gy * below
                    square = square + off * off
                    slope_off = slope_off + slope * off
                    slopes = slopes + slope * slope
                ratio = square * (third * steep)
                weight = fill(share) / (ratio + one)
                along = along + select(inside, weight * slope_off * third, zero)
                steepness = steepness + select(inside, weight * slopes * third, zero)
                misfit = misfit + select(inside, weight * ratio, fill(share * unseen))
            store(out, 3 * view * p + i, along)
            store(out, (3 * view + 1) * p + i, steepness)
            store(out, (3 * view + 2) * p + i, misfit)
