"""Kernels of ``windows_cpu``: means over windows and boxes, slopes of pictures."""

import numpy as np

from fsm.kernels.compiled import kernel, loose_part

PICTURES, FIVE = "float32[:, :, ::1]", "float32[:, :, :, :, ::1]"


@loose_part
def _add_row(total, row):
    for x in range(len(row)):
        total[x] += row[x]


@loose_part
def _scale_row(row, scale):
    for x in range(len(row)):
        row[x] *= scale


@loose_part
def _add_neighbours(out, row, half):
    w = len(row)
    for step in range(1, min(half, w - 1) + 1):
        for x in range(w - step):
            out[x] += row[x + step]
        for x in range(w - step):
            out[x + step] += row[x]


@kernel(f"void(int64, int64, int64, {PICTURES}, {PICTURES})")
def average(worker, workers, side, values, means):
    """Fill means of pictures over squares of odd ``side``, at the border over what there is."""
    n, h, w = values.shape
    half, one = side // 2, np.float32(1.0)
    total, shares = np.zeros(w, np.float32), np.zeros(w, np.float32)
    for x in range(w):
        shares[x] = one / np.float32(min(x + half, w - 1) - max(x - half, 0) + 1)
    for task in range(worker, n, workers):
        for y in range(h):
            first, last = max(y - half, 0), min(y + half, h - 1)
            total[:] = np.float32(0.0)
            for row in range(first, last + 1):
                _add_row(total, values[task, row])
            _scale_row(total, one / np.float32(last - first + 1))
            out = means[task, y]
            out[:] = total
            _add_neighbours(out, total, half)
            for x in range(w):
                out[x] *= shares[x]


@loose_part
def _add_groups(out, row, across, scale):
    for x in range(len(out)):
        total = row[x * across]
        for i in range(1, across):
            total += row[x * across + i]
        out[x] = total * scale


@kernel(f"void(int64, int64, {PICTURES}, {PICTURES})")
def shrink(worker, workers, values, means):
    """Fill means of pictures over boxes."""
    n, h, w = means.shape
    down, across = values.shape[1] // h, values.shape[2] // w
    scale, total = np.float32(1.0 / (down * across)), np.zeros(values.shape[2], np.float32)
    for task in range(worker, n, workers):
        for y in range(h):
            total[:] = values[task, y * down]
            for i in range(1, down):
                _add_row(total, values[task, y * down + i])
            _add_groups(means[task, y], total, across, scale)


@loose_part
def _slopes(above, row, below, scale, right, down):
    w, half = len(row), np.float32(0.5)
    right[0], right[w - 1] = row[1] - row[0], row[w - 1] - row[w - 2]
    for x in range(1, w - 1):
        right[x] = (row[x + 1] - row[x - 1]) * half
    for x in range(w):
        down[x] = (below[x] - above[x]) * scale


@kernel(f"void(int64, int64, {FIVE}, {FIVE})")
def differentiate(worker, workers, frames, maps):
    """Fill ``maps`` [b n 9 h w]: colours, their changes to the right, those downwards."""
    b, n, _, h, _ = frames.shape
    for task in range(worker, 3 * b * n, workers):
        s, t, c = task // (3 * n), task // 3 % n, task % 3
        picture = frames[s, t, c]
        for y in range(h):
            first, last = max(y - 1, 0), min(y + 1, h - 1)
            maps[s, t, c, y] = picture[y]
            _slopes(
                picture[first], picture[y], picture[last], np.float32(1.0 / (last - first)),
                maps[s, t, 3 + c, y], maps[s, t, 6 + c, y],
            )  # fmt: skip
