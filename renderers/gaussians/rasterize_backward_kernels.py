"""Kernels that take gradients from pictures back to splats.

Every tile walks its splats from back to front over the blocks of ``rasterize_kernels``. What a
splat gets in a tile is a row of its own, so that rows can be added in the same order by any number
of threads.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import (
    any_of,
    exp2,
    fetch_ahead,
    fill,
    item,
    load,
    select,
    spread,
    store,
    take_next,
    totals,
    trailing_zeros,
)
from fsm.renderers.gaussians.rasterize_kernels import (
    BLOCK,
    BLOCKS,
    INDEX,
    LEAST,
    MOST,
    TABLES,
    fill_tables,
    touched,
)
from fsm.renderers.gaussians.rasterize_list_kernels import (
    BLUE,
    CX,
    CY,
    DEPTH,
    GREEN,
    LEFT,
    OPACITY,
    RED,
    RIGHT,
    ROW,
    TILE,
    TOP,
    WIDTH,
    XX,
    XY,
    YY,
)

# light after, gathered behind, and the gradients of the picture
GIVEN = 7
# sums of a splat in a tile: the gradient over log(alpha) times 1, x, y, xx, xy, yy; colour, depth;
# 6 unused
SUMS = 16


@part
def _start_tile_backward(lights, ends, gradient, state, block_ends, left, top, stop):
    """State of every block behind its last splat; ``block_ends`` [64]: no pixel of it sees that
    splat or a later one.
    """
    height, width = gradient.shape[1], gradient.shape[2]
    for block in range(BLOCKS):
        block_ends[block] = 0
        for pixel in range(BLOCK):
            x, y = left + 4 * (block & 7) + (pixel & 3), top + 4 * (block >> 3) + (pixel >> 2)
            at = TABLES + block * (GIVEN * BLOCK) + pixel
            state[at] = abs(lights[block * BLOCK + pixel])
            state[at + 16] = 0.0
            inside = x < width and y < height
            for channel in range(5):
                state[at + 32 + channel * BLOCK] = (
                    gradient[channel, y, x] if inside else np.float32(0.0)
                )
            block_ends[block] = max(
                block_ends[block], min(np.int64(ends[block * BLOCK + pixel]), stop)
            )


@part
def _largest(numbers, least):
    """The largest of ``numbers``, at least ``least``."""
    for i in range(numbers.size):
        least = max(least, numbers[i])
    return least


@part
def _row(records, rows, r, left, top):
    """Row of a splat's sums in the tile at (left, top)."""
    first_column = np.int64(item(records, r + LEFT)) // TILE
    first_row = np.int64(item(records, r + TOP)) // TILE
    across = np.int64(item(records, r + RIGHT)) // TILE - first_column + 1
    return item(rows, r + ROW) + (top // TILE - first_row) * across + left // TILE - first_column


@part
def _tile_backward(entries, start, stop, records, state, ends, block_ends, left, top, rows, sums):
    """Walk from back to front; every splat's sums over the tile's pixels go to its row for this
    tile.
    """
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    last = _largest(block_ends, start)
    for k in range(last - 1, start - 1, -1):
        fetch_ahead(records, (item(entries, max(k - 16, start)) & INDEX) * WIDTH)
        coming = (item(entries, max(k - 4, start)) & INDEX) * WIDTH
        fetch_ahead(sums, _row(records, rows, coming, left, top) * SUMS)
        r = (item(entries, k) & INDEX) * WIDTH
        todo = touched(records, r, left, top)
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green = spread(records, r + RED), spread(records, r + GREEN)
        blue = spread(records, r + BLUE)
        s = sx = sy = sxx = sxy = syy = s_red = s_green = s_blue = s_depth = fill(np.float32(0.0))
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            if k >= item(block_ends, block):
                continue
            dx = load(state, (block & 7) * BLOCK) - cx
            dy = load(state, (8 + (block >> 3)) * BLOCK) - cy
            power = dx * (xx * dx + xy * dy) + yy * dy * dy
            raw = opacity * exp2(power)
            seen = (power <= nothing) & (raw >= least) & (fill(k) < load(ends, block * BLOCK))
            if not any_of(seen):
                continue
            at = TABLES + block * (GIVEN * BLOCK)
            alpha = select(seen, select(raw < most, raw, most), nothing)
            inverse = 1.0 / (1.0 - alpha)
            light, behind = load(state, at), load(state, at + 16)
            g_red, g_green = load(state, at + 32), load(state, at + 48)
            g_blue, g_depth = load(state, at + 64), load(state, at + 96)
            value = g_red * red + g_green * green + g_blue * blue + g_depth * depth
            value = value + load(state, at + 80)
            v = select(seen & (raw <= most), alpha * inverse * (light * value - behind), nothing)
            light = light * inverse
            weight = alpha * light
            store(state, at, light)
            store(state, at + 16, behind + weight * value)
            vx, vy = v * dx, v * dy
            s, sx, sy = s + v, sx + vx, sy + vy
            sxx, sxy, syy = sxx + vx * dx, sxy + vx * dy, syy + vy * dy
            s_red, s_green = s_red + weight * g_red, s_green + weight * g_green
            s_blue, s_depth = s_blue + weight * g_blue, s_depth + weight * g_depth
        sums_of_splat = (s, sx, sy, sxx, sxy, syy, s_red, s_green, s_blue, s_depth)
        store(sums, _row(records, rows, r, left, top) * SUMS, totals(sums_of_splat))
    for k in range(last, stop):
        row = _row(records, rows, (item(entries, k) & INDEX) * WIDTH, left, top)
        store(sums, row * SUMS, nothing)


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], float32[:, ::1], float32[::1], "
    "float32[:, ::1], int32[:, ::1],"
    " float32[:, :, ::1], int32[::1], float32[::1])"
)
def blend_backward(
    worker, counter, starts, entries, states, records, lights, ends, gradient, rows, sums
):
    """Take tiles until none is left; ``sums`` gets what ``gradient`` [5 h w] means for each splat
    in each tile.

    ``rows`` is ``records`` as integers.
    """
    columns = (gradient.shape[2] + TILE - 1) // TILE
    state = states[worker]
    fill_tables(state)
    block_ends = np.empty(BLOCKS, np.int64)
    while True:
        tile = take_next(counter)
        if tile >= starts.size - 1:
            return
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        start, stop = starts[tile], starts[tile + 1]
        _start_tile_backward(lights[tile], ends[tile], gradient, state, block_ends, left, top, stop)
        _tile_backward(
            entries, start, stop, records, state, ends[tile], block_ends, left, top, rows, sums
        )


@kernel(
    "void(int64, int64, int32[:, ::1], float32[::1], float32[:, ::1], float32[::1],"
    " float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32[:, ::1])"
)
def gather_gradients(
    worker,
    workers,
    rows,
    sums,
    conics,
    opacities,
    to_centres,
    to_conics,
    to_depths,
    to_opacities,
    to_colours,
):
    """Add up the rows of this worker's splats, always in the same order, and turn them into
    gradients.
    """
    m = rows.shape[0]
    added = np.empty(SUMS, np.float32)
    for i in range(m * worker // workers, m * (worker + 1) // workers):
        total = fill(np.float32(0.0))
        for j in range(rows[i, ROW], rows[i + 1, ROW] if i + 1 < m else sums.size // SUMS):
            total = total + load(sums, j * SUMS)
        store(added, 0, total)
        xx, xy, yy, sx, sy = conics[i, 0], conics[i, 1], conics[i, 2], added[1], added[2]
        to_centres[i, 0], to_centres[i, 1] = xx * sx + xy * sy, xy * sx + yy * sy
        half = np.float32(-0.5)
        to_conics[i, 0], to_conics[i, 1] = half * added[3], -added[4]
        to_conics[i, 2] = half * added[5]
        to_opacities[i] = added[0] / opacities[i] if opacities[i] > 0 else np.float32(0.0)
        to_colours[i, 0], to_colours[i, 1], to_colours[i, 2] = added[6], added[7], added[8]
        to_depths[i] = added[9]
