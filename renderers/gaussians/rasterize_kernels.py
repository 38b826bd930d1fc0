"""Kernels that blend the splats of tiles.

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
    trailing_zeros,
)
from fsm.renderers.gaussians.constants import LAST_TRANSMITTANCE, LEAST_ALPHA, MOST_ALPHA
from fsm.renderers.gaussians.rasterize_list_kernels import (
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

LEAST, MOST, LAST = np.float32(LEAST_ALPHA), np.float32(MOST_ALPHA), np.float32(LAST_TRANSMITTANCE)
BLOCKS = 64
# pixels of a block
BLOCK = 16
PIXELS = BLOCKS * BLOCK
# transmittance (negative: the pixel is finished), red, green, blue, depth
GATHERED = 5
NEVER = 2**31 - 1
# before the blocks: x of the pixels of every column of blocks, y of every row of blocks
TABLES = 2 * 8 * BLOCK
INDEX = 0xFFFFFFFF
ONE_PER_ROW = 0x0101010101010101


@part
def touched(records, r, left, top):
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
def fill_tables(state):
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
def _blend_tile(entries, start, stop, records, state, ends, left, top, alive):
    """Composite splats ``start`` to ``stop`` into ``state`` [64 5 16]; ``ends`` [64 16] gets where
    pixels finished.

    Returns how many blocks were looked at.
    """
    least, most, nothing = fill(LEAST), fill(MOST), fill(np.float32(0.0))
    visits = 0
    for k in range(start, stop):
        fetch_ahead(records, (item(entries, min(k + 8, stop - 1)) & INDEX) * WIDTH)
        r = (item(entries, k) & INDEX) * WIDTH
        todo = touched(records, r, left, top) & alive
        if todo == 0:
            continue
        visits += bits_set(todo)
        cx, cy = spread(records, r + CX) - left, spread(records, r + CY) - top
        xx, xy, yy = spread(records, r + XX), spread(records, r + XY), spread(records, r + YY)
        opacity, depth = spread(records, r + OPACITY), spread(records, r + DEPTH)
        red, green = spread(records, r + RED), spread(records, r + GREEN)
        blue = spread(records, r + BLUE)
        while todo != 0:
            block = trailing_zeros(todo)
            todo &= todo - 1
            at = TABLES + block * (GATHERED * BLOCK)
            dx = load(state, (block & 7) * BLOCK) - cx
            dy = load(state, (8 + (block >> 3)) * BLOCK) - cy
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
def blend(
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
    """Take tiles until none is left (``counter[0]``), sort and blend them; ``counter[1 + worker]``
    counts blocks looked at.

    ``picture`` [5 h w] gets colour, alpha, depth · alpha; if ``keep``, ``lights`` and ``ends``
    [tiles 1024] what gradients need.
    """
    columns = (width + TILE - 1) // TILE
    state = states[worker]
    own_ends = state[TABLES + PIXELS * GATHERED :].view(np.int32)
    fill_tables(state)
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
        counter[1 + worker] += _blend_tile(
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
