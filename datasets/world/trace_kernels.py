"""``trace`` compiled: sixteen pixels of a 4 x 4 block at once, only the bodies that a block may
see.

First every block finds what its pixel centres see. Blocks that see one surface, borders included,
are lit there; others send four rays through every pixel, and every surface that they meet is lit
once per pixel.
"""

import numpy as np

from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER, LOOK, SURFACES
from fsm.datasets.world.light_kernels import lit
from fsm.datasets.world.surface_kernels import described, sky
from fsm.datasets.world.surfaces import PARTS, SKY
from fsm.datasets.world.tables import (
    AXES,
    BODY,
    BOUND,
    EYE,
    FRAME,
    LENS,
    MAP,
    NEAR,
    OPEN,
    ORIGIN,
    RECT,
    ROOM,
    SHAPE,
)
from fsm.datasets.world.trace import EDGE_RAYS, FAR, MISS, ROUNDS
from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import (
    absolute,
    any_of,
    block_x,
    block_y,
    fill,
    item,
    lanes_of,
    least,
    load,
    most,
    root,
    select,
    store,
    trailing_zeros,
)

BLOCK = 16
RAYS = EDGE_RAYS * EDGE_RAYS


@part
def _safe(d):
    """Directions that a reciprocal can take."""
    return select(absolute(d) < 1e-9, fill(np.float32(1e-9)), d)


@part
def _slab(o, inverse):
    """Where lines from ``o`` enter and leave [-1, 1]."""
    half = absolute(inverse)
    middle = o * inverse
    return 0.0 - middle - half, half - middle


@part
def _roots(a, b, c):
    """Roots of a t² + 2 b t + c in order; where there are none, enter > leave."""
    square = b * b - a * c
    reach = select(square > 0.0, root(most(square, 0.0)), fill(np.float32(-MISS)))
    return (0.0 - b - reach) / a, (reach - b) / a


@part
def _pillow(ox, oy, oz, dx, dy, dz, enter, leave):
    """Newton's steps on the convex x⁴ + y⁴ + z⁴ - 1 along the ray from where it enters the cube
    around it.
    """
    t = enter
    value = fill(np.float32(1.0))
    for _ in range(ROUNDS):
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        xx, yy, zz = x * x, y * y, z * z
        value = xx * xx + yy * yy + zz * zz - 1.0
        slope = 4.0 * (xx * x * dx + yy * y * dy + zz * z * dz)
        t = least(t - value / least(slope, -1e-6), leave + 1.0)
    return select((value < 0.01) & (t < leave), t, fill(np.float32(MISS)))


@part
def _sign(x):
    """1 where positive, else 0."""
    return select(x > 0.0, fill(np.float32(1.0)), fill(np.float32(0.0)))


@part
def _face(x, y, z):
    """Number of the face of the cube that a point on it lies on."""
    ax, ay, az = absolute(x), absolute(y), absolute(z)
    beside = select(ax >= az, _sign(x), 4.0 + _sign(z))
    return select((ay > ax) & (ay >= az), 2.0 + _sign(y), beside)


@part
def _body(bodies, row, rx, ry, rz):
    """Where rays enter a body, and on which of its parts; MISS or less than NEAR for none."""
    m = row + MAP
    dx = item(bodies, m) * rx + item(bodies, m + 1) * ry + item(bodies, m + 2) * rz
    dy = item(bodies, m + 3) * rx + item(bodies, m + 4) * ry + item(bodies, m + 5) * rz
    dz = item(bodies, m + 6) * rx + item(bodies, m + 7) * ry + item(bodies, m + 8) * rz
    ox, oy, oz = (
        item(bodies, row + ORIGIN),
        item(bodies, row + ORIGIN + 1),
        item(bodies, row + ORIGIN + 2),
    )
    shape = int(item(bodies, row + SHAPE))
    part_of = fill(np.float32(0.0))
    if shape == BALL:
        c = ox * ox + oy * oy + oz * oz - 1.0
        enter, leave = _roots(
            dx * dx + dy * dy + dz * dz, dx * ox + dy * oy + dz * oz, fill(np.float32(c))
        )
        return select(enter < leave, enter, fill(np.float32(MISS))), part_of
    near_y, far_y = _slab(oy, 1.0 / _safe(dy))
    if shape == CYLINDER:
        a, b = dx * dx + dz * dz, dx * ox + dz * oz
        near, far = _roots(most(a, 1e-12), b, fill(np.float32(ox * ox + oz * oz - 1.0)))
        enter, leave = most(near, near_y), least(far, far_y)
        part_of = select(near_y > near, 1.0 + _sign(dy), part_of)
        return select(enter < leave, enter, fill(np.float32(MISS))), part_of
    near_x, far_x = _slab(ox, 1.0 / _safe(dx))
    near_z, far_z = _slab(oz, 1.0 / _safe(dz))
    enter, leave = most(most(near_x, near_y), near_z), least(least(far_x, far_y), far_z)
    hit = enter < leave
    if not any_of(hit):
        return fill(np.float32(MISS)), part_of
    if shape == BOX:
        part_of = _face(ox + dx * enter, oy + dy * enter, oz + dz * enter)
    else:
        enter = _pillow(ox, oy, oz, dx, dy, dz, enter, leave)
    return select(hit, enter, fill(np.float32(MISS))), part_of


@part
def _around(frames, e, rx, ry, rz):
    """Where rays meet the room or the ground, and which face that is; the sky is FAR."""
    ex, ey, ez = item(frames, e + EYE), item(frames, e + EYE + 1), item(frames, e + EYE + 2)
    if item(frames, e + OPEN) > 0.5:
        t = (0.0 - ey) / _safe(ry)
        ground = (t > NEAR) & (t < FAR)
        floor_id = fill(np.float32(BODIES * PARTS + 3))
        return select(ground, t, fill(np.float32(FAR))), select(
            ground, floor_id, fill(np.float32(SKY))
        )
    hx, hy, hz = item(frames, e + ROOM), item(frames, e + ROOM + 1), item(frames, e + ROOM + 2)
    _, far_x = _slab(ex / hx, hx / _safe(rx))
    _, far_y = _slab((ey + hy) / hy, hy / _safe(ry))
    _, far_z = _slab(ez / hz, hz / _safe(rz))
    t = least(least(far_x, far_y), far_z)
    on_y = (far_y < far_x) & (far_y <= far_z)
    face = select(on_y, 2.0 + _sign(ry), select(far_x <= far_z, _sign(rx), 4.0 + _sign(rz)))
    return t, BODIES * PARTS + face


@part
def _first_hit(bodies, first, near, count, frames, e, rx, ry, rz):
    """Depth of what rays meet first and its number: body (or BODIES) times PARTS plus part."""
    t, seen = _around(frames, e, rx, ry, rz)
    for i in range(count):
        k = near[i]
        enter, part_of = _body(bodies, first + k * BODY, rx, ry, rz)
        closer = (enter > NEAR) & (enter < t)
        t = select(closer, enter, t)
        seen = select(closer, part_of + k * PARTS, seen)
    return t, seen


@part
def _may_see(bodies, first, everyone, all_of, left, top, near):
    """Bodies whose rectangle meets the block at (left, top); how many."""
    count = 0
    for i in range(all_of):
        k = everyone[i]
        rect = first + k * BODY + RECT
        meets = (item(bodies, rect) <= left + 4) & (item(bodies, rect + 1) >= left)
        meets &= (item(bodies, rect + 2) <= top + 4) & (item(bodies, rect + 3) >= top)
        near[count] = k
        count += meets
    return count


@part
def _ray(frames, e, x, y):
    """Direction with unit length along the camera's axis through points of the picture."""
    cx = (x - item(frames, e + LENS + 2)) / item(frames, e + LENS)
    cy = (y - item(frames, e + LENS + 3)) / item(frames, e + LENS + 1)
    a = e + AXES
    rx = item(frames, a) * cx + item(frames, a + 1) * cy + item(frames, a + 2)
    ry = item(frames, a + 3) * cx + item(frames, a + 4) * cy + item(frames, a + 5)
    rz = item(frames, a + 6) * cx + item(frames, a + 7) * cy + item(frames, a + 8)
    return rx, ry, rz


@part
def _colour(bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, t, name):
    """What sixteen rays bring back from the surface number ``name``."""
    zero = fill(np.float32(0.0))
    gloss, nx, ny, nz = zero, zero, zero, zero
    pixel = 2.0 / (abs(item(frames, e + LENS)) + abs(item(frames, e + LENS + 1)))
    if name == SKY:
        r, g, b = sky(looks, l, rx, ry, rz, pixel)
    else:
        r, g, b, gloss, nx, ny, nz = described(
            bodies, first, frames, e, looks, l, name, rx, ry, rz, t, pixel
        )
    return lit(
        bodies,
        first,
        everyone,
        all_of,
        frames,
        e,
        looks,
        l,
        rx,
        ry,
        rz,
        t,
        name,
        r,
        g,
        b,
        gloss,
        nx,
        ny,
        nz,
    )


@part
def _uniform(surface, f, left, top):
    """Whether a block and the pixels around it all show one surface."""
    seen = surface[f, top, left]
    for y in range(max(top - 1, 0), min(top + 5, surface.shape[1])):
        for x in range(max(left - 1, 0), min(left + 5, surface.shape[2])):
            if surface[f, np.uintp(y), np.uintp(x)] != seen:
                return False
    return True


@part
def _find(bodies, first, everyone, all_of, frames, e, f, depth, surface, near, out):
    """What the centres of all pixels of a frame see."""
    for top in range(0, depth.shape[1], 4):
        for left in range(0, depth.shape[2], 4):
            count = _may_see(bodies, first, everyone, all_of, left, top, near)
            rx, ry, rz = _ray(frames, e, block_x() + left, block_y() + top)
            t, seen = _first_hit(bodies, first, near, count, frames, e, rx, ry, rz)
            store(out, 0, t)
            store(out, BLOCK, seen)
            for lane in range(BLOCK):
                y, x = np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))
                depth[f, y, x], surface[f, y, x] = out[lane], out[BLOCK + lane]


@part
def _same(a, b):
    """Where numbers are equal."""
    return (a >= b) & (a <= b)


@part
def _sample(bodies, first, everyone, all_of, frames, e, left, top, near, samples):
    """Send EDGE_RAYS² rays through every pixel of a block: their directions, depths and surfaces,
    sixteen by sixteen.
    """
    count = _may_see(bodies, first, everyone, all_of, left, top, near)
    for i in range(RAYS):
        x, y = (i % EDGE_RAYS + 0.5) / EDGE_RAYS - 0.5, (i // EDGE_RAYS + 0.5) / EDGE_RAYS - 0.5
        rx, ry, rz = _ray(frames, e, block_x() + (left + x), block_y() + (top + y))
        t, seen = _first_hit(bodies, first, near, count, frames, e, rx, ry, rz)
        at = 5 * BLOCK * i
        store(samples, at, rx)
        store(samples, at + BLOCK, ry)
        store(samples, at + 2 * BLOCK, rz)
        store(samples, at + 3 * BLOCK, t)
        store(samples, at + 4 * BLOCK, seen)


@part
def _gathered(samples, name):
    """For every pixel, the last of its rays that met the surface ``name``, and the share of them
    that did.
    """
    rx, ry, rz, t = (
        load(samples, 0),
        load(samples, BLOCK),
        load(samples, 2 * BLOCK),
        load(samples, 3 * BLOCK),
    )
    share, one = fill(np.float32(0.0)), fill(np.float32(1.0 / RAYS))
    for i in range(RAYS):
        at = 5 * BLOCK * i
        its = _same(load(samples, at + 4 * BLOCK), name)
        rx, ry = select(its, load(samples, at), rx), select(its, load(samples, at + BLOCK), ry)
        rz, t = (
            select(its, load(samples, at + 2 * BLOCK), rz),
            select(its, load(samples, at + 3 * BLOCK), t),
        )
        share = share + select(its, one, share * 0.0)
    return rx, ry, rz, t, share


@part
def _blend(bodies, first, everyone, all_of, frames, e, looks, l, samples):
    """Linear colour of a sampled block: every surface is lit once per pixel and counts by its share
    of the rays.
    """
    zero = fill(np.float32(0.0))
    r, g, b = zero, zero, zero
    for i in range(RAYS):
        at = (5 * i + 4) * BLOCK
        # those not yet blended, whose surface is not negative
        left = lanes_of(load(samples, at) >= 0.0)
        while left:
            name = samples[at + trailing_zeros(left)]
            rx, ry, rz, t, share = _gathered(samples, name)
            for j in range(i, RAYS):
                seen = load(samples, (5 * j + 4) * BLOCK)
                store(samples, (5 * j + 4) * BLOCK, select(_same(seen, name), zero - 1.0, seen))
            left = lanes_of(load(samples, at) >= 0.0)
            r1, g1, b1 = _colour(
                bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, t, int(name)
            )
            there = share > 0.0
            r, g = r + select(there, r1 * share, zero), g + select(there, g1 * share, zero)
            b = b + select(there, b1 * share, zero)
    return r, g, b


@part
def _light(
    bodies,
    first,
    everyone,
    all_of,
    frames,
    e,
    f,
    looks,
    l,
    depth,
    surface,
    near,
    out,
    samples,
    left,
    top,
):
    """Linear colour of a block: one ray per pixel where it shows one surface, else a blend of
    several.
    """
    if _uniform(surface, f, left, top):
        for lane in range(BLOCK):
            out[lane] = depth[f, np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))]
        rx, ry, rz = _ray(frames, e, block_x() + left, block_y() + top)
        name = int(surface[f, top, left])
        return _colour(
            bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, load(out, 0), name
        )
    _sample(bodies, first, everyone, all_of, frames, e, left, top, near, samples)
    return _blend(bodies, first, everyone, all_of, frames, e, looks, l, samples)


@kernel(
    "void(int64, int64, float32[:, :, ::1], float32[:, ::1], float32[:, :, ::1], int32[::1], "
    "float32[:, :, :, ::1], float32[:, :, ::1], float32[:, :, ::1])"
)
def trace_frames(worker, workers, bodies, frames, looks, world, rgb, depth, surface):
    """Pictures, z-depth and numbers of surfaces; heights and widths are multiples of four."""
    everyone, near = np.empty(BODIES + 1, np.int64), np.empty(BODIES + 1, np.int64)
    out, samples = np.empty(3 * BLOCK, np.float32), np.empty(5 * BLOCK * RAYS, np.float32)
    for f in range(worker, len(world), workers):
        first, e, l = f * BODIES * BODY, f * FRAME, world[f] * SURFACES * LOOK
        all_of = 0
        for k in range(BODIES):
            everyone[all_of] = k
            all_of += item(bodies, first + k * BODY + BOUND) > 0.0
        _find(bodies, first, everyone, all_of, frames, e, f, depth, surface, near, out)
        for top in range(0, depth.shape[1], 4):
            for left in range(0, depth.shape[2], 4):
                r, g, b = _light(
                    bodies,
                    first,
                    everyone,
                    all_of,
                    frames,
                    e,
                    f,
                    looks,
                    l,
                    depth,
                    surface,
                    near,
                    out,
                    samples,
                    left,
                    top,
                )
                store(out, 0, root(r))
                store(out, BLOCK, root(g))
                store(out, 2 * BLOCK, root(b))
                for lane in range(BLOCK):
                    y, x = np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))
                    for channel in range(3):
                        rgb[f, channel, y, x] = out[channel * BLOCK + lane]
