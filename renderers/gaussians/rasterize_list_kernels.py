"""Kernels that sort splats: records of them, lists of those that touch each tile, front to back.

A tile is 32 x 32 pixels: 8 x 8 blocks of 4 x 4. Work is cut so that no result depends on the number
of threads.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import item

TILE = 32
# A record: 16 float32 (a cache line) per splat.
WIDTH = 16
CX, CY, XX, XY, YY, OPACITY, RED, GREEN, BLUE, DEPTH, LEFT, TOP, RIGHT, BOTTOM, ROW = range(15)
LOG2_E = 1.4426950408889634
# pixels by which boxes are widened: rounding must not cut off what the kernels would blend
BOX_SLACK = 1e-3
# bits sorted at once
DIGIT = 11
# up to so many are sorted by insertion
FEW = 48


@kernel(
    "void(int64, int64, float32[:, ::1], float32[:, ::1], float32[::1], float32[::1], "
    "float32[:, ::1], float32[:, ::1],"
    " int64, int64, float32[:, ::1], int64[:, ::1])"
)
def pack_and_count(
    worker,
    workers,
    centres,
    conics,
    depths,
    opacities,
    colours,
    radii,
    height,
    width,
    records,
    counts,
):
    """Write the ``records`` of this worker's splats; count those per tile in ``counts[worker]``."""
    m = depths.size
    columns = (width + TILE - 1) // TILE
    # a slice would do, but takes seconds to compile
    for tile in range(counts.shape[1]):
        counts[worker, tile] = 0
    for i in range(m * worker // workers, m * (worker + 1) // workers):
        cx, cy = centres[i, 0], centres[i, 1]
        rx, ry = radii[i, 0] + np.float32(BOX_SLACK), radii[i, 1] + np.float32(BOX_SLACK)
        half = np.float32(0.5)
        left = max(np.ceil(cx - rx - half), np.float32(0.0))
        top = max(np.ceil(cy - ry - half), np.float32(0.0))
        right = min(np.floor(cx + rx - half), np.float32(width - 1))
        bottom = min(np.floor(cy + ry - half), np.float32(height - 1))
        record = records[i]
        record[CX], record[CY] = cx, cy
        record[XX] = conics[i, 0] * np.float32(-0.5 * LOG2_E)
        record[XY] = conics[i, 1] * np.float32(-LOG2_E)
        record[YY] = conics[i, 2] * np.float32(-0.5 * LOG2_E)
        record[OPACITY] = opacities[i]
        record[RED], record[GREEN], record[BLUE] = colours[i, 0], colours[i, 1], colours[i, 2]
        record[DEPTH] = depths[i]
        # between pixel centres, outside the picture, or not a number
        if not (left <= right and top <= bottom):
            left = top = np.float32(0.0)
            right = bottom = np.float32(-1.0)
        record[LEFT], record[TOP], record[RIGHT], record[BOTTOM] = left, top, right, bottom
        if right >= 0:
            for y in range(int(top) // TILE, int(bottom) // TILE + 1):
                for x in range(int(left) // TILE, int(right) // TILE + 1):
                    counts[worker, y * columns + x] += 1


@kernel("void(int64[:, ::1], int64[::1])")
def place(counts, starts):
    """Turn ``counts`` [workers tiles] into where each worker writes, and ``starts`` [tiles + 1]
    into where lists begin.
    """
    at = 0
    for tile in range(counts.shape[1]):
        starts[tile] = at
        for worker in range(counts.shape[0]):
            found = counts[worker, tile]
            counts[worker, tile] = at
            at += found
    starts[counts.shape[1]] = at


@kernel(
    "void(int64, int64, int64, float32[:, ::1], int32[:, ::1], int32[::1], int64[:, ::1], "
    "int64[::1], int64[::1])"
)
def list_tiles(
    worker, workers, columns, records, records_as_int, depth_bits, places, begins, entries
):
    """Write this worker's splats into the lists of tiles: (depth as an ordered int32) << 32 |
    index.

    ROW of a record becomes how many entries earlier splats have; this worker's first has
    ``begins[worker]``.
    """
    m, row_at = depth_bits.size, begins[worker]
    for i in range(m * worker // workers, m * (worker + 1) // workers):
        record = records[i]
        records_as_int[i, ROW] = row_at
        if record[RIGHT] < 0:
            continue
        bits = np.int64(depth_bits[i])
        # the more negative a float, the larger its bits; -0 is 0
        if bits < 0:
            bits = -(bits & np.int64(0x7FFFFFFF))
        entry = (bits << 32) | i
        for y in range(int(record[TOP]) // TILE, int(record[BOTTOM]) // TILE + 1):
            for x in range(int(record[LEFT]) // TILE, int(record[RIGHT]) // TILE + 1):
                tile = y * columns + x
                entries[places[worker, tile]] = entry
                places[worker, tile] += 1
                row_at += 1


@part
def sort_list(entries, start, stop, scratch, histogram):
    """Sort ``entries[start:stop]`` in place by depth, then index."""
    n = stop - start
    if n <= FEW:
        for i in range(start + 1, stop):
            entry, j = entries[i], i
            while j > start and entries[j - 1] > entry:
                entries[j] = entries[j - 1]
                j -= 1
            entries[j] = entry
        return
    least, most = entries[start] >> 32, entries[start] >> 32
    for i in range(start, stop):
        least, most = min(least, item(entries, i) >> 32), max(most, item(entries, i) >> 32)
    bits = 0
    while (most - least) >> bits:
        bits += 1
    widest = DIGIT if n > 2048 else 8
    passes = max((bits + widest - 1) // widest, 1)
    digit = (bits + passes - 1) // passes
    source, source_at, target, target_at = entries, start, scratch, 0
    # stable, from the least digit on
    for p in range(passes):
        _sort_digit(source, source_at, target, target_at, n, least, p * digit, digit, histogram)
        source, source_at, target, target_at = target, target_at, source, source_at
    if passes % 2:
        for i in range(n):
            entries[start + i] = scratch[i]


@part
def _sort_digit(source, source_at, target, target_at, n, least, shift, digit, histogram):
    mask = (1 << digit) - 1
    for d in range(mask + 1):
        histogram[d] = 0
    for i in range(n):
        histogram[(((item(source, source_at + i) >> 32) - least) >> shift) & mask] += 1
    at = target_at
    for d in range(mask + 1):
        found = histogram[d]
        histogram[d] = at
        at += found
    for i in range(n):
        entry = item(source, source_at + i)
        d = (((entry >> 32) - least) >> shift) & mask
        target[histogram[d]] = entry
        histogram[d] += 1
