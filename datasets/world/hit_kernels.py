"""Where rays meet bodies, rooms, ground and sky, for sixteen rays at once; ``trace`` is the plain
twin.
"""

import numpy as np

from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER
from fsm.datasets.world.surfaces import PARTS, SKY
from fsm.datasets.world.tables import (
    AXES,
    BODY,
    EYE,
    LENS,
    MAP,
    NEAR,
    OPEN,
    ORIGIN,
    RECT,
    ROOM,
    SHAPE,
)
from fsm.datasets.world.trace import FAR, MISS, ROUNDS
from fsm.kernels.compiled import part
from fsm.kernels.simd import absolute, any_of, fill, item, least, most, root, select


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
def first_hit(bodies, first, near, count, frames, e, rx, ry, rz):
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
def may_see(bodies, first, everyone, all_of, left, top, near):
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
def ray(frames, e, x, y):
    """Direction with unit length along the camera's axis through points of the picture."""
    cx = (x - item(frames, e + LENS + 2)) / item(frames, e + LENS)
    cy = (y - item(frames, e + LENS + 3)) / item(frames, e + LENS + 1)
    a = e + AXES
    rx = item(frames, a) * cx + item(frames, a + 1) * cy + item(frames, a + 2)
    ry = item(frames, a + 3) * cx + item(frames, a + 4) * cy + item(frames, a + 5)
    rz = item(frames, a + 6) * cx + item(frames, a + 7) * cy + item(frames, a + 8)
    return rx, ry, rz
