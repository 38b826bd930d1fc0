"""Kernels of ``sweep_cpu``: how far reference frames disagree at swept inverse depths, and the gradients of the frames.

A pixel of a map is one vector: its channels stand side by side, filled up to LANES. LANES neighbouring pixels of a target are
taken together at one inverse depth. Their positions are found in plain float32, in the order of ``reference_sampling``, so that
what lies near the border of a frame lies on the same side of it.
"""

import numpy as np

from fsm.compiled import kernel, part
from fsm.renderers.plane_sweep import COLOURS, MOST_CHANNELS, UNSEEN
from fsm.simd import absolute, fill, item, load, select, spread, store, totals

LANES = MOST_CHANNELS  # channels of a map, filled up; target pixels taken together
TOGETHER = 4  # targets whose gradients are summed in one buffer; of threads it must not depend
AHEAD = np.float32(1e-3)

# Places in a worker's room of float32. Per reference: directions x, y, z of the LANES points; weights of their four corners;
# their samples. Behind those: inverse depths, or slopes over both costs; sums or spreads of the points; 1 / count.
WEIGHTS, SAMPLES, ROOM = 3 * LANES, 7 * LANES, 7 * LANES + LANES * LANES
RHO, SLOPES, SUMS, SHARES = 0, LANES, 3 * LANES, 3 * LANES + LANES * LANES
MAPS, CHOSEN, GIVEN = "float32[:, :, :, :, ::1]", "int64[:, :, ::1]", "float32[:, :, :, ::1], float32[:, :, ::1]"
RHOS, COSTS = "float32[:, :, :, :, :]", "float32[:, :, :, :, :, ::1]"


@part
def _directions(room, first, camera, lens, y, left):
    """Where rays of LANES pixels of a row point, as seen from a reference."""
    half = np.float32(0.5)
    ray_y = (np.float32(y) + half - lens[3]) / lens[1]
    for l in range(LANES):
        at = np.uintp(first + l)
        ray_x = (np.float32(np.int32(left + l)) + half - lens[2]) / lens[0]
        room[at] = camera[0] * ray_x + camera[1] * ray_y + camera[2]
        room[at + np.uintp(LANES)] = camera[3] * ray_x + camera[4] * ray_y + camera[5]
        room[at + np.uintp(2 * LANES)] = camera[6] * ray_x + camera[7] * ray_y + camera[8]


@part
def _locate(room, cells, tail, j, camera, hn, wn):
    """Upper left cell (-1: not seen) and weights of the four corners in reference ``j`` of LANES points."""
    one, half, two, zero = np.float32(1.0), np.float32(0.5), np.float32(2.0), np.float32(0.0)
    width, height = np.float32(wn), np.float32(hn)
    last_x, last_y, row = np.int32(max(wn - 2, 0)), np.int32(max(hn - 2, 0)), np.int32(wn)
    ox, oy, oz, fx, fy, cx, cy = camera[9], camera[10], camera[11], camera[12], camera[13], camera[14], camera[15]
    for l in range(LANES):
        at, to = np.uintp(j * ROOM + l), np.uintp(j * ROOM + WEIGHTS + l)
        rho = room[np.uintp(tail + RHO + l)]
        z = room[at + np.uintp(2 * LANES)] + oz * rho
        ahead = z > AHEAD
        scale = one / (z if ahead else one)
        px = (room[at] + ox * rho) * scale * fx + cx
        py = (room[at + np.uintp(LANES)] + oy * rho) * scale * fy + cy
        ax, ay = px / width * two - one, py / height * two - one
        inside = ahead & (abs(ax) <= one) & (abs(ay) <= one)
        x = min(max((ax + one) * (half * width) - half, zero), width - one)
        y = min(max((ay + one) * (half * height) - half, zero), height - one)
        x, y = (x if inside else zero), (y if inside else zero)
        x0, y0 = min(np.int32(x), last_x), min(np.int32(y), last_y)
        rx, ry = x - np.float32(x0), y - np.float32(y0)
        room[to], room[to + np.uintp(LANES)] = (one - rx) * (one - ry), rx * (one - ry)
        room[to + np.uintp(2 * LANES)], room[to + np.uintp(3 * LANES)] = (one - rx) * ry, rx * ry
        cells[np.uintp(j * LANES + l)] = np.int32(y0 * row + x0) if inside else np.int32(-1)


@part
def _sample(maps, starts, room, cells, counts, tail, right, down, wide):
    """Samples of ``wide`` points from the references that see them, their sums and numbers."""
    for l in range(wide):
        total, count = fill(np.float32(0.0)), 0
        for j in range(len(starts)):
            cell = item(cells, j * LANES + l)
            if cell >= 0:
                o, w = item(starts, j) + np.int64(cell) * LANES, j * ROOM + WEIGHTS + l
                above = load(maps, o) * spread(room, w) + load(maps, o + right) * spread(room, w + LANES)
                o, w = o + down, w + 2 * LANES
                below = load(maps, o) * spread(room, w) + load(maps, o + right) * spread(room, w + LANES)
                store(room, j * ROOM + SAMPLES + l * LANES, above + below)
                total = total + (above + below)
                count += 1
        store(room, tail + SUMS + l * LANES, total)
        counts[l] = count


@part
def _compare(room, cells, counts, tail, k, wide):
    """Mean distances of the points' samples from their means in the place of the sums."""
    for l in range(wide):
        far, share = fill(np.float32(0.0)), spread(room, tail + SHARES + counts[l])
        if counts[l] > 1:
            mean = load(room, tail + SUMS + l * LANES) * share
            for j in range(k):
                if item(cells, j * LANES + l) >= 0:
                    far = far + absolute(load(room, j * ROOM + SAMPLES + l * LANES) - mean)
        store(room, tail + SUMS + l * LANES, far * share)


@part
def _summed(room, at, weights, group):
    """Weighted sums over the channels of LANES points."""
    w = load(weights, group * LANES)
    return totals((
        load(room, at) * w, load(room, at + 16) * w, load(room, at + 32) * w, load(room, at + 48) * w,
        load(room, at + 64) * w, load(room, at + 80) * w, load(room, at + 96) * w, load(room, at + 112) * w,
        load(room, at + 128) * w, load(room, at + 144) * w, load(room, at + 160) * w, load(room, at + 176) * w,
        load(room, at + 192) * w, load(room, at + 208) * w, load(room, at + 224) * w, load(room, at + 240) * w,
    ))  # fmt: skip


@part
def _begin(k, channels):
    """Room (from a cache line's start on), cells, counts, starts of frames, weights of the channels in the two costs."""
    tail = k * ROOM
    room = np.zeros(tail + SHARES + k + 1 + LANES, np.float32)
    room = room[(-room.ctypes.data % 64) // 4 :]
    for n in range(1, k + 1):
        room[tail + SHARES + n] = np.float32(1.0) / np.float32(n)
    weights = np.zeros(2 * LANES, np.float32)
    for c in range(channels):
        group, size = (0, min(COLOURS, channels)) if c < COLOURS else (1, channels - COLOURS)
        weights[group * LANES + c] = np.float32(1.0) / np.float32(size)
    return room, np.zeros(k * LANES, np.int32), np.zeros(LANES, np.int64), np.zeros(k, np.int64), weights


@kernel(f"void(int64, int64, int64, {MAPS}, {CHOSEN}, {GIVEN}, {RHOS}, {COSTS})")
def disagree(worker, workers, channels, maps, chosen, cameras, lenses, rho, cost):
    """Fill ``cost`` [b v d 2 h w]: rows of the targets in turn."""
    b, v, d, _, h, w = cost.shape
    k, n, hn, wn = chosen.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, right, down = maps.reshape(-1), LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (room, cells, counts, starts, weights), tail = _begin(k, channels), k * ROOM
    for task in range(worker, b * v * h, workers):
        s, t, y = task // (v * h), task // h % v, task % h
        for j in range(k):
            starts[j] = (s * n + chosen[s, t, j]) * hn * wn * LANES
        for left in range(0, w, LANES):
            wide = min(LANES, w - left)
            for j in range(k):
                _directions(room, j * ROOM, cameras[s, t, j], lenses[s, t], y, left)
            for i in range(d):
                for l in range(wide):
                    room[tail + RHO + l] = rho[s, t, i, y, left + l]
                for j in range(k):
                    _locate(room, cells, tail, j, cameras[s, t, j], hn, wn)
                _sample(flat, starts, room, cells, counts, tail, right, down, wide)
                _compare(room, cells, counts, tail, k, wide)
                for group in range(2):
                    store(room, tail + SLOPES, _summed(room, tail + SUMS, weights, group))
                    for l in range(wide):
                        unseen = np.float32(UNSEEN) if counts[l] < 2 else np.float32(0.0)
                        cost[s, t, i, group, y, left + l] = room[tail + SLOPES + l] + unseen


@part
def _add(sums, at, value, weight):
    """Add to LANES neighbours."""
    store(sums, at, load(sums, at) + value * weight)


@part
def _scatter(sums, starts, room, cells, counts, weights, tail, right, down, wide):
    """Add to ``sums`` the gradients of samples of ``wide`` points, given those of their costs."""
    zero, one = fill(np.float32(0.0)), fill(np.float32(1.0))
    for l in range(wide):
        if counts[l] > 1:
            share, signs = spread(room, tail + SHARES + counts[l]), zero
            mean = load(room, tail + SUMS + l * LANES) * share
            for j in range(len(starts)):
                if item(cells, j * LANES + l) >= 0:
                    at = j * ROOM + SAMPLES + l * LANES
                    far = load(room, at) - mean
                    sign = select(far > 0.0, one, zero) - select(far < 0.0, one, zero)
                    store(room, at, sign)
                    signs = signs + sign
            signs = signs * share
            slope = load(weights, 0) * spread(room, tail + SLOPES + l)
            slope = (slope + load(weights, LANES) * spread(room, tail + SLOPES + LANES + l)) * share
            for j in range(len(starts)):
                cell = item(cells, j * LANES + l)
                if cell >= 0:
                    o, w = item(starts, j) + np.int64(cell) * LANES, j * ROOM + WEIGHTS + l
                    value = slope * (load(room, j * ROOM + SAMPLES + l * LANES) - signs)
                    _add(sums, o, value, spread(room, w))
                    _add(sums, o + right, value, spread(room, w + LANES))
                    _add(sums, o + down, value, spread(room, w + 2 * LANES))
                    _add(sums, o + down + right, value, spread(room, w + 3 * LANES))


@kernel(f"void(int64, int64, int64, {MAPS}, {CHOSEN}, {GIVEN}, {RHOS}, {COSTS}, {COSTS})")
def disagree_back(worker, workers, channels, maps, chosen, cameras, lenses, rho, slopes, sums):
    """Add to ``sums`` [b groups n hn wn LANES] the gradients of the maps by each group of TOGETHER targets."""
    b, v, d, _, h, w = slopes.shape
    k, n, hn, wn = chosen.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, out, right, down = maps.reshape(-1), sums.reshape(-1), LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (room, cells, counts, starts, weights), tail = _begin(k, channels), k * ROOM
    targets, groups = np.zeros(k, np.int64), sums.shape[1]
    for task in range(worker, b * groups, workers):
        s, group = task // groups, task % groups
        for row in range(group * TOGETHER * h, min(group * TOGETHER + TOGETHER, v) * h):
            t, y = row // h, row % h
            for j in range(k):
                starts[j] = (s * n + chosen[s, t, j]) * hn * wn * LANES
                targets[j] = (task * n + chosen[s, t, j]) * hn * wn * LANES
            for left in range(0, w, LANES):
                wide = min(LANES, w - left)
                for j in range(k):
                    _directions(room, j * ROOM, cameras[s, t, j], lenses[s, t], y, left)
                for i in range(d):
                    for l in range(wide):
                        room[tail + RHO + l] = rho[s, t, i, y, left + l]
                        room[tail + SLOPES + l] = slopes[s, t, i, 0, y, left + l]
                        room[tail + SLOPES + LANES + l] = slopes[s, t, i, 1, y, left + l]
                    for j in range(k):
                        _locate(room, cells, tail, j, cameras[s, t, j], hn, wn)
                    _sample(flat, starts, room, cells, counts, tail, right, down, wide)
                    _scatter(out, targets, room, cells, counts, weights, tail, right, down, wide)


@kernel(f"void(int64, int64, {CHOSEN}, {COSTS}, {MAPS})")
def add_up(worker, workers, chosen, sums, out):
    """The groups' gradients, in their order, as ``out`` [b n c hn wn]."""
    b, n, channels, hn, wn = out.shape
    v, k = chosen.shape[1], chosen.shape[2]
    for task in range(worker, b * n, workers):
        s, frame = task // n, task % n
        out[s, frame] = np.float32(0.0)
        for group in range(sums.shape[1]):
            used = False
            for t in range(group * TOGETHER, min(group * TOGETHER + TOGETHER, v)):
                for j in range(k):
                    used |= chosen[s, t, j] == frame
            if used:
                for y in range(hn):
                    for c in range(channels):
                        for x in range(wn):
                            out[s, frame, c, y, x] += sums[s, group, frame, y, x, c]
