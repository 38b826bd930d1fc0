"""Patterns of the world's surfaces, plain torch: colour and brightness of points of a plane,
filtered to the pixel.

Every pattern takes coordinates in cells, the width of a pixel in cells (``footprint``), a seed and
two numbers of its own, all tensors of one shape. It returns a position along the surface's palette
in [0, 1] and a brightness in [-1, 1]. Edges are averaged over the pixel, and what is finer than a
pixel fades into its mean.

The formulas use the few functions at the top of this file and no others. ``pattern_kernels``
compiles the same formulas with the functions of the same names in ``fsm.kernels.simd``, for sixteen
points at once; seeds and the two numbers are then scalars.
"""

import torch
from torch import Tensor

# odd: every bit counts
ACROSS, ALONG, INTO, MIX, REMIX = -1918454973, -669632447, -887442657, 0x2C1B3C6D, 0x297A2D39
PER_BIT = 2.0**-24
OCTAVES = 4

absolute, floor, root, select = torch.abs, torch.floor, torch.sqrt, torch.where


def whole(x: Tensor) -> Tensor:
    """Numbers of any shape, without fraction, as integers."""
    return x.int()


def real(n: Tensor) -> Tensor:
    """Integers of any shape as numbers."""
    return n.float()


def least(a: Tensor, b: Tensor | float) -> Tensor:
    """The smaller of two, of any shape."""
    return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp_max(b)


def most(a: Tensor, b: Tensor | float) -> Tensor:
    """The larger of two, of any shape."""
    return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp_min(b)


def any_of(mask: Tensor) -> bool:
    """Whether any of the booleans is set; of any shape."""
    return bool(mask.any())


def shifted(n: Tensor, places: Tensor | int) -> Tensor:
    """Bits moved right, zeros from the left; of any shape."""
    if isinstance(places, Tensor):
        return ((n.long() & 0xFFFFFFFF) >> places.long()).int()
    return (n >> places) & ((1 << (32 - places)) - 1)


def cell_hash(ix, iy, seed):
    """Random bits of a cell."""
    h = (ix * ACROSS) ^ (iy * ALONG) ^ seed
    h = (h ^ shifted(h, 15)) * MIX
    return h ^ shifted(h, 13)


def again(h):
    """More random bits from random bits."""
    h = (h ^ shifted(h, 16)) * REMIX
    return h ^ shifted(h, 14)


def chance(h):
    """Bits as a number in [0, 1)."""
    return real(shifted(h, 8)) * PER_BIT


def limited(x):
    """Held in [0, 1]."""
    return least(most(x, 0.0), 1.0)


def covered(distance, footprint):
    """Share of a pixel ``footprint`` wide on the side distance > 0 of an edge."""
    return limited(distance / footprint + 0.5)


def kept(footprint):
    """How much of a cell's own look is left when a pixel is ``footprint`` cells wide: all below
    1/3, nothing from 1 on.
    """
    return limited(1.5 - 1.5 * footprint)


def corner(hx, hy, hz):
    """Random number in [-1, 1) of a lattice point."""
    h = hx ^ hy ^ hz
    h = (h ^ shifted(h, 15)) * MIX
    return real(shifted(h ^ shifted(h, 12), 8)) * (2.0 * PER_BIT) - 1.0


def noise(x, y, z, seed):
    """Smooth noise in [-1, 1] with one random value per lattice point, and its gradient."""
    fx, fy, fz = floor(x), floor(y), floor(z)
    tx, ty, tz = x - fx, y - fy, z - fz
    hx, hy, hz = whole(fx) * ACROSS, whole(fy) * ALONG, (whole(fz) * INTO) ^ seed
    kx, ky, kz = hx + ACROSS, hy + ALONG, ((whole(fz) + 1) * INTO) ^ seed
    a, b, c, d = corner(hx, hy, hz), corner(kx, hy, hz), corner(hx, ky, hz), corner(kx, ky, hz)
    e, f, g, h = corner(hx, hy, kz), corner(kx, hy, kz), corner(hx, ky, kz), corner(kx, ky, kz)
    ux, uy, uz = tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty), tz * tz * (3.0 - 2.0 * tz)
    kb, kc, ke = b - a, c - a, e - a
    kd, kg, kf = a - b - c + d, a - c - e + g, a - b - e + f
    kh = b + c + e - a - d - g - f + h
    value = (
        a
        + kb * ux
        + kc * uy
        + ke * uz
        + kd * ux * uy
        + kg * uy * uz
        + kf * uz * ux
        + kh * ux * uy * uz
    )
    gx = 6.0 * tx * (1.0 - tx) * (kb + kd * uy + kf * uz + kh * uy * uz)
    gy = 6.0 * ty * (1.0 - ty) * (kc + kd * ux + kg * uz + kh * uz * ux)
    gz = 6.0 * tz * (1.0 - tz) * (ke + kg * uy + kf * ux + kh * ux * uy)
    return value, gx, gy, gz


def octaves(x, y, z, footprint, seed):
    """Noise of four octaves, each twice as fine and half as strong, and its gradient.

    Octaves fade out below the pixel; those that no point shows are not worked out.
    """
    value, gx, gy, gz = 0.0 * x, 0.0 * x, 0.0 * x, 0.0 * x
    for octave in range(OCTAVES):
        scale = float(1 << octave)
        keep = kept(0.8 * scale * footprint)
        if any_of(keep > 0.0):
            shift = 17.3 * octave
            n, nx, ny, nz = noise(x * scale + shift, y * scale + shift, z * scale + shift, seed)
            value = value + n * (0.55 / scale) * keep
            gx, gy, gz = gx + 0.55 * nx * keep, gy + 0.55 * ny * keep, gz + 0.55 * nz * keep
    return value, gx, gy, gz


def octave_values(x, y, z, footprint, seed):
    """The value of ``octaves`` alone."""
    value = 0.0 * x
    for octave in range(OCTAVES):
        scale = float(1 << octave)
        keep = kept(0.8 * scale * footprint)
        if any_of(keep > 0.0):
            shift = 17.3 * octave
            n, _, _, _ = noise(x * scale + shift, y * scale + shift, z * scale + shift, seed)
            value = value + n * (0.55 / scale) * keep
    return value


def clouds(u, v, footprint, seed, first, second):
    """Colours that drift: noise of several octaves, its third coordinate ``first``, contrast
    ``second``.
    """
    value = octave_values(u, v, first + 0.0 * u, footprint, seed)
    return limited(0.5 + second * value), 0.0 * u


def stripes(u, v, footprint, seed, first, second):
    """Bands of random colours, ``first`` of a period wide; bent by noise of amplitude ``second``
    they are marble.
    """
    bend = octave_values(0.6 * u, 0.6 * v, 0.5 + 0.0 * u, 0.6 * footprint, seed)
    w = u + second * bend
    cell = floor(w)
    on = covered(0.5 * first - absolute(w - cell - 0.5), footprint)
    h = cell_hash(whole(cell), whole(cell), seed)
    keep = kept(footprint)
    q = on * (0.35 + 0.65 * chance(h))
    return q * keep + 0.675 * first * (1.0 - keep), (chance(again(h)) - 0.5) * keep


def squares(u, footprint):
    """A square wave of period two between 0 and 1, averaged over the pixel."""
    half = 0.5 * u
    return covered((0.25 - absolute(half - floor(half) - 0.5)) * 2.0, footprint)


def checks(u, v, footprint, seed, first, second):
    """A board: ``first`` between the two colours along the palette, tiles uneven by ``second``."""
    a, b = squares(u, footprint), squares(v, footprint)
    keep = kept(footprint)
    h = cell_hash(whole(floor(u)), whole(floor(v)), seed)
    odd = (a + b - 2.0 * a * b - 0.5) * kept(0.5 * footprint) + 0.5
    return first * odd, (chance(h) * 2.0 - 1.0) * second * keep


def bricks(u, v, footprint, seed, first, second):
    """Rows of bricks, tiles or planks 1 / ``first`` long with joints ``second`` wide; every row
    starts elsewhere.
    """
    row = floor(v)
    w = u * first + chance(cell_hash(whole(row), whole(row), seed))
    column = floor(w)
    fu, fv = (0.5 - absolute(w - column - 0.5)) / first, 0.5 - absolute(v - row - 0.5)
    keep = kept(footprint)
    whole_bricks = (1.0 - 2.0 * second) * (1.0 - 2.0 * second * first)
    inside = covered(least(fu, fv) - second, footprint) * keep + whole_bricks * (1.0 - keep)
    h = cell_hash(whole(column), whole(row), seed)
    q = 0.33 + 0.67 * (chance(h) * keep + 0.5 * (1.0 - keep))
    return q * inside, (chance(again(h)) * 1.6 - 0.8) * inside * keep - 0.5 * (1.0 - inside)


def cells(u, v, footprint, seed, first, second):
    """Stones: the nearest of random points says the colour; seams ``first`` wide, stones uneven by
    ``second``.
    """
    cu, cv = floor(u), floor(v)
    nearest, next_nearest, owner = 9.0 + 0.0 * u, 9.0 + 0.0 * u, whole(cu)
    for i in range(9):
        iu, iv = cu + (i % 3 - 1), cv + (i // 3 - 1)
        h = cell_hash(whole(iu), whole(iv), seed)
        du = iu + 0.1 + 0.8 * chance(h) - u
        dv = iv + 0.1 + 0.8 * chance(again(h)) - v
        distance = du * du + dv * dv
        closer = distance < nearest
        next_nearest = select(closer, nearest, least(next_nearest, distance))
        owner = select(closer, h, owner)
        nearest = least(nearest, distance)
    gap = 0.5 * (root(next_nearest) - root(nearest))
    keep = kept(footprint)
    inside = covered(gap - first, footprint) * keep + (1.0 - 3.5 * first) * (1.0 - keep)
    tone = again(again(owner))
    q = 0.25 + 0.75 * (chance(tone) * keep + 0.5 * (1.0 - keep))
    return q * inside, (chance(again(tone)) * 2.0 - 1.0) * second * inside * keep - 0.4 * (
        1.0 - inside
    )


def leaves(u, v, footprint, seed, first, second):
    """Dead leaves: layers of discs and squares of many sizes that hide each other; tones uneven by
    ``second``.
    """
    q, shade = first + 0.0 * u, 0.0 * u
    for layer in range(8):
        size = 0.6 * (1 + (layer * 5) % 8)
        cu, cv = floor(u * size + 0.37 * layer), floor(v * size + 0.71 * layer)
        h = cell_hash(whole(cu) + 64 * layer, whole(cv), seed)
        other = again(h)
        more = again(other)
        radius = 0.22 + 0.28 * chance(h)
        du = absolute(u * size + 0.37 * layer - cu - radius - (1.0 - 2.0 * radius) * chance(other))
        dv = absolute(v * size + 0.71 * layer - cv - radius - (1.0 - 2.0 * radius) * chance(more))
        disc = (h & 1) < 1
        distance = select(disc, root(du * du + dv * dv), most(du, 0.35 * radius + dv))
        keep = kept(0.7 * footprint * size)
        on = covered(radius - distance, footprint * size) * keep + 0.39 * (1.0 - keep)
        tint = again(more)
        q = q + (0.5 + (chance(tint) - 0.5) * keep - q) * on
        shade = shade + ((chance(again(tint)) * 2.0 - 1.0) * second * keep - shade) * on
    return q, shade


def dots(u, v, footprint, seed, first, second):
    """Dots of radius ``first`` in shifted rows; those beyond ``second`` of all are missing."""
    row = floor(v)
    w = u + 0.5 * (row - 2.0 * floor(0.5 * row))
    column = floor(w)
    du, dv = w - column - 0.5, v - row - 0.5
    h = cell_hash(whole(column), whole(row), seed)
    there = select(chance(again(h)) < second, 1.0 + 0.0 * u, 0.0 * u)
    keep = kept(footprint)
    on = covered(first - root(du * du + dv * dv), footprint) * there * keep
    return on * (0.33 + 0.67 * chance(h)) + (1.0 - keep) * second * first * first * 2.0, 0.0 * u


def ink(h, column, row):
    """1 where a letter of 5 x 7 dots has one, else 0: a random glyph, alike on its left and its
    right.
    """
    side = least(column, 4.0 - column)
    inside = (column >= 0.0) & (column <= 4.0) & (row >= 0.0) & (row <= 6.0)
    bit = shifted(h, whole(most(side + 3.0 * row, 0.0))) & 1
    return select(inside, real(bit), 0.0 * column)


def letters(u, v, footprint, seed, first, second):
    """Lines of glyphs; ``first`` of all places hold one, printed in the colour ``second`` along the
    palette.
    """
    line = floor(v)
    w = 1.6 * u + chance(cell_hash(whole(line), whole(line), seed))
    place = floor(w)
    h = cell_hash(whole(place), whole(line), seed)
    x, y = (w - place) * 7.0 - 1.5, (v - line) * 10.0 - 2.0
    cx, cy = floor(x), floor(y)
    tx, ty = x - cx, y - cy
    above = ink(h, cx, cy) * (1.0 - tx) + ink(h, cx + 1.0, cy) * tx
    below = ink(h, cx, cy + 1.0) * (1.0 - tx) + ink(h, cx + 1.0, cy + 1.0) * tx
    on = covered(above * (1.0 - ty) + below * ty - 0.5, footprint * 10.0 + 0.3)
    there = select(chance(again(h)) < first, 1.0 + 0.0 * u, 0.0 * u)
    keep = kept(3.0 * footprint)
    return second * (on * there * keep + 0.3 * first * (1.0 - keep)), 0.0 * u


PATTERNS = (clouds, stripes, checks, bricks, cells, leaves, dots, letters)
NAMES = tuple(pattern.__name__ for pattern in PATTERNS)
