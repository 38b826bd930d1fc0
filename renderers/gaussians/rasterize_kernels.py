"""Kernels that draw tiles of splats and take gradients back.

The vector is a block of 4 x 4 pixels. Front to back, every splat of a tile visits the blocks that
its ellipse may touch and that still let light through: both are bits of one 64-bit number. What a
block has gathered so far stays in the first-level cache.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import (
    any_of,
    bits_set,
    block_x,
    block_y,
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
from fsm.renderers.gaussians.projection import LAST_TRANSMITTANCE, LEAST_ALPHA, MOST_ALPHA
from fsm.renderers.gaussians.rasterize_lists import (
    BLUE,
    BOTTOM,
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
    sort_list,
)

LEAST, MOST, LAST = np.float32(LEAST_ALPHA), np.float32(MOST_ALPHA), np.float32(LAST_TRANSMITTANCE)
BLOCKS = 64
BLOCK = 16  # pixels
PIXELS = BLOCKS * BLOCK
GATHERED = 5  # transmittance (negative: the pixel is finished), red, green, blue, depth
NEVER = 2**31 - 1
# before the blocks: x of the pixels of every column of blocks, y of every row of blocks
TABLES = 2 * 8 * BLOCK
# sums of a splat in a tile: the gradient over log(alpha) times 1, x, y, xx, xy, yy; colour, depth;
# 6 unused
SUMS = 16
INDEX = 0xFFFFFFFF
ONE_PER_ROW = 0x0101010101010101


@part
def _touched(records, r, left, top):
    """Bit 8 row + column is set for the blocks of the tile at (left, top) that meet the record's
    box.
    """
    x0 = max(np.int64(item(records, r + LEFT)) - left, 0) >> 2
    x1 = min(np.int64(item(records, r + RIGHT)) - left, TILE - 1) >> 2
    y0 = max(np.int64(item(records, r + TOP)) - top, 0) >> 2
    y1 = min(np.int64(item(records, r + BOTTOM)) - top, TILE - 1) >> 2
    row = ((np.int64(2) << (x1 - x0)) - 1) << x0
    return row * ((np.int64(ONE_PER_ROW) >> (8 * (7 - (y1 - y0)))) << (8 * y0))


@part
def _blocks_inside(left, top, width, height):
    """Bits of the tile's blocks that hold a pixel of the picture."""
    columns = min((width - left + 3) >> 2, 8)
    rows = min((height - top + 3) >> 2, 8)
    return ((np.int64(1) << columns) - 1) * (np.int64(ONE_PER_ROW) >> (8 * (8 - rows)))


@part
def _fill_tables(state):
    """Pixel centres from the tile's corner."""
    for i in range(8):
        store(state, i * BLOCK, block_x() + 4 * i)
        store(state, (8 + i) * BLOCK, block_y() + 4 * i)


@part
def _start_tile(state, ends, left, top, width, height):
    """All light passes; pixels outside the picture are finished."""
    for block in range(BLOCKS):
        x, y = block_x() + (left + 4 * (block & 7)), block_y() + (top + 4 * (block >> 3))
        inside = (x < fill(np.float32(width))) & (y < fill(np.float32(height)))
        at = TABLES + block * (GATHERED * BLOCK)
        store(state, at, select(inside, fill(np.float32(1.0)), fill(np.float32(-1.0))))
        for channel in range(1, GATHERED):
            store(state, at + channel * BLOCK, fill(np.float32(0.0)))
        store(ends, block * BLOCK, select(inside, fill(np.int64(NEVER)), fill(np.int64(-1))))


@part
def _draw_tile(entries, start, stop, records, state, ends, left, top, alive):
    """Composite splats ``start`` to ``stop`` into ``state`` [64 5 16]; ``ends`` [64 16] gets where
    pixels finished.

    Returns how many blocks were looked at.
    """
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    visits = 0
    for k in range(start, stop):
        fetch_ahead(records, (item(entries, min(k + 8, stop - 1)) & INDEX) * WIDTH)
        r = (item(entries, k) & INDEX) * WIDTH
        todo = _touched(records, r, left, top) & alive
        if todo == 0:
            continue
        visits += bits_set(todo)
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green, blue = (
            spread(records, r + RED),
            spread(records, r + GREEN),
            spread(records, r + BLUE),
        )
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            at = TABLES + block * (GATHERED * BLOCK)
            dx, dy = (
                load(state, (block & 7) * BLOCK) - cx,
                load(state, (8 + (block >> 3)) * BLOCK) - cy,
            )
            power = dx * (xx * dx + xy * dy) + yy * dy * dy
            alpha = opacity * exp2(power)
            light = load(state, at)
            seen = (power <= nothing) & (alpha >= least) & (light > nothing)
            alpha = select(seen, select(alpha < most, alpha, most), nothing)
            after = light * (1.0 - alpha)
            weight = alpha * light
            finished = (after <= LAST) & seen
            if any_of(finished):
                weight = select(finished, nothing, weight)
                after = select(finished, nothing - light, after)
                store(ends, block * BLOCK, select(finished, fill(k), load(ends, block * BLOCK)))
                if not any_of(after > nothing):
                    alive &= ~(np.int64(1) << block)
            store(state, at, after)
            store(state, at + 16, load(state, at + 16) + weight * red)
            store(state, at + 32, load(state, at + 32) + weight * green)
            store(state, at + 48, load(state, at + 48) + weight * blue)
            store(state, at + 64, load(state, at + 64) + weight * depth)
        if alive == 0:
            break
    return visits


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], int64[:, ::1], float32[:, ::1], "
    "float32[::1], int64, int64,"
    " float32[:, :, ::1], int64, float32[:, ::1], int32[:, ::1])"
)
def draw(
    worker,
    counter,
    starts,
    entries,
    scratch,
    states,
    records,
    height,
    width,
    picture,
    keep,
    lights,
    ends,
):
    """Take tiles until none is left (``counter[0]``), sort and draw them; ``counter[1 + worker]``
    counts blocks looked at.

    ``picture`` [5 h w] gets colour, alpha, depth · alpha; if ``keep``, ``lights`` and ``ends``
    [tiles 1024] what gradients need.
    """
    columns = (width + TILE - 1) // TILE
    state = states[worker]
    own_ends = state[TABLES + PIXELS * GATHERED :].view(np.int32)
    _fill_tables(state)
    histogram = np.empty(2048, np.int64)
    while True:
        tile = take_next(counter)
        if tile >= starts.size - 1:
            return
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        _start_tile(state, own_ends, left, top, width, height)
        start, stop = starts[tile], starts[tile + 1]
        sort_list(entries, start, stop, scratch[worker], histogram)
        alive = _blocks_inside(left, top, width, height)
        counter[1 + worker] += _draw_tile(
            entries, start, stop, records, state, own_ends, left, top, alive
        )
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                block, pixel = (y >> 2) * 8 + (x >> 2), (y & 3) * 4 + (x & 3)
                at = TABLES + block * (GATHERED * BLOCK) + pixel
                picture[3, top + y, left + x] = np.float32(1.0) - abs(state[at])
                picture[0, top + y, left + x] = state[at + 16]
                picture[1, top + y, left + x] = state[at + 32]
                picture[2, top + y, left + x] = state[at + 48]
                picture[4, top + y, left + x] = state[at + 64]
        if keep:
            for block in range(BLOCKS):
                store(ends[tile], block * BLOCK, load(own_ends, block * BLOCK))
                store(lights[tile], block * BLOCK, load(state, TABLES + block * (GATHERED * BLOCK)))


GIVEN = 7  # light after, gathered behind, and the gradients of the picture


@part
def _start_tile_back(lights, ends, gradient, state, block_ends, left, top, stop):
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
def _tile_back(entries, start, stop, records, state, ends, block_ends, left, top, rows, sums):
    """Walk from back to front; every splat's sums over the tile's pixels go to its row for this
    tile.
    """
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    last = start
    for block in range(BLOCKS):
        last = max(last, block_ends[block])
    for k in range(last - 1, start - 1, -1):
        fetch_ahead(records, (item(entries, max(k - 16, start)) & INDEX) * WIDTH)
        fetch_ahead(
            sums,
            _row(records, rows, (item(entries, max(k - 4, start)) & INDEX) * WIDTH, left, top)
            * SUMS,
        )
        r = (item(entries, k) & INDEX) * WIDTH
        todo = _touched(records, r, left, top)
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green, blue = (
            spread(records, r + RED),
            spread(records, r + GREEN),
            spread(records, r + BLUE),
        )
        s = sx = sy = sxx = sxy = syy = s_red = s_green = s_blue = s_depth = fill(np.float32(0.0))
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            if k >= item(block_ends, block):
                continue
            dx, dy = (
                load(state, (block & 7) * BLOCK) - cx,
                load(state, (8 + (block >> 3)) * BLOCK) - cy,
            )
            power = dx * (xx * dx + xy * dy) + yy * dy * dy
            raw = opacity * exp2(power)
            seen = (power <= nothing) & (raw >= least) & (fill(k) < load(ends, block * BLOCK))
            if not any_of(seen):
                continue
            at = TABLES + block * (GIVEN * BLOCK)
            alpha = select(seen, select(raw < most, raw, most), nothing)
            inverse = 1.0 / (1.0 - alpha)
            light, behind = load(state, at), load(state, at + 16)
            g_red, g_green, g_blue = (
                load(state, at + 32),
                load(state, at + 48),
                load(state, at + 64),
            )
            g_depth = load(state, at + 96)
            value = (
                g_red * red
                + g_green * green
                + g_blue * blue
                + g_depth * depth
                + load(state, at + 80)
            )
            v = select(seen & (raw <= most), alpha * inverse * (light * value - behind), nothing)
            light = light * inverse
            weight = alpha * light
            store(state, at, light)
            store(state, at + 16, behind + weight * value)
            vx, vy = v * dx, v * dy
            s, sx, sy = s + v, sx + vx, sy + vy
            sxx, sxy, syy = sxx + vx * dx, sxy + vx * dy, syy + vy * dy
            s_red, s_green, s_blue = (
                s_red + weight * g_red,
                s_green + weight * g_green,
                s_blue + weight * g_blue,
            )
            s_depth = s_depth + weight * g_depth
        sums_of_splat = (s, sx, sy, sxx, sxy, syy, s_red, s_green, s_blue, s_depth)
        store(sums, _row(records, rows, r, left, top) * SUMS, totals(sums_of_splat))
    for k in range(last, stop):
        store(
            sums,
            _row(records, rows, (item(entries, k) & INDEX) * WIDTH, left, top) * SUMS,
            fill(np.float32(0.0)),
        )


@part
def _row(records, rows, r, left, top):
    """Row of a splat's sums in the tile at (left, top)."""
    first_column, first_row = (
        np.int64(item(records, r + LEFT)) // TILE,
        np.int64(item(records, r + TOP)) // TILE,
    )
    across = np.int64(item(records, r + RIGHT)) // TILE - first_column + 1
    return item(rows, r + ROW) + (top // TILE - first_row) * across + left // TILE - first_column


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], float32[:, ::1], float32[::1], "
    "float32[:, ::1], int32[:, ::1],"
    " float32[:, :, ::1], int32[::1], float32[::1])"
)
def draw_back(
    worker, counter, starts, entries, states, records, lights, ends, gradient, rows, sums
):
    """Take tiles until none is left; ``sums`` gets what ``gradient`` [5 h w] means for each splat
    in each tile.

    ``rows`` is ``records`` as integers.
    """
    columns = (gradient.shape[2] + TILE - 1) // TILE
    state = states[worker]
    _fill_tables(state)
    block_ends = np.empty(BLOCKS, np.int64)
    while True:
        tile = take_next(counter)
        if tile >= starts.size - 1:
            return
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        start, stop = starts[tile], starts[tile + 1]
        _start_tile_back(lights[tile], ends[tile], gradient, state, block_ends, left, top, stop)
        _tile_back(
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
        to_conics[i, 0], to_conics[i, 1], to_conics[i, 2] = (
            half * added[3],
            -added[4],
            half * added[5],
        )
        to_opacities[i] = added[0] / opacities[i] if opacities[i] > 0 else np.float32(0.0)
        to_colours[i, 0], to_colours[i, 1], to_colours[i, 2] = added[6], added[7], added[8]
        to_depths[i] = added[9]
