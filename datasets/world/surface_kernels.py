"""``surfaces`` for sixteen points at once: colour, gloss and normal of what rays meet."""

import numpy as np

from fsm.datasets.world.description import (
    BALL,
    BODIES,
    BOX,
    CEILING,
    CYLINDER,
    FLOOR,
    LOOK,
    WALL_X,
    WALL_Z,
)
from fsm.datasets.world.pattern_kernels import covered, limited, octave_values, octaves, pattern
from fsm.datasets.world.surfaces import (
    BUMP,
    CONTRAST,
    COS,
    FIRST,
    GLOSS,
    GRAIN,
    GRAIN_SCALE,
    GRAIN_STRETCH,
    PALETTE,
    PARTS,
    PATTERN,
    SCALE,
    SECOND,
    SEED,
    SIN,
)
from fsm.datasets.world.tables import BODY, EYE, MAP, OFFSET, REST, SHAPE
from fsm.kernels.compiled import part
from fsm.kernels.simd import absolute, fill, item, least, most, root, select


@part
def _times(bodies, m, x, y, z):
    """A body's map times vectors."""
    ux = item(bodies, m) * x + item(bodies, m + 1) * y + item(bodies, m + 2) * z
    uy = item(bodies, m + 3) * x + item(bodies, m + 4) * y + item(bodies, m + 5) * z
    uz = item(bodies, m + 6) * x + item(bodies, m + 7) * y + item(bodies, m + 8) * z
    return ux, uy, uz


@part
def _turned(bodies, m, x, y, z):
    """Vectors times a body's map: normals of unit space, and gradients, to the world."""
    wx = item(bodies, m) * x + item(bodies, m + 3) * y + item(bodies, m + 6) * z
    wy = item(bodies, m + 1) * x + item(bodies, m + 4) * y + item(bodies, m + 7) * z
    wz = item(bodies, m + 2) * x + item(bodies, m + 5) * y + item(bodies, m + 8) * z
    return wx, wy, wz


@part
def _outward(shape, part_of, x, y, z):
    """Normal of a unit shape, of any length."""
    zero = fill(np.float32(0.0))
    if shape == BALL:
        return x, y, z
    if shape == BOX:
        sign = fill(np.float32(2 * (part_of & 1) - 1))
        if part_of < 2:
            return sign, zero, zero
        if part_of < 4:
            return zero, sign, zero
        return zero, zero, sign
    if shape == CYLINDER:
        if part_of == 0:
            return x, zero, z
        return zero, fill(np.float32(3 - 2 * part_of)), zero
    return x * x * x, y * y * y, z * z * z


@part
def _unit(x, y, z):
    """Vectors of length one."""
    inverse = 1.0 / root(most(x * x + y * y + z * z, 1e-20))
    return x * inverse, y * inverse, z * inverse


@part
def _plane(ax, ay, az, mx, my, mz):
    """Coordinates in the plane that a surface faces most, another part of the plane for each
    axis.
    """
    on_y = (ay > ax) & (ay >= az)
    on_x = ax >= az
    u = select(on_y, mx, select(on_x, mz + 3.7, mx + 7.9))
    v = select(on_y, mz, my)
    return u, v


@part
def _worn(looks, row, ax, ay, az, mx, my, mz, footprint):
    """Colour at points (metres on the surface), and the gradient of its grain times the bump."""
    u0, v0 = _plane(ax, ay, az, mx, my, mz)
    c, s = item(looks, row + COS), item(looks, row + SIN)
    seed = int(item(looks, row + SEED))
    position, shade = pattern(
        int(item(looks, row + PATTERN)), c * u0 + s * v0, c * v0 - s * u0,
        footprint * item(looks, row + SCALE) + 1e-4,
        seed, item(looks, row + FIRST), item(looks, row + SECOND),
    )  # fmt: skip
    fine, stretch = item(looks, row + GRAIN_SCALE), item(looks, row + GRAIN_STRETCH)
    bump = item(looks, row + BUMP)
    if bump > 0.0:
        n, gx, gy, gz = octaves(
            mx * fine, my * (fine * stretch), mz * fine, footprint * fine, seed ^ 0x55
        )
    else:
        n = octave_values(
            mx * fine, my * (fine * stretch), mz * fine, footprint * fine, seed ^ 0x55
        )
        gx, gy, gz = 0.0 * n, 0.0 * n, 0.0 * n
    light = most(1.0 + item(looks, row + CONTRAST) * shade + item(looks, row + GRAIN) * n, 0.05)
    w0, w1 = limited(1.0 - 3.0 * position), limited(1.0 - absolute(3.0 * position - 1.0))
    w2, w3 = limited(1.0 - absolute(3.0 * position - 2.0)), limited(3.0 * position - 2.0)
    p = row + PALETTE
    r = (
        w0 * item(looks, p)
        + w1 * item(looks, p + 3)
        + w2 * item(looks, p + 6)
        + w3 * item(looks, p + 9)
    )
    g = (
        w0 * item(looks, p + 1)
        + w1 * item(looks, p + 4)
        + w2 * item(looks, p + 7)
        + w3 * item(looks, p + 10)
    )
    b = (
        w0 * item(looks, p + 2)
        + w1 * item(looks, p + 5)
        + w2 * item(looks, p + 8)
        + w3 * item(looks, p + 11)
    )
    return r * light, g * light, b * light, gx * bump, gy * (bump * stretch), gz * bump


@part
def _width(nx, ny, nz, rx, ry, rz, t, pixel):
    """How wide a pixel is on the surface, in metres."""
    slant = absolute(nx * rx + ny * ry + nz * rz) / root(rx * rx + ry * ry + rz * rz)
    return t * pixel / root(most(slant, 0.05))


@part
def described(bodies, first, frames, e, looks, l, name, rx, ry, rz, t, pixel):
    """Colour, gloss and unit normal where rays meet the surface number ``name``."""
    px, py, pz = (
        item(frames, e + EYE) + rx * t,
        item(frames, e + EYE + 1) + ry * t,
        item(frames, e + EYE + 2) + rz * t,
    )
    k, part_of = name // PARTS, name % PARTS
    zero = fill(np.float32(0.0))
    if k == BODIES:
        axis = part_of >> 1
        sign = np.float32(1 - 2 * (part_of & 1))
        nx, ny, nz = zero, zero, zero
        if axis == 0:
            nx = fill(sign)
            row = l + WALL_X * LOOK
        elif axis == 1:
            ny = fill(sign)
            row = l + (FLOOR if part_of == 3 else CEILING) * LOOK
        else:
            nz = fill(sign)
            row = l + WALL_Z * LOOK
        width = _width(nx, ny, nz, rx, ry, rz, t, pixel)
        r, g, b, gx, gy, gz = _worn(
            looks, row, absolute(nx), absolute(ny), absolute(nz), px, py, pz, width
        )
    else:
        body = first + k * BODY
        row, m = l + k * LOOK, body + MAP
        x, y, z = _times(bodies, m, px, py, pz)
        x, y, z = (
            x + item(bodies, body + OFFSET),
            y + item(bodies, body + OFFSET + 1),
            z + item(bodies, body + OFFSET + 2),
        )
        ux, uy, uz = _outward(int(item(bodies, body + SHAPE)), part_of, x, y, z)
        nx, ny, nz = _turned(bodies, m, ux, uy, uz)
        nx, ny, nz = _unit(nx, ny, nz)
        sx, sy, sz = (
            item(bodies, body + REST),
            item(bodies, body + REST + 1),
            item(bodies, body + REST + 2),
        )
        width = _width(nx, ny, nz, rx, ry, rz, t, pixel)
        r, g, b, gx, gy, gz = _worn(
            looks, row, absolute(ux), absolute(uy), absolute(uz), x * sx, y * sy, z * sz, width
        )
        gx, gy, gz = _turned(bodies, m, gx * sx, gy * sy, gz * sz)
    along = gx * nx + gy * ny + gz * nz
    nx, ny, nz = _unit(nx - (gx - along * nx), ny - (gy - along * ny), nz - (gz - along * nz))
    return r, g, b, fill(item(looks, row + GLOSS)), nx, ny, nz


@part
def sky(looks, l, rx, ry, rz, pixel):
    """Colour of the sky: zenith to horizon, clouds, and hills in front of both."""
    dx, dy, dz = _unit(rx, ry, rz)
    up = most(0.0 - dy, 0.0)
    row = l + WALL_X * LOOK
    seed, p = int(item(looks, row + SEED)), row + PALETTE
    inverse = 1.0 / (up + 0.08)
    flow = octave_values(
        dx * inverse, dz * inverse, 0.3 + 0.0 * up, pixel * inverse * inverse, seed
    )
    cover = limited((flow + item(looks, row + FIRST)) * 2.5) * limited(up * 6.0)
    flat = 1.0 / root(most(dx * dx + dz * dz, 1e-6))
    rise = octave_values(
        dx * flat * 2.0, dz * flat * 2.0, 0.7 + 0.0 * up, 2.0 * pixel + 0.0 * up, seed ^ 0x33
    )
    hill = covered(item(looks, row + SECOND) * (1.0 + 1.6 * rise) - up, 1.5 * pixel + 0.0 * up)
    high = root(least(up, 1.0))
    red, green = _mixed(looks, p, high, cover, hill), _mixed(looks, p + 1, high, cover, hill)
    return red, green, _mixed(looks, p + 2, high, cover, hill)


@part
def _mixed(looks, p, high, cover, hill):
    """One channel of the sky."""
    plain = item(looks, p + 3) + (item(looks, p) - item(looks, p + 3)) * high
    cloudy = plain + (item(looks, p + 9) - plain) * cover
    return cloudy + (item(looks, p + 6) - cloudy) * hill
