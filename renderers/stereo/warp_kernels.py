"""Kernels of ``warp_cpu``: contradicted depths, depth carried to a target, holes, hidden points."""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import fill, gathered, least, load, most, select, store, whole
from fsm.kernels.simd_types import LANES
from fsm.renderers.stereo.constants import NEAR_LIMIT
from fsm.renderers.stereo.sampling_kernels import (
    CAMERAS,
    FOUR,
    INDEX,
    THREE,
    group_start,
    in_frame,
    placed,
    seen_after,
)

MASKS = "boolean[:, :, ::1]"
LAYER = "float32, float32"  # same surface, slack


@part
def _extremes(values, side, low, high, lows, highs):
    """Least and greatest over squares of odd ``side``, at the border over what there is of them."""
    h, w = values.shape
    half = side // 2
    for y in range(h):
        for x in range(w):
            low[x] = high[x] = values[y, x]
        for row in range(max(y - half, 0), min(y + half, h - 1) + 1):
            for x in range(w):
                low[x], high[x] = min(low[x], values[row, x]), max(high[x], values[row, x])
        for x in range(w):
            lows[y * w + x], highs[y * w + x] = low[x], high[x]
        for step in range(1, half + 1):
            for x in range(w - step):
                at = y * w + x
                lows[at] = min(lows[at], low[x + step])
                highs[at] = max(highs[at], high[x + step])
                lows[at + step] = min(lows[at + step], low[x])
                highs[at + step] = max(highs[at + step], high[x])


@kernel(f"void(int64, int64, int64, {FOUR}, {THREE}, {THREE})")
def extremes(worker, workers, side, rho, farthest, nearest):
    """Fill least and greatest inverse depth [b v p] about every pixel of ``rho`` [b v h w]."""
    b, v, _, w = rho.shape
    low, high = np.zeros(w, np.float32), np.zeros(w, np.float32)
    for task in range(worker, b * v, workers):
        s, t = task // v, task % v
        _extremes(rho[s, t], side, low, high, farthest[s, t], nearest[s, t])


@kernel(
    f"void(int64, int64, int64, float32, float32, float32, {INDEX}, {MASKS}, {CAMERAS}, {FOUR}, "
    f"{THREE}, {THREE}, {THREE}, {THREE}, {THREE})"
)
def contradict(
    worker, workers, width, support, seen_through, slack, index, counted,
    rotation, translation, focal, principal, rays, motion, gaps, rho, farthest, nearest, lost,
):  # fmt: skip
    """Fill ``lost`` [b v p]: 1 where one of the ``counted`` source views sees through the points at
    ``rho`` and none supports them; their least and greatest inverse depths are [b n p].
    """
    b, v, p = rho.shape
    k, n, height = index.shape[2], nearest.shape[1], p // width
    flat_rays, flat_rho, out = rays.reshape(-1), rho.reshape(-1), lost.reshape(-1)
    flat_motion = motion.reshape(-1)
    near_maps, far_maps = nearest.reshape(-1), farthest.reshape(-1)
    one, zero = fill(np.float32(1.0)), fill(np.float32(0.0))
    w, h = np.float32(width), np.float32(height)
    for task in range(worker, b * v, workers):
        s, t = task // v, task % v
        for group in range((p + LANES - 1) // LANES):
            i = group_start(group, p)
            depth = load(flat_rho, task * p + i)
            supported = through = zero
            for j in range(k):
                if not counted[s, t, j]:
                    continue
                x, y, z = seen_after(
                    rotation[s, t, j], translation[s, t, j], flat_rays, flat_motion, gaps[s, t, j],
                    p, 3 * task * p + i, depth,
                )  # fmt: skip
                px, py, _ = placed(x, y, z, focal[s, t, j], principal[s, t, j], -w - h)
                inside = in_frame(px, py, w, h)
                row = whole(most(least(py, fill(h - np.float32(1.0))), zero))
                column = whole(most(least(px, fill(w - np.float32(1.0))), zero))
                at, start = row * width + column, (s * n + index[s, t, j]) * p
                there = depth / most(z, fill(np.float32(NEAR_LIMIT))) + slack
                near = gathered(near_maps, start, at) + slack
                far = gathered(far_maps, start, at) + slack
                agrees = inside & (there > far * support) & (near > there * support)
                supported = select(agrees, one, supported)
                through = select(inside & (there * seen_through > near), one, through)
            store(out, task * p + i, through - least(through, supported))


@part
def _column(x, size):
    """Index of the pixel along an axis that holds a place, or the nearest."""
    return min(max(np.int64(np.rint(x - np.float32(0.5))), 0), size - 1)


@part
def _inside(x, y, w, h):
    return (x >= 0) & (x <= np.float32(w)) & (y >= 0) & (y <= np.float32(h))


@kernel(f"void(int64, int64, int64, {FOUR}, {THREE}, {THREE}, {THREE}, {THREE})")
def bring_forward(worker, workers, width, pixels, depths, rank, firm, front):
    """Fill ``front`` [b m p]: greatest of the inverse ``depths`` [b m q] that land on a pixel, -1
    where none does; and ``firm``, of those alone whose ``rank`` is 2. Those of rank 0 are left out;
    ``pixels`` [b m q 2] say where.
    """
    b, m, q = depths.shape
    w, h = width, front.shape[2] // width
    shift = np.float32(0.25)
    for task in range(worker, b * m, workers):
        s, t = task // m, task % m
        front[s, t], firm[s, t] = np.float32(-1.0), np.float32(-1.0)
        for i in range(q):
            x, y = pixels[s, t, i, 0], pixels[s, t, i, 1]
            if rank[s, t, i] < 1 or not _inside(x, y, w, h):
                continue
            left, right = _column(x - shift, w), _column(x + shift, w)
            top, bottom = _column(y - shift, h) * w, _column(y + shift, h) * w
            for at in (top + left, top + right, bottom + left, bottom + right):
                front[s, t, at] = max(front[s, t, at], depths[s, t, i])
                if rank[s, t, i] > 1:
                    firm[s, t, at] = max(firm[s, t, at], depths[s, t, i])


@kernel(
    f"void(int64, int64, int64, {LAYER}, {FOUR}, {THREE}, {THREE}, {FOUR}, {THREE}, {THREE}, "
    f"{FOUR}, {THREE})"
)
def add_forward(
    worker, workers, width, same, slack, pixels, depths, rank, values, firm, front, totals, counts
):  # fmt: skip
    """Fill ``totals`` [b m d p] of ``values`` [b m d q], and ``counts`` [b m p], of the points of
    every source view that lie on the surface in ``firm``, or else in ``front`` [b v p]; m are the
    source views of v reference views in turn.
    """
    b, m, q = depths.shape
    w, h, k, d = width, front.shape[2] // width, m // front.shape[1], values.shape[2]
    shift, one = np.float32(0.25), np.float32(1.0)
    for task in range(worker, b * m, workers):
        s, t = task // m, task % m
        view = t // k
        totals[s, t], counts[s, t] = np.float32(0.0), np.float32(0.0)
        for i in range(q):
            x, y = pixels[s, t, i, 0], pixels[s, t, i, 1]
            if rank[s, t, i] < 1 or not _inside(x, y, w, h):
                continue
            left, right = _column(x - shift, w), _column(x + shift, w)
            top, bottom = _column(y - shift, h) * w, _column(y + shift, h) * w
            depth = depths[s, t, i]
            for at in (top + left, top + right, bottom + left, bottom + right):
                surface = firm[s, view, at]
                if surface < 0:
                    surface = front[s, view, at]
                elif rank[s, t, i] < 2:
                    continue
                if depth + slack > same * (surface + slack):
                    for j in range(d):
                        totals[s, t, j, at] += values[s, t, j, i]
                    counts[s, t, at] += one


@part
def _spread(values, known, nearest, last):
    """Values of pixels not ``known``: the least of the nearest known ones in four directions, zero
    if there are none; whether any is left.
    """
    h, w = values.shape
    for y in range(h):
        reach = np.float32(np.inf)
        for x in range(w):
            reach = values[y, x] if known[y, x] else reach
            nearest[y, x] = reach
        reach = np.float32(np.inf)
        for x in range(w - 1, -1, -1):
            reach = values[y, x] if known[y, x] else reach
            nearest[y, x] = min(nearest[y, x], reach)
    for direction in range(2):
        last[:] = np.float32(np.inf)
        for i in range(h):
            y = i if direction == 0 else h - 1 - i
            for x in range(w):
                last[x] = values[y, x] if known[y, x] else last[x]
                nearest[y, x] = min(nearest[y, x], last[x])
    left = False
    for y in range(h):
        for x in range(w):
            if not known[y, x]:
                found = nearest[y, x] < np.float32(np.inf)
                values[y, x] = nearest[y, x] if found else np.float32(0.0)
                known[y, x] = found
                left = left | (not found)
    return left


@kernel(f"void(int64, int64, {THREE}, {MASKS})")
def fill_holes(worker, workers, values, known):
    """Fill the pixels of ``values`` [n h w] that are not ``known``; both are overwritten."""
    n, h, w = values.shape
    nearest, last = np.zeros((h, w), np.float32), np.zeros(w, np.float32)
    for task in range(worker, n, workers):
        if _spread(values[task], known[task], nearest, last):
            _spread(values[task], known[task], nearest, last)


@kernel(f"void(int64, int64, int64, int64, {LAYER}, {FOUR}, {THREE}, {THREE})")
def show(worker, workers, height, width, same, slack, pixels, depths, visible):
    """Fill ``visible`` [b m p]: 0 where a nearer point has been written to the place ``pixels``
    [b m p 2] of a point in its source view, else 1; ``depths`` are inverse ones there.
    """
    b, m, p = depths.shape
    h, w, shift, zero = height, width, np.float32(0.25), np.float32(0.0)
    front = np.zeros(h * w, np.float32)
    for task in range(worker, b * m, workers):
        s, t = task // m, task % m
        front[:] = zero
        for i in range(p):
            x, y = pixels[s, t, i, 0], pixels[s, t, i, 1]
            if _inside(x, y, w, h):
                left, right = _column(x - shift, w), _column(x + shift, w)
                top, bottom = _column(y - shift, h) * w, _column(y + shift, h) * w
                for at in (top + left, top + right, bottom + left, bottom + right):
                    front[at] = max(front[at], depths[s, t, i])
        for i in range(p):
            x, y, shown = pixels[s, t, i, 0], pixels[s, t, i, 1], np.float32(1.0)
            if _inside(x, y, w, h):
                before = front[_column(y, h) * w + _column(x, w)]
                shown = zero if depths[s, t, i] < same * before - slack else shown
            visible[s, t, i] = shown
