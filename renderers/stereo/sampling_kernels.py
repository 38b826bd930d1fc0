"""Kernels of ``sampling_cpu``: where points lie in source views, and what maps show there.

LANES neighbouring pixels of a reference view are taken together; its pixels are counted row by row.
A last group that would be incomplete starts earlier, so that a picture needs LANES pixels.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import (
    evens,
    fill,
    floor,
    gathered,
    least,
    load,
    most,
    odds,
    select,
    store,
    store_pairs,
    whole,
)
from fsm.kernels.simd_types import LANES
from fsm.renderers.stereo.constants import NEAR_LIMIT

ONE, TWO, THREE, FOUR, FIVE = (f"float32[{':, ' * n}::1]" for n in range(5))
INDEX = "int64[:, :, ::1]"
# rotation, translation, focal lengths, principal points [b v k ...], rays [b v 3 p]
CAMERAS = f"{FIVE}, {FOUR}, {FOUR}, {FOUR}, {FOUR}"
SHARPNESS = -0.75  # of the bicubic kernel, as torch has it


@part
def group_start(group, pixels):
    """First pixel of a group of LANES."""
    return min(group * LANES, pixels - LANES)


@part
def _turned(turn, offset, rx, ry, rz, rho):
    x = rx * turn[0, 0] + ry * turn[0, 1] + rz * turn[0, 2] + rho * offset[0]
    y = rx * turn[1, 0] + ry * turn[1, 1] + rz * turn[1, 2] + rho * offset[1]
    z = rx * turn[2, 0] + ry * turn[2, 1] + rz * turn[2, 2] + rho * offset[2]
    return x, y, z


@part
def seen_from(turn, offset, rays, pixels, at, rho):
    """x, y, z of LANES points over their z-depth in the reference view, in the axes of a source
    view; ``rays`` are flat, from the reference view's first on.
    """
    rx, ry, rz = load(rays, at), load(rays, at + pixels), load(rays, at + 2 * pixels)
    return _turned(turn, offset, rx, ry, rz, rho)


@part
def seen_after(turn, offset, rays, motion, gap, pixels, at, rho):
    """``seen_from`` after a time ``gap`` of their ``motion``, which is flat as ``rays`` are."""
    rx = load(rays, at) + load(motion, at) * gap
    ry = load(rays, at + pixels) + load(motion, at + pixels) * gap
    rz = load(rays, at + 2 * pixels) + load(motion, at + 2 * pixels) * gap
    return _turned(turn, offset, rx, ry, rz, rho)


@part
def placed(x, y, z, lens, centre, far):
    """Pixels of points in a source view, and 1 / z; ``far`` and 1 behind it."""
    ahead = z > np.float32(NEAR_LIMIT)
    scale = fill(np.float32(1.0)) / select(ahead, z, fill(np.float32(1.0)))
    px = select(ahead, x * scale * lens[0] + centre[0], fill(far))
    py = select(ahead, y * scale * lens[1] + centre[1], fill(far))
    return px, py, scale


@part
def in_frame(px, py, width, height):
    """Mask of the places inside a frame."""
    zero = np.float32(0.0)
    return (px >= zero) & (px <= width) & (py >= zero) & (py <= height)


@kernel(f"void(int64, int64, float32, {CAMERAS}, {FOUR}, {THREE}, {THREE}, {FIVE}, {FOUR}, {FOUR})")
def project(
    worker, workers, far, rotation, translation, focal, principal, rays, motion, gaps, rho,
    pixels, inverse_depths, scales,
):  # fmt: skip
    """Fill ``pixels`` [b v k p 2], ``inverse_depths`` and ``scales`` [b v k p] of the points at
    ``rho`` [b v p] with their ``motion`` [b v 3 p], ``gaps`` [b v k] later.
    """
    b, v, k, p = scales.shape
    flat_rays, flat_motion, flat_rho = rays.reshape(-1), motion.reshape(-1), rho.reshape(-1)
    places, inverse, scaled = pixels.reshape(-1), inverse_depths.reshape(-1), scales.reshape(-1)
    for task in range(worker, b * v * k, workers):
        view, j = task // k, task % k
        s, t = view // v, view % v
        turn, offset = rotation[s, t, j], translation[s, t, j]
        lens, centre = focal[s, t, j], principal[s, t, j]
        for group in range((p + LANES - 1) // LANES):
            i = group_start(group, p)
            depth = load(flat_rho, view * p + i)
            x, y, z = seen_after(
                turn, offset, flat_rays, flat_motion, gaps[s, t, j], p, 3 * view * p + i, depth
            )
            px, py, scale = placed(x, y, z, lens, centre, far)
            at = task * p + i
            store_pairs(places, 2 * at, px, py)
            store(inverse, at, depth / most(z, fill(np.float32(NEAR_LIMIT))))
            store(scaled, at, scale)


@part
def cell_of(px, py, wn, hn):
    """Bilinear: indices of the upper left of four pixels in a map, and the shares of the right and
    the lower ones; places outside count as the nearest inside.
    """
    half, zero = np.float32(0.5), fill(np.float32(0.0))
    x = least(most(px - half, zero), fill(np.float32(wn - 1)))
    y = least(most(py - half, zero), fill(np.float32(hn - 1)))
    left = least(floor(x), fill(np.float32(max(wn - 2, 0))))
    top = least(floor(y), fill(np.float32(max(hn - 2, 0))))
    return whole(top) * wn + whole(left), x - left, y - top


@part
def bilinear(flat, start, cells, right, down, rx, ry):
    """LANES values of the map that begins at ``start``."""
    nw, ne = gathered(flat, start, cells), gathered(flat, start + right, cells)
    sw, se = gathered(flat, start + down, cells), gathered(flat, start + down + right, cells)
    upper, lower = nw + (ne - nw) * rx, sw + (se - sw) * rx
    return upper + (lower - upper) * ry


@part
def cubic(t):
    """Weights of four pixels in a row, a share ``t`` beyond the second."""
    a, one = np.float32(SHARPNESS), fill(np.float32(1.0))
    u, back = one - t, t + np.float32(1.0)
    ahead = u + np.float32(1.0)
    five, eight, four = a * np.float32(5.0), a * np.float32(8.0), a * np.float32(4.0)
    first = ((back * a - five) * back + eight) * back - four
    second = (t * (a + np.float32(2.0)) - (a + np.float32(3.0))) * t * t + one
    third = (u * (a + np.float32(2.0)) - (a + np.float32(3.0))) * u * u + one
    fourth = ((ahead * a - five) * ahead + eight) * ahead - four
    return first, second, third, fourth


@part
def _clamped(x, most_):
    return whole(least(most(x, fill(np.float32(0.0))), fill(np.float32(most_))))


@part
def neighbours(at, size):
    """Of positions along an axis: indices of the four pixels about each, held inside the map, and
    their bicubic weights.
    """
    half, extent = np.float32(0.5), np.float32(size)
    x = least(most(at, fill(-half * extent)), fill((np.float32(1.0) + half) * extent)) - half
    low = floor(x)
    one, last = np.float32(1.0), np.float32(size - 1)
    places = (
        _clamped(low - one, last), _clamped(low, last),
        _clamped(low + one, last), _clamped(low + np.float32(2.0), last),
    )  # fmt: skip
    return places, cubic(x - low)


@part
def bicubic(flat, start, wn, columns, across, rows, along):
    """LANES values of the map that begins at ``start``."""
    total = fill(np.float32(0.0))
    for i in range(4):
        at = rows[i] * wn
        line = gathered(flat, start, at + columns[0]) * across[0]
        line = line + gathered(flat, start, at + columns[1]) * across[1]
        line = line + gathered(flat, start, at + columns[2]) * across[2]
        line = line + gathered(flat, start, at + columns[3]) * across[3]
        total = total + line * along[i]
    return total


@kernel(f"void(int64, int64, boolean, {FIVE}, {INDEX}, {FIVE}, {FIVE}, {FOUR})")
def sample(worker, workers, cubic_, maps, index, pixels, samples, inside):
    """Fill ``samples`` [b v k c p] and ``inside`` [b v k p] of ``maps`` [b n c hn wn]."""
    b, v, k, c, p = samples.shape
    n, hn, wn = maps.shape[1], maps.shape[3], maps.shape[4]
    flat, places = maps.reshape(-1), pixels.reshape(-1)
    out, within = samples.reshape(-1), inside.reshape(-1)
    right, down = min(wn - 1, 1), wn * min(hn - 1, 1)
    for task in range(worker, b * v * k, workers):
        view, j = task // k, task % k
        start = (view // v * n + index[view // v, view % v, j]) * c * hn * wn
        for group in range((p + LANES - 1) // LANES):
            at = task * p + group_start(group, p)
            px, py = evens(places, 2 * at), odds(places, 2 * at)
            kept = in_frame(px, py, np.float32(wn), np.float32(hn))
            store(within, at, select(kept, fill(np.float32(1.0)), fill(np.float32(0.0))))
            to = (task * (c - 1)) * p + at
            if cubic_:
                columns, across = neighbours(px, wn)
                rows, along = neighbours(py, hn)
                for i in range(c):
                    value = bicubic(flat, start + i * hn * wn, wn, columns, across, rows, along)
                    store(out, to + i * p, value)
            else:
                cells, rx, ry = cell_of(px, py, wn, hn)
                for i in range(c):
                    value = bilinear(flat, start + i * hn * wn, cells, right, down, rx, ry)
                    store(out, to + i * p, value)
