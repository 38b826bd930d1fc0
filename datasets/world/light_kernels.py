"""``light`` for sixteen points at once: a lamp or sun with soft shadows, light from around,
highlights, haze.
"""

import numpy as np

from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER, LOOK, WALL_X
from fsm.datasets.world.light import CONTACT, EXPOSURE, LEAST_SHARE
from fsm.datasets.world.pattern_kernels import limited
from fsm.datasets.world.surface_kernels import _times
from fsm.datasets.world.surfaces import PALETTE, PARTS, SKY
from fsm.datasets.world.tables import (
    ABOVE,
    BELOW,
    BODY,
    BOUND,
    COLOUR,
    EYE,
    FALLOFF,
    FOG,
    LAMP,
    MAP,
    MIDDLE,
    OFFSET,
    OPEN,
    RADIUS,
    ROOM,
    SHAPE,
    SOFTNESS,
)
from fsm.kernels.compiled import part
from fsm.kernels.simd import absolute, any_of, exp2, fill, item, least, most, root, select


@part
def _span(o, d):
    """Where lines enter and leave [-1, 1]."""
    inverse = 1.0 / select(absolute(d) < 1e-9, fill(np.float32(1e-9)), d)
    half = absolute(inverse)
    return 0.0 - o * inverse - half, half - o * inverse


@part
def _margin(shape, ox, oy, oz, dx, dy, dz, a, t):
    """How deep lines pass inside a unit shape, negative outside; ``t`` is where they come closest
    to its middle.
    """
    if shape == BALL:
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        return 1.0 - root(x * x + y * y + z * z)
    if shape == BOX:
        (ax, bx), (ay, by), (az, bz) = _span(ox, dx), _span(oy, dy), _span(oz, dz)
        return 0.5 * root(a) * (least(least(bx, by), bz) - most(most(ax, ay), az))
    if shape == CYLINDER:
        across = most(dx * dx + dz * dz, 1e-12)
        b = dx * ox + dz * oz
        square = b * b - across * (ox * ox + oz * oz - 1.0)
        reach = root(absolute(square))
        reach = select(square > 0.0, reach, 0.0 - reach)
        ay, by = _span(oy, dy)
        return (
            0.5 * root(a) * (least((reach - b) / across, by) - most((0.0 - b - reach) / across, ay))
        )
    for _ in range(3):
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        xx, yy, zz = x * x, y * y, z * z
        t = t - (xx * x * dx + yy * y * dy + zz * z * dz) / most(
            3.0 * (xx * dx * dx + yy * dy * dy + zz * dz * dz), 1e-9
        )
    x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
    xx, yy, zz = x * x, y * y, z * z
    return 1.0 - root(root(xx * xx + yy * yy + zz * zz))


@part
def _cover(bodies, row, px, py, pz, lx, ly, lz, softness):
    """Share of the lamp that a body hides from points, seen in unit directions."""
    ox, oy, oz = _times(bodies, row + MAP, px, py, pz)
    ox, oy, oz = (
        ox + item(bodies, row + OFFSET),
        oy + item(bodies, row + OFFSET + 1),
        oz + item(bodies, row + OFFSET + 2),
    )
    dx, dy, dz = _times(bodies, row + MAP, lx, ly, lz)
    a = most(dx * dx + dy * dy + dz * dz, 1e-12)
    t = (0.0 - ox * dx - oy * dy - oz * dz) / a
    margin = _margin(int(item(bodies, row + SHAPE)), ox, oy, oz, dx, dy, dz, a, t)
    width = softness * most(t, 0.0) + CONTACT
    share = limited(0.5 + 0.5 * margin * item(bodies, row + RADIUS) / width)
    return select(t > 0.0, share * share * (3.0 - 2.0 * share), fill(np.float32(0.0)))


@part
def _occlusion(
    bodies, first, everyone, count, body, px, py, pz, nx, ny, nz, lx, ly, lz, far, facing, softness
):
    """Shares of the lamp and of the light from around that bodies leave."""
    shadow, free = fill(np.float32(1.0)), fill(np.float32(1.0))
    for i in range(count):
        k = everyone[i]
        if k == body:  # all of it is convex
            continue
        row = first + k * BODY
        cx = item(bodies, row + MIDDLE) - px
        cy = item(bodies, row + MIDDLE + 1) - py
        cz = item(bodies, row + MIDDLE + 2) - pz
        squared = cx * cx + cy * cy + cz * cz
        radius, bound = item(bodies, row + RADIUS), item(bodies, row + BOUND)
        near = squared * LEAST_SHARE < radius * radius
        if any_of(near):
            inverse = 1.0 / most(squared, 1e-4)
            toward = most(cx * nx + cy * ny + cz * nz, 0.0) * root(inverse)
            hidden = toward * (least(inverse * (radius * radius), 1.0) - LEAST_SHARE)
            free = free * select(near, 1.0 - 0.85 * hidden, fill(np.float32(1.0)))
        along = cx * lx + cy * ly + cz * lz
        reach = bound + CONTACT + softness * most(along, 0.0)
        may = (facing > 0.0) & (along < far) & (along + bound > 0.0)
        may = may & (squared - along * along < reach * reach)
        if any_of(may):
            cover = _cover(bodies, row, px, py, pz, lx, ly, lz, softness)
            shadow = shadow * select(may, 1.0 - cover, fill(np.float32(1.0)))
    return shadow, free


@part
def _corners(frames, e, px, py, pz, nx, ny, nz):
    """Darkening of a room's faces towards their neighbours."""
    hx, hy, hz = item(frames, e + ROOM), item(frames, e + ROOM + 1), item(frames, e + ROOM + 2)
    ax, ay, az = hx - absolute(px), hy - absolute(py + hy), hz - absolute(pz)
    dim = 1.0 - 0.4 * (1.0 - absolute(nx)) / (1.0 + 12.0 * ax * ax)
    dim = dim * (1.0 - 0.4 * (1.0 - absolute(ny)) / (1.0 + 12.0 * ay * ay))
    return dim * (1.0 - 0.4 * (1.0 - absolute(nz)) / (1.0 + 12.0 * az * az))


@part
def _channel(frames, e, i, albedo, lamp, above, below, glint, haze, air):
    """One tone-mapped channel."""
    key, high, low = (
        item(frames, e + COLOUR + i),
        item(frames, e + ABOVE + i),
        item(frames, e + BELOW + i),
    )
    light = albedo * (key * lamp + high * above + low * below) + key * glint
    return 1.0 - exp2((light + (air - light) * haze) * -EXPOSURE)


@part
def lit(
    bodies, first, everyone, count, frames, e, looks, l, rx, ry, rz, t, name,
    r, g, b, gloss, nx, ny, nz,
):  # fmt: skip
    """Tone-mapped linear light that rays bring back from surfaces of colour r, g, b."""
    if name == SKY:
        return 1.0 - exp2(r * -EXPOSURE), 1.0 - exp2(g * -EXPOSURE), 1.0 - exp2(b * -EXPOSURE)
    px, py, pz = (
        item(frames, e + EYE) + rx * t,
        item(frames, e + EYE + 1) + ry * t,
        item(frames, e + EYE + 2) + rz * t,
    )
    body = name // PARTS
    lx, ly, lz = (
        item(frames, e + LAMP) - px,
        item(frames, e + LAMP + 1) - py,
        item(frames, e + LAMP + 2) - pz,
    )
    squared = most(lx * lx + ly * ly + lz * lz, 1e-6)
    far = root(squared)
    near = 1.0 / far
    lx, ly, lz = lx * near, ly * near, lz * near
    facing = most(nx * lx + ny * ly + nz * lz, 0.0)
    shadow, free = _occlusion(
        bodies, first, everyone, count, body, px, py, pz, nx, ny, nz, lx, ly, lz, far, facing,
        item(frames, e + SOFTNESS),
    )  # fmt: skip
    if body == BODIES and item(frames, e + OPEN) < 0.5:
        free = free * _corners(frames, e, px, py, pz, nx, ny, nz)
    above, below = (0.5 - 0.5 * ny) * free, (0.5 + 0.5 * ny) * free
    lamp = facing * shadow * 3.0 / (1.0 + item(frames, e + FALLOFF) * squared)
    length = root(rx * rx + ry * ry + rz * rz)
    hx, hy, hz = lx - rx / length, ly - ry / length, lz - rz / length
    glint = most(nx * hx + ny * hy + nz * hz, 0.0) / root(most(hx * hx + hy * hy + hz * hz, 1e-9))
    for _ in range(5):
        glint = glint * glint
    glint = glint * gloss * shadow
    haze = 1.0 - exp2(t * length * (-1.4427 * item(frames, e + FOG)))
    p = l + WALL_X * LOOK + PALETTE + 3  # the horizon
    red = _channel(frames, e, 0, r, lamp, above, below, glint, haze, item(looks, p))
    green = _channel(frames, e, 1, g, lamp, above, below, glint, haze, item(looks, p + 1))
    return (
        red,
        green,
        _channel(frames, e, 2, b, lamp, above, below, glint, haze, item(looks, p + 2)),
    )
