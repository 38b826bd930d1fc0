"""Kernels of ``sweep_cpu``: how far reference frames are from a picture at swept inverse depths,
and the gradients of both.

A pixel of a map is one vector: its channels stand side by side, filled up to LANES. LANES
neighbouring pixels of a view are taken together at one inverse depth. Their positions are found in
plain float32, in the order of ``reference_sampling``, so that what lies near the border of a frame
lies on the same side of it.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import absolute, fill, item, least, load, most, select, spread, store, totals
from fsm.renderers.stereo.cost_volume import COLOURS, COSTS, MOST_CHANNELS, UNSEEN

LANES = MOST_CHANNELS  # channels of a map, filled up; pixels of a view taken together
TOGETHER = 4  # views whose gradients are summed in one buffer; of threads it must not depend
AHEAD = np.float32(1e-3)
BEYOND = 1e30  # distance of what is not seen

# Places in a worker's room of float32. Per reference: directions x, y, z of the LANES points;
# weights of their four corners; distances in both groups of channels, or their slopes; samples,
# less the picture. Behind those: inverse depths, the four costs or their slopes, how many
# references see a point, half of them (rounded up), what of both is one reference's share;
# distances in order.
WEIGHTS, DISTANCES, SAMPLES, ROOM = 3 * LANES, 7 * LANES, 9 * LANES, 9 * LANES + LANES * LANES
RHO, SLOPES, COUNT, HALF, RANKED = 0, LANES, 5 * LANES, 6 * LANES, 9 * LANES
SHARES = 7 * LANES  # of half of the references, of all
MAPS, CHOSEN, GIVEN = (
    "float32[:, :, :, :, ::1]",
    "int64[:, :, ::1]",
    "float32[:, :, :, ::1], float32[:, :, ::1]",
)
RHOS, SIX_AXES = "float32[:, :, :, :, :]", "float32[:, :, :, :, :, ::1]"


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
    """Upper left cell (-1: not seen) and weights of the four corners in reference ``j`` of LANES
    points.
    """
    one, half, two, zero = np.float32(1.0), np.float32(0.5), np.float32(2.0), np.float32(0.0)
    width, height = np.float32(wn), np.float32(hn)
    last_x, last_y, row = np.int32(max(wn - 2, 0)), np.int32(max(hn - 2, 0)), np.int32(wn)
    ox, oy, oz, fx, fy, cx, cy = (
        camera[9],
        camera[10],
        camera[11],
        camera[12],
        camera[13],
        camera[14],
        camera[15],
    )
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
def _compare(maps, picture, at, starts, room, cells, weights, right, down, wide):
    """What ``wide`` points look like in the references that see them, less the picture; how far
    both groups of channels are off.
    """
    for j in range(len(starts)):
        for l in range(wide):
            cell = item(cells, j * LANES + l)
            if cell >= 0:
                o, w = item(starts, j) + np.int64(cell) * LANES, j * ROOM + WEIGHTS + l
                above = load(maps, o) * spread(room, w) + load(maps, o + right) * spread(
                    room, w + LANES
                )
                o, w = o + down, w + 2 * LANES
                below = load(maps, o) * spread(room, w) + load(maps, o + right) * spread(
                    room, w + LANES
                )
                store(
                    room,
                    j * ROOM + SAMPLES + l * LANES,
                    above + below - load(picture, at + l * LANES),
                )
        seen = load(cells, j * LANES) >= 0
        for group in range(2):
            far = select(
                seen, _distances(room, j * ROOM + SAMPLES, weights, group), fill(np.float32(BEYOND))
            )
            store(room, j * ROOM + DISTANCES + group * LANES, far)


@part
def _distances(room, at, weights, group):
    """Weighted sums over the absolute channels of LANES points."""
    w = load(weights, group * LANES)
    return totals((
        absolute(load(room, at)) * w, absolute(load(room, at + 16)) * w,
        absolute(load(room, at + 32)) * w, absolute(load(room, at + 48)) * w,
        absolute(load(room, at + 64)) * w, absolute(load(room, at + 80)) * w,
        absolute(load(room, at + 96)) * w, absolute(load(room, at + 112)) * w,
        absolute(load(room, at + 128)) * w, absolute(load(room, at + 144)) * w,
        absolute(load(room, at + 160)) * w, absolute(load(room, at + 176)) * w,
        absolute(load(room, at + 192)) * w, absolute(load(room, at + 208)) * w,
        absolute(load(room, at + 224)) * w, absolute(load(room, at + 240)) * w,
    ))  # fmt: skip


@part
def _count(room, cells, tail, k):
    """How many references see each of LANES points, half of them rounded up, and the shares of one
    among both.
    """
    one, zero = fill(np.float32(1.0)), fill(np.float32(0.0))
    count = zero
    for j in range(k):
        count = count + select(load(cells, j * LANES) >= 0, one, zero)
    half = zero
    for j in range(k):
        half = half + select(count > np.float32(2 * j), one, zero)
    store(room, tail + COUNT, count)
    store(room, tail + HALF, half)
    store(room, tail + SHARES, one / most(half, one))
    store(room, tail + SHARES + LANES, one / most(count, one))


@part
def _rank(room, tail, k, group):
    """Put the distances of LANES points in order, the least first; those that nobody sees come
    last.
    """
    for j in range(k):
        value = load(room, j * ROOM + DISTANCES + group * LANES)
        for i in range(j):
            other = load(room, tail + RANKED + i * LANES)
            store(room, tail + RANKED + i * LANES, least(other, value))
            value = most(other, value)
        store(room, tail + RANKED + j * LANES, value)


@part
def _begin(k, channels):
    """Room (from a cache line's start on), cells, starts of frames, weights of the channels in the
    two groups.
    """
    room = np.zeros(k * ROOM + RANKED + k * LANES + LANES, np.float32)
    room = room[(-room.ctypes.data % 64) // 4 :]
    weights = np.zeros(2 * LANES, np.float32)
    for c in range(channels):
        group, size = (0, min(COLOURS, channels)) if c < COLOURS else (1, channels - COLOURS)
        weights[group * LANES + c] = np.float32(1.0) / np.float32(size)
    return room, np.zeros(k * LANES, np.int32), np.zeros(k, np.int64), weights


@kernel(f"void(int64, int64, int64, {MAPS}, {MAPS}, {CHOSEN}, {GIVEN}, {RHOS}, {SIX_AXES})")
def disagree(worker, workers, channels, maps, pictures, chosen, cameras, lenses, rho, cost):
    """Fill ``cost`` [b v d 4 h w]: rows of the views in turn."""
    b, v, d, _, h, w = cost.shape
    k, n, hn, wn = chosen.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, picture = maps.reshape(-1), pictures.reshape(-1)
    right, down = LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (room, cells, starts, weights), tail = _begin(k, channels), k * ROOM
    zero, unseen = fill(np.float32(0.0)), fill(np.float32(UNSEEN))
    for task in range(worker, b * v * h, workers):
        s, t, y = task // (v * h), task // h % v, task % h
        for j in range(k):
            starts[j] = (s * n + chosen[s, t, j]) * hn * wn * LANES
        for left in range(0, w, LANES):
            wide, at = min(LANES, w - left), (task * w + left) * LANES
            for j in range(k):
                _directions(room, j * ROOM, cameras[s, t, j], lenses[s, t], y, left)
            for i in range(d):
                for l in range(wide):
                    room[tail + RHO + l] = rho[s, t, i, y, left + l]
                for j in range(k):
                    _locate(room, cells, tail, j, cameras[s, t, j], hn, wn)
                _compare(flat, picture, at, starts, room, cells, weights, right, down, wide)
                _count(room, cells, tail, k)
                count, half = load(room, tail + COUNT), load(room, tail + HALF)
                for group in range(2):
                    _rank(room, tail, k, group)
                    of_half, of_all = (
                        select(count > 0.0, zero, unseen),
                        select(count > 0.0, zero, unseen),
                    )
                    for j in range(k):
                        value = load(room, tail + RANKED + j * LANES)
                        of_half = of_half + select(
                            half > np.float32(j), value * load(room, tail + SHARES), zero
                        )
                        of_all = of_all + select(
                            count > np.float32(j), value * load(room, tail + SHARES + LANES), zero
                        )
                    store(room, tail + SLOPES + 2 * group * LANES, of_half)
                    store(room, tail + SLOPES + (2 * group + 1) * LANES, of_all)
                for c in range(COSTS):
                    for l in range(wide):
                        cost[s, t, i, c, y, left + l] = room[tail + SLOPES + c * LANES + l]


@part
def _add(sums, at, value, weight):
    """Add to LANES neighbours."""
    store(sums, at, load(sums, at) + value * weight)


@part
def _slopes_of_distances(room, cells, tail, k):
    """How the costs of LANES points change with each reference's distances, in the place of
    these.
    """
    zero, one = fill(np.float32(0.0)), fill(np.float32(1.0))
    _count(room, cells, tail, k)
    half = load(room, tail + HALF)
    for group in range(2):
        of_half = load(room, tail + SLOPES + 2 * group * LANES) * load(room, tail + SHARES)
        of_all = load(room, tail + SLOPES + (2 * group + 1) * LANES) * load(
            room, tail + SHARES + LANES
        )
        for j in range(k):
            store(room, tail + RANKED + j * LANES, load(room, j * ROOM + DISTANCES + group * LANES))
        for j in range(k):
            # of equals the first comes first
            distance, rank = load(room, tail + RANKED + j * LANES), zero
            for i in range(k):
                other = load(room, tail + RANKED + i * LANES)
                rank = rank + (
                    select(other <= distance, one, zero)
                    if i < j
                    else select(other < distance, one, zero)
                )
            store(
                room,
                j * ROOM + DISTANCES + group * LANES,
                of_all + select(rank < half, of_half, zero),
            )


@part
def _scatter(sums, picture, at, starts, room, cells, weights, right, down, wide):
    """Add to ``sums`` and ``picture`` the gradients of samples of ``wide`` points, given those of
    their distances.
    """
    zero, one = fill(np.float32(0.0)), fill(np.float32(1.0))
    for l in range(wide):
        total = zero
        for j in range(len(starts)):
            cell = item(cells, j * LANES + l)
            if cell >= 0:
                o, w = item(starts, j) + np.int64(cell) * LANES, j * ROOM + WEIGHTS + l
                far = load(room, j * ROOM + SAMPLES + l * LANES)
                slope = load(weights, 0) * spread(room, j * ROOM + DISTANCES + l)
                slope = slope + load(weights, LANES) * spread(
                    room, j * ROOM + DISTANCES + LANES + l
                )
                value = slope * (select(far > 0.0, one, zero) - select(far < 0.0, one, zero))
                _add(sums, o, value, spread(room, w))
                _add(sums, o + right, value, spread(room, w + LANES))
                _add(sums, o + down, value, spread(room, w + 2 * LANES))
                _add(sums, o + down + right, value, spread(room, w + 3 * LANES))
                total = total + value
        store(picture, at + l * LANES, load(picture, at + l * LANES) - total)


@kernel(
    f"void(int64, int64, int64, {MAPS}, {MAPS}, {CHOSEN}, {GIVEN}, {RHOS}, {SIX_AXES}, "
    f"{SIX_AXES}, {MAPS})"
)
def disagree_back(
    worker, workers, channels, maps, pictures, chosen, cameras, lenses, rho, slopes, sums, own
):
    """Add gradients: of ``maps`` to ``sums`` [b groups n hn wn LANES], a group being TOGETHER
    views, of ``pictures`` to ``own``.
    """
    b, v, d, _, h, w = slopes.shape
    k, n, hn, wn = chosen.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, picture, out, back = (
        maps.reshape(-1),
        pictures.reshape(-1),
        sums.reshape(-1),
        own.reshape(-1),
    )
    right, down = LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (room, cells, starts, weights), tail = _begin(k, channels), k * ROOM
    targets, groups = np.zeros(k, np.int64), sums.shape[1]
    for task in range(worker, b * groups, workers):
        s, group = task // groups, task % groups
        for row in range(group * TOGETHER * h, min(group * TOGETHER + TOGETHER, v) * h):
            t, y = row // h, row % h
            for j in range(k):
                starts[j] = (s * n + chosen[s, t, j]) * hn * wn * LANES
                targets[j] = (task * n + chosen[s, t, j]) * hn * wn * LANES
            for left in range(0, w, LANES):
                wide, at = min(LANES, w - left), (((s * v + t) * h + y) * w + left) * LANES
                for j in range(k):
                    _directions(room, j * ROOM, cameras[s, t, j], lenses[s, t], y, left)
                for i in range(d):
                    for l in range(wide):
                        room[tail + RHO + l] = rho[s, t, i, y, left + l]
                    for c in range(COSTS):
                        for l in range(wide):
                            room[tail + SLOPES + c * LANES + l] = slopes[s, t, i, c, y, left + l]
                    for j in range(k):
                        _locate(room, cells, tail, j, cameras[s, t, j], hn, wn)
                    _compare(flat, picture, at, starts, room, cells, weights, right, down, wide)
                    _slopes_of_distances(room, cells, tail, k)
                    _scatter(out, back, at, targets, room, cells, weights, right, down, wide)


@kernel(f"void(int64, int64, {CHOSEN}, {SIX_AXES}, {MAPS})")
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
