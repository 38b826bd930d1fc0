"""Kernels that draw tiles of splats and take gradients back.

The vector is a block of 4 x 4 pixels. Front to back, every splat of a tile visits the blocks that its ellipse may touch and
that still let light through: both are bits of one 64-bit number. What a block has gathered so far stays in the first-level cache.
"""

import numpy as np

from fsm.renderers.compiled import kernel, part
from fsm.renderers.projection import LAST_TRANSMITTANCE, LEAST_ALPHA, MOST_ALPHA
from fsm.renderers.raster_lists import (
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
    TILE,
    TOP,
    WIDTH,
    XX,
    XY,
    YY,
    sort_list,
)
from fsm.renderers.simd import (
    any_of,
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
    total,
    trailing_zeros,
)

LEAST, MOST, LAST = np.float32(LEAST_ALPHA), np.float32(MOST_ALPHA), np.float32(LAST_TRANSMITTANCE)
BLOCKS = 64
BLOCK = 16  # pixels
PIXELS = BLOCKS * BLOCK
GATHERED = 5  # transmittance (negative: the pixel is finished), red, green, blue, depth
NEVER = 2**31 - 1
GRADIENTS = 10  # of a splat in a tile: moments 1, x, y, xx, xy, yy of the gradient over sigma; colour, depth
INDEX = 0xFFFFFFFF
ONE_PER_ROW = 0x0101010101010101


@part
def _touched(records, r, left, top):
    """Bit 8 row + column is set for the blocks of the tile at (left, top) that meet the record's box."""
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
def _start_tile(state, ends, left, top, width, height):
    """All light passes; pixels outside the picture are finished."""
    for block in range(BLOCKS):
        x, y = block_x() + (left + 4 * (block & 7)), block_y() + (top + 4 * (block >> 3))
        inside = (x < fill(np.float32(width))) & (y < fill(np.float32(height)))
        at = block * (GATHERED * BLOCK)
        store(state, at, select(inside, fill(np.float32(1.0)), fill(np.float32(-1.0))))
        for channel in range(1, GATHERED):
            store(state, at + channel * BLOCK, fill(np.float32(0.0)))
        store(ends, block * BLOCK, select(inside, fill(np.int64(NEVER)), fill(np.int64(-1))))


@part
def _draw_tile(entries, start, stop, records, state, ends, left, top, alive):
    """Composite splats ``start`` to ``stop`` into ``state`` [64 5 16]; ``ends`` [64 16] gets where pixels finished."""
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    for k in range(start, stop):
        fetch_ahead(records, (item(entries, min(k + 8, stop - 1)) & INDEX) * WIDTH)
        r = (item(entries, k) & INDEX) * WIDTH
        todo = _touched(records, r, left, top) & alive
        if todo == 0:
            continue
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green, blue = spread(records, r + RED), spread(records, r + GREEN), spread(records, r + BLUE)
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            at = block * (GATHERED * BLOCK)
            dx = (block_x() + 4 * (block & 7)) - cx
            dy = (block_y() + 4 * (block >> 3)) - cy
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


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], int64[:, ::1], float32[::1], int64, int64,"
    " float32[:, :, ::1], int64, float32[:, ::1], int32[:, ::1])"
)
def draw(worker, counter, starts, entries, scratch, records, height, width, picture, keep, lights, ends):
    """Sort and draw tiles until none is left.

    ``picture`` [5 h w] gets colour, alpha, depth · alpha; if ``keep``, ``lights`` and ``ends`` [tiles 1024] what gradients need.
    """
    columns = (width + TILE - 1) // TILE
    state = np.empty(PIXELS * GATHERED, np.float32)
    own_ends = np.empty(PIXELS, np.int32)
    histogram = np.empty(2048, np.int64)
    while True:
        tile = take_next(counter)
        if tile >= starts.size - 1:
            return
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        _start_tile(state, own_ends, left, top, width, height)
        start, stop = starts[tile], starts[tile + 1]
        sort_list(entries, start, stop, scratch[worker], histogram)
        _draw_tile(entries, start, stop, records, state, own_ends, left, top, _blocks_inside(left, top, width, height))
        for y in range(min(TILE, height - top)):
            for x in range(min(TILE, width - left)):
                block, pixel = (y >> 2) * 8 + (x >> 2), (y & 3) * 4 + (x & 3)
                at = block * (GATHERED * BLOCK) + pixel
                picture[3, top + y, left + x] = np.float32(1.0) - abs(state[at])
                picture[0, top + y, left + x] = state[at + 16]
                picture[1, top + y, left + x] = state[at + 32]
                picture[2, top + y, left + x] = state[at + 48]
                picture[4, top + y, left + x] = state[at + 64]
        if keep:
            ends[tile] = own_ends
            for block in range(BLOCKS):
                store(lights[tile], block * BLOCK, load(state, block * (GATHERED * BLOCK)))


GIVEN = 7  # light after, gathered behind, and the gradients of the picture


@part
def _start_tile_back(lights, ends, gradient, state, block_ends, left, top, stop):
    """State of every block behind its last splat; ``block_ends`` [64]: no pixel of it sees that splat or a later one."""
    height, width = gradient.shape[1], gradient.shape[2]
    for block in range(BLOCKS):
        block_ends[block] = 0
        for pixel in range(BLOCK):
            x, y = left + 4 * (block & 7) + (pixel & 3), top + 4 * (block >> 3) + (pixel >> 2)
            at = block * (GIVEN * BLOCK) + pixel
            state[at] = abs(lights[block * BLOCK + pixel])
            state[at + 16] = 0.0
            inside = x < width and y < height
            for channel in range(5):
                state[at + 32 + channel * BLOCK] = gradient[channel, y, x] if inside else np.float32(0.0)
            block_ends[block] = max(block_ends[block], min(np.int64(ends[block * BLOCK + pixel]), stop))


@part
def _tile_back(entries, start, stop, records, state, ends, block_ends, left, top, columns, rows, sums):
    """Walk from back to front; every splat's sums over the tile's pixels go to its row for this tile."""
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    last = start
    for block in range(BLOCKS):
        last = max(last, block_ends[block])
    for k in range(last - 1, start - 1, -1):
        fetch_ahead(records, (item(entries, max(k - 8, start)) & INDEX) * WIDTH)
        i = item(entries, k) & INDEX
        r = i * WIDTH
        todo = _touched(records, r, left, top)
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green, blue = spread(records, r + RED), spread(records, r + GREEN), spread(records, r + BLUE)
        s = sx = sy = sxx = sxy = syy = s_red = s_green = s_blue = s_depth = fill(np.float32(0.0))
        met = False
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            if k >= item(block_ends, block):
                continue
            dx = (block_x() + 4 * (block & 7)) - cx
            dy = (block_y() + 4 * (block >> 3)) - cy
            power = dx * (xx * dx + xy * dy) + yy * dy * dy
            raw = opacity * exp2(power)
            seen = (power <= nothing) & (raw >= least) & (fill(k) < load(ends, block * BLOCK))
            if not any_of(seen):
                continue
            met = True
            at = block * (GIVEN * BLOCK)
            alpha = select(seen, select(raw < most, raw, most), nothing)
            inverse = 1.0 / (1.0 - alpha)
            light, behind = load(state, at), load(state, at + 16)
            g_red, g_green, g_blue = load(state, at + 32), load(state, at + 48), load(state, at + 64)
            g_depth = load(state, at + 96)
            value = g_red * red + g_green * green + g_blue * blue + g_depth * depth + load(state, at + 80)
            v = select(seen & (raw <= most), alpha * inverse * (light * value - behind), nothing)
            light = light * inverse
            weight = alpha * light
            store(state, at, light)
            store(state, at + 16, behind + weight * value)
            vx, vy = v * dx, v * dy
            s, sx, sy = s + v, sx + vx, sy + vy
            sxx, sxy, syy = sxx + vx * dx, sxy + vx * dy, syy + vy * dy
            s_red, s_green, s_blue = s_red + weight * g_red, s_green + weight * g_green, s_blue + weight * g_blue
            s_depth = s_depth + weight * g_depth
        if met:
            first_column, first_row = (
                np.int64(item(records, r + LEFT)) // TILE,
                np.int64(item(records, r + TOP)) // TILE,
            )
            across = np.int64(item(records, r + RIGHT)) // TILE - first_column + 1
            row = sums[rows[i] + (top // TILE - first_row) * across + left // TILE - first_column]
            row[0], row[1], row[2], row[3], row[4] = total(s), total(sx), total(sy), total(sxx), total(sxy)
            row[5], row[6], row[7], row[8], row[9] = (
                total(syy),
                total(s_red),
                total(s_green),
                total(s_blue),
                total(s_depth),
            )


@kernel(
    "void(int64, int64[::1], int64[::1], int64[::1], float32[::1], float32[:, ::1], int32[:, ::1],"
    " float32[:, :, ::1], int64[::1], float32[:, ::1])"
)
def draw_back(worker, counter, starts, entries, records, lights, ends, gradient, rows, sums):
    """Gradients of tiles until none is left: ``sums`` [rows 10] of what ``gradient`` [5 h w] means for each splat in each tile."""
    columns = (gradient.shape[2] + TILE - 1) // TILE
    state = np.empty(PIXELS * GIVEN, np.float32)
    block_ends = np.empty(BLOCKS, np.int64)
    while True:
        tile = take_next(counter)
        if tile >= starts.size - 1:
            return
        left, top = (tile % columns) * TILE, (tile // columns) * TILE
        start, stop = starts[tile], starts[tile + 1]
        _start_tile_back(lights[tile], ends[tile], gradient, state, block_ends, left, top, stop)
        _tile_back(entries, start, stop, records, state, ends[tile], block_ends, left, top, columns, rows, sums)


@kernel("void(int64, int64, float32[:, ::1], int64[::1], int64[::1])")
def count_rows(worker, workers, records, begins, rows):
    """``rows[i]``: where the sums of splat i begin, one row for each tile of its box; this worker's from ``begins[worker]`` on.

    On return ``begins[worker]`` is where they end.
    """
    m = rows.size
    at = begins[worker]
    for i in range(m * worker // workers, m * (worker + 1) // workers):
        rows[i] = at
        record = records[i]
        if record[RIGHT] >= 0:
            columns = (int(record[RIGHT]) // TILE) - (int(record[LEFT]) // TILE) + 1
            at += columns * ((int(record[BOTTOM]) // TILE) - (int(record[TOP]) // TILE) + 1)
    begins[worker] = at


@kernel(
    "void(int64, int64, int64[::1], int64, float32[:, ::1], float32[:, ::1], float32[::1],"
    " float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], float32[:, ::1])"
)
def gather_gradients(
    worker, workers, rows, end, sums, conics, opacities, to_centres, to_conics, to_depths, to_opacities, to_colours
):
    """Add up the rows of this worker's splats, always in the same order, and turn them into gradients."""
    m = rows.size
    for i in range(m * worker // workers, m * (worker + 1) // workers):
        s = sx = sy = sxx = sxy = syy = red = green = blue = depth = np.float32(0.0)
        for j in range(rows[i], rows[i + 1] if i + 1 < m else end):
            row = sums[j]
            s, sx, sy, sxx, sxy, syy = s + row[0], sx + row[1], sy + row[2], sxx + row[3], sxy + row[4], syy + row[5]
            red, green, blue, depth = red + row[6], green + row[7], blue + row[8], depth + row[9]
        to_centres[i, 0] = conics[i, 0] * sx + conics[i, 1] * sy
        to_centres[i, 1] = conics[i, 1] * sx + conics[i, 2] * sy
        to_conics[i, 0], to_conics[i, 1], to_conics[i, 2] = np.float32(-0.5) * sxx, -sxy, np.float32(-0.5) * syy
        to_depths[i] = depth
        to_opacities[i] = s / opacities[i] if opacities[i] > 0 else np.float32(0.0)
        to_colours[i, 0], to_colours[i, 1], to_colours[i, 2] = red, green, blue
