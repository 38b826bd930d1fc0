"""Kernels of ``cost_volume_cpu``: costs of depth planes, and the gradients of both maps.

A pixel of a map is one vector: its channels stand side by side, filled up to LANES. LANES
neighbouring pixels of a reference view are taken together at one inverse depth. Their positions
are found in plain float32, in the order of ``SourceViews.project_planes``, so that what lies near
the border of a frame lies on the same side of it.
"""

import numpy as np

from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import absolute, fill, item, least, load, most, select, spread, store, totals
from fsm.renderers.stereo.constants import COLOURS, COSTS, MOST_CHANNELS, NEAR_LIMIT

LANES = MOST_CHANNELS  # channels of a map, filled up; pixels of a view taken together
TOGETHER = 4  # views whose gradients are summed in one buffer; must not depend on threads
BEYOND = 1e30  # distance of what is not seen

MAPS, INDEX, SIX_AXES = (
    "float32[:, :, :, :, ::1]",
    "int64[:, :, ::1]",
    "float32[:, :, :, :, :, ::1]",
)
# rotation, translation, focal lengths, principal points, rays
CAMERAS = f"{MAPS}, {', '.join(3 * ['float32[:, :, :, ::1]'])}, {MAPS}"
DEPTHS = "float32[:, :, :, :, :]"


@part
def _floats(size):
    """Zeros from a cache line's start on."""
    room = np.zeros(size + 16, np.float32)
    first = (-room.ctypes.data % 64) // 4
    return room[first : first + size]


@part
def _workspace(k, channels):
    """Flat arrays of a worker for ``k`` source views and LANES points.

    Of each source view: ``directions`` x, y, z of the points at infinity [k 3 LANES]; weights of
    the four ``corners`` of a cell [k 4 LANES]; ``cells``, -1 where not seen [k LANES];
    ``distances`` in both groups of channels, or their slopes [k 2 LANES]; how far samples are
    ``apart`` from the reference map [k LANES channels]; ``starts`` of the frames [k]. Of all:
    inverse depths ``rho`` [LANES]; four ``costs`` or their slopes [4 LANES]; ``counts`` of the
    source views that see a point, of half of them (rounded up), and the share of one in half and
    in all [4 LANES]; distances in order, ``ranked`` [k LANES]; channel ``weights`` [2 LANES].
    """
    weights = np.zeros(2 * LANES, np.float32)
    for c in range(channels):
        group, size = (0, min(COLOURS, channels)) if c < COLOURS else (1, channels - COLOURS)
        weights[group * LANES + c] = np.float32(1.0) / np.float32(size)
    return (
        _floats(k * 3 * LANES), _floats(k * 4 * LANES), np.zeros(k * LANES, np.int32),
        _floats(k * 2 * LANES), _floats(k * LANES * LANES), np.zeros(k, np.int64),
        _floats(LANES), _floats(COSTS * LANES), _floats(4 * LANES), _floats(k * LANES), weights,
    )  # fmt: skip


@part
def _aim(directions, j, rotation, rays, y, left):
    """Where rays of LANES pixels of a row point, as seen from source view ``j``."""
    last = rays.shape[2] - 1
    for l in range(LANES):
        at, column = np.uintp(3 * j * LANES + l), min(left + l, last)
        x, y_, z = rays[0, y, column], rays[1, y, column], rays[2, y, column]
        for i in range(3):
            directions[at + np.uintp(i * LANES)] = (
                rotation[i, 0] * x + rotation[i, 1] * y_ + rotation[i, 2] * z
            )


@part
def _locate(corners, cells, j, directions, rho, translation, focal, principal, s, t, hn, wn):
    """Upper left cell (-1: not seen) and weights of its four corners of LANES points in source
    view ``j``.
    """
    one, half, two, zero = np.float32(1.0), np.float32(0.5), np.float32(2.0), np.float32(0.0)
    width, height = np.float32(wn), np.float32(hn)
    last_x, last_y, row = np.int32(max(wn - 2, 0)), np.int32(max(hn - 2, 0)), np.int32(wn)
    ox, oy, oz = translation[s, t, j, 0], translation[s, t, j, 1], translation[s, t, j, 2]
    fx, fy = focal[s, t, j, 0], focal[s, t, j, 1]
    cx, cy = principal[s, t, j, 0], principal[s, t, j, 1]
    for l in range(LANES):
        at, to = np.uintp(3 * j * LANES + l), np.uintp(4 * j * LANES + l)
        r = rho[np.uintp(l)]
        z = directions[at + np.uintp(2 * LANES)] + oz * r
        ahead = z > np.float32(NEAR_LIMIT)
        scale = one / (z if ahead else one)
        px = (directions[at] + ox * r) * scale * fx + cx
        py = (directions[at + np.uintp(LANES)] + oy * r) * scale * fy + cy
        ax, ay = px / width * two - one, py / height * two - one
        inside = ahead & (abs(ax) <= one) & (abs(ay) <= one)
        x = min(max((ax + one) * (half * width) - half, zero), width - one)
        y = min(max((ay + one) * (half * height) - half, zero), height - one)
        x, y = (x if inside else zero), (y if inside else zero)
        x0, y0 = min(np.int32(x), last_x), min(np.int32(y), last_y)
        rx, ry = x - np.float32(x0), y - np.float32(y0)
        corners[to] = (one - rx) * (one - ry)
        corners[to + np.uintp(LANES)] = rx * (one - ry)
        corners[to + np.uintp(2 * LANES)] = (one - rx) * ry
        corners[to + np.uintp(3 * LANES)] = rx * ry
        cells[np.uintp(j * LANES + l)] = np.int32(y0 * row + x0) if inside else np.int32(-1)


@part
def _compare(
    apart, distances, starts, cells, corners, weights, maps, picture, at, right, down, wide
):
    """Samples of ``wide`` points in the source views that see them, less the reference map; the
    distances in both groups of channels.
    """
    for j in range(len(starts)):
        for l in range(wide):
            cell = item(cells, j * LANES + l)
            if cell >= 0:
                o, c = item(starts, j) + np.int64(cell) * LANES, 4 * j * LANES + l
                above = load(maps, o) * spread(corners, c)
                above = above + load(maps, o + right) * spread(corners, c + LANES)
                o, c = o + down, c + 2 * LANES
                below = load(maps, o) * spread(corners, c)
                below = below + load(maps, o + right) * spread(corners, c + LANES)
                value = above + below - load(picture, at + l * LANES)
                store(apart, (j * LANES + l) * LANES, value)
        seen = load(cells, j * LANES) >= 0
        for group in range(2):
            distance = _distances(apart, j * LANES * LANES, weights, group)
            distance = select(seen, distance, fill(np.float32(BEYOND)))
            store(distances, (2 * j + group) * LANES, distance)


@part
def _distances(apart, at, weights, group):
    """Weighted sums over the absolute channels of LANES points."""
    w = load(weights, group * LANES)
    return totals((
        absolute(load(apart, at)) * w, absolute(load(apart, at + 16)) * w,
        absolute(load(apart, at + 32)) * w, absolute(load(apart, at + 48)) * w,
        absolute(load(apart, at + 64)) * w, absolute(load(apart, at + 80)) * w,
        absolute(load(apart, at + 96)) * w, absolute(load(apart, at + 112)) * w,
        absolute(load(apart, at + 128)) * w, absolute(load(apart, at + 144)) * w,
        absolute(load(apart, at + 160)) * w, absolute(load(apart, at + 176)) * w,
        absolute(load(apart, at + 192)) * w, absolute(load(apart, at + 208)) * w,
        absolute(load(apart, at + 224)) * w, absolute(load(apart, at + 240)) * w,
    ))  # fmt: skip


@part
def _count(counts, cells, k):
    """How many source views see each of LANES points, half of them, the shares of one in both."""
    one, zero = fill(np.float32(1.0)), fill(np.float32(0.0))
    seen = zero
    for j in range(k):
        seen = seen + select(load(cells, j * LANES) >= 0, one, zero)
    half = zero
    for j in range(k):
        half = half + select(seen > np.float32(2 * j), one, zero)
    store(counts, 0, seen)
    store(counts, LANES, half)
    store(counts, 2 * LANES, one / most(half, one))
    store(counts, 3 * LANES, one / most(seen, one))


@part
def _rank(ranked, distances, k, group):
    """Put the distances of LANES points in order, the least first; those not seen come last."""
    for j in range(k):
        value = load(distances, (2 * j + group) * LANES)
        for i in range(j):
            other = load(ranked, i * LANES)
            store(ranked, i * LANES, least(other, value))
            value = most(other, value)
        store(ranked, j * LANES, value)


@part
def _average(costs, ranked, counts, k, group, unseen):
    """Costs of LANES points in one group of channels: of the better half, of all."""
    zero = fill(np.float32(0.0))
    seen, half = load(counts, 0), load(counts, LANES)
    of_half = of_all = select(seen > 0.0, zero, fill(unseen))
    for j in range(k):
        value = load(ranked, j * LANES)
        of_half = of_half + select(half > np.float32(j), value * load(counts, 2 * LANES), zero)
        of_all = of_all + select(seen > np.float32(j), value * load(counts, 3 * LANES), zero)
    store(costs, 2 * group * LANES, of_half)
    store(costs, (2 * group + 1) * LANES, of_all)


@kernel(
    f"void(int64, int64, int64, float32, {MAPS}, {MAPS}, {INDEX}, {CAMERAS}, {DEPTHS}, {SIX_AXES})"
)
def fill_costs(
    worker, workers, channels, unseen, maps, pictures, index,
    rotation, translation, focal, principal, rays, rho, costs,
):  # fmt: skip
    """Fill ``costs`` [b v d 4 h w]: rows of the views in turn."""
    b, v, d, _, h, w = costs.shape
    k, n, hn, wn = index.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, picture = maps.reshape(-1), pictures.reshape(-1)
    right, down = LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (
        directions, corners, cells, distances, apart, starts, point_rho, point_costs, counts,
        ranked, weights,
    ) = _workspace(k, channels)  # fmt: skip
    for task in range(worker, b * v * h, workers):
        s, t, y = task // (v * h), task // h % v, task % h
        for j in range(k):
            starts[j] = (s * n + index[s, t, j]) * hn * wn * LANES
        for left in range(0, w, LANES):
            wide, at = min(LANES, w - left), (task * w + left) * LANES
            for j in range(k):
                _aim(directions, j, rotation[s, t, j], rays[s, t], y, left)
            for i in range(d):
                for l in range(wide):
                    point_rho[l] = rho[s, t, i, y, left + l]
                for j in range(k):
                    _locate(
                        corners, cells, j, directions, point_rho,
                        translation, focal, principal, s, t, hn, wn,
                    )  # fmt: skip
                _compare(
                    apart, distances, starts, cells, corners, weights,
                    flat, picture, at, right, down, wide,
                )  # fmt: skip
                _count(counts, cells, k)
                for group in range(2):
                    _rank(ranked, distances, k, group)
                    _average(point_costs, ranked, counts, k, group, unseen)
                for c in range(COSTS):
                    for l in range(wide):
                        costs[s, t, i, c, y, left + l] = point_costs[c * LANES + l]


@part
def _add(sums, at, value, weight):
    """Add to LANES neighbours."""
    store(sums, at, load(sums, at) + value * weight)


@part
def _slopes_of_distances(distances, ranked, costs, counts, k):
    """How the costs of LANES points change with the distances, in the place of these."""
    zero, one = fill(np.float32(0.0)), fill(np.float32(1.0))
    half = load(counts, LANES)
    for group in range(2):
        of_half = load(costs, 2 * group * LANES) * load(counts, 2 * LANES)
        of_all = load(costs, (2 * group + 1) * LANES) * load(counts, 3 * LANES)
        for j in range(k):
            store(ranked, j * LANES, load(distances, (2 * j + group) * LANES))
        for j in range(k):
            # of equals the first comes first
            distance, rank = load(ranked, j * LANES), zero
            for i in range(k):
                other = load(ranked, i * LANES)
                rank = rank + (
                    select(other <= distance, one, zero)
                    if i < j
                    else select(other < distance, one, zero)
                )
            slope = of_all + select(rank < half, of_half, zero)
            store(distances, (2 * j + group) * LANES, slope)


@part
def _scatter(
    sums, picture, targets, cells, corners, distances, apart, weights, at, right, down, wide
):
    """Add to ``sums`` and ``picture`` the gradients of samples of ``wide`` points, given those of
    their distances.
    """
    zero, one = fill(np.float32(0.0)), fill(np.float32(1.0))
    for l in range(wide):
        total = zero
        for j in range(len(targets)):
            cell = item(cells, j * LANES + l)
            if cell >= 0:
                o, c = item(targets, j) + np.int64(cell) * LANES, 4 * j * LANES + l
                off = load(apart, (j * LANES + l) * LANES)
                slope = load(weights, 0) * spread(distances, 2 * j * LANES + l)
                slope = slope + load(weights, LANES) * spread(distances, (2 * j + 1) * LANES + l)
                value = slope * (select(off > 0.0, one, zero) - select(off < 0.0, one, zero))
                _add(sums, o, value, spread(corners, c))
                _add(sums, o + right, value, spread(corners, c + LANES))
                _add(sums, o + down, value, spread(corners, c + 2 * LANES))
                _add(sums, o + down + right, value, spread(corners, c + 3 * LANES))
                total = total + value
        store(picture, at + l * LANES, load(picture, at + l * LANES) - total)


@kernel(
    f"void(int64, int64, int64, {MAPS}, {MAPS}, {INDEX}, {CAMERAS}, {DEPTHS}, {SIX_AXES}, "
    f"{SIX_AXES}, {MAPS})"
)
def add_gradients(
    worker, workers, channels, maps, pictures, index,
    rotation, translation, focal, principal, rays, rho, slopes, sums, own,
):  # fmt: skip
    """Add gradients: of ``maps`` to ``sums`` [b groups n hn wn LANES], a group being TOGETHER
    views, of ``pictures`` to ``own``.
    """
    b, v, d, _, h, w = slopes.shape
    k, n, hn, wn = index.shape[2], maps.shape[1], maps.shape[2], maps.shape[3]
    flat, picture = maps.reshape(-1), pictures.reshape(-1)
    out, back = sums.reshape(-1), own.reshape(-1)
    right, down = LANES * min(wn - 1, 1), LANES * wn * min(hn - 1, 1)
    (
        directions, corners, cells, distances, apart, starts, point_rho, point_costs, counts,
        ranked, weights,
    ) = _workspace(k, channels)  # fmt: skip
    targets, groups = np.zeros(k, np.int64), sums.shape[1]
    for task in range(worker, b * groups, workers):
        s, group = task // groups, task % groups
        for row in range(group * TOGETHER * h, min(group * TOGETHER + TOGETHER, v) * h):
            t, y = row // h, row % h
            for j in range(k):
                starts[j] = (s * n + index[s, t, j]) * hn * wn * LANES
                targets[j] = (task * n + index[s, t, j]) * hn * wn * LANES
            for left in range(0, w, LANES):
                wide, at = min(LANES, w - left), (((s * v + t) * h + y) * w + left) * LANES
                for j in range(k):
                    _aim(directions, j, rotation[s, t, j], rays[s, t], y, left)
                for i in range(d):
                    for l in range(wide):
                        point_rho[l] = rho[s, t, i, y, left + l]
                        for c in range(COSTS):
                            point_costs[c * LANES + l] = slopes[s, t, i, c, y, left + l]
                    for j in range(k):
                        _locate(
                            corners, cells, j, directions, point_rho,
                            translation, focal, principal, s, t, hn, wn,
                        )  # fmt: skip
                    _compare(
                        apart, distances, starts, cells, corners, weights,
                        flat, picture, at, right, down, wide,
                    )  # fmt: skip
                    _count(counts, cells, k)
                    _slopes_of_distances(distances, ranked, point_costs, counts, k)
                    _scatter(
                        out, back, targets, cells, corners, distances, apart, weights,
                        at, right, down, wide,
                    )  # fmt: skip


@kernel(f"void(int64, int64, {INDEX}, {SIX_AXES}, {MAPS})")
def add_up(worker, workers, index, sums, out):
    """The groups' gradients, in their order, as ``out`` [b n c hn wn]."""
    b, n, channels, hn, wn = out.shape
    v, k = index.shape[1], index.shape[2]
    for task in range(worker, b * n, workers):
        s, frame = task // n, task % n
        out[s, frame] = np.float32(0.0)
        for group in range(sums.shape[1]):
            used = False
            for t in range(group * TOGETHER, min(group * TOGETHER + TOGETHER, v)):
                for j in range(k):
                    used |= index[s, t, j] == frame
            if used:
                for y in range(hn):
                    for c in range(channels):
                        for x in range(wn):
                            out[s, frame, c, y, x] += sums[s, group, frame, y, x, c]
