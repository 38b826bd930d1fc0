"""What rays meet looks like, plain torch: colour, gloss and normal of bodies, rooms, ground and
sky.

A surface's number is its body (``BODIES`` for the surroundings) times ``PARTS`` plus its face;
``SKY`` is the last.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.world.description import (
    BALL,
    BODIES,
    BOX,
    CEILING,
    CYLINDER,
    FLOOR,
    SURFACES,
    WALL_X,
    WALL_Z,
)
from fsm.datasets.world.patterns import PATTERNS, covered, limited, octaves
from fsm.datasets.world.tables import EYE, MAP, OFFSET, REST, SHAPE, TraceTables

PARTS = 8
SKY = BODIES * PARTS + 6
# Columns of ``Surfaces.packed``.
(
    PATTERN,
    SEED,
    COS,
    SIN,
    SCALE,
    FIRST,
    SECOND,
    CONTRAST,
    GRAIN,
    GRAIN_SCALE,
    GRAIN_STRETCH,
    BUMP,
    GLOSS,
) = range(13)
PALETTE = 14

Planes = tuple[Tensor, Tensor, Tensor]  # x, y, z


@dataclass(frozen=True)
class Paint:
    """What n points of each frame look like before light falls on them; of the sky, the colour that
    is seen.
    """

    colour: Planes
    gloss: Float[Tensor, "f n"]
    normal: Planes
    """Unit length, zero in the sky."""
    point: Planes
    """World coordinates."""


def unit(x: Tensor, y: Tensor, z: Tensor) -> Planes:
    """Vectors of length one; components of any shape."""
    inverse = 1.0 / (x * x + y * y + z * z).clamp_min(1e-20).sqrt()
    return x * inverse, y * inverse, z * inverse


def times(body: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Planes:
    """Bodies' maps times vectors; ``body`` is [columns *n], components are [*n]."""
    m = body[MAP : MAP + 9]
    ux, uy, uz = (m[3 * i] * x + m[3 * i + 1] * y + m[3 * i + 2] * z for i in range(3))
    return ux, uy, uz


def _turned(m: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Planes:
    """Vectors times bodies' maps: normals of unit space, and gradients, to the world."""
    wx, wy, wz = (m[i] * x + m[3 + i] * y + m[6 + i] * z for i in range(3))
    return wx, wy, wz


def paint(tables: TraceTables, ray: Planes, depth: Tensor, seen: Tensor, pixel: Tensor) -> Paint:
    """Looks of the surfaces number ``seen`` [f n] at ``depth`` along ``ray``; ``pixel`` [f 1] is
    its width at one metre.
    """
    f, n = seen.shape
    rx, ry, rz = ray
    px, py, pz = (tables.frames[:, EYE + i, None] + axis * depth for i, axis in enumerate(ray))
    k, part = torch.div(seen, PARTS, rounding_mode="floor").long(), (seen % PARTS).long()
    around = k == BODIES
    rows = torch.arange(f, device=seen.device)[:, None] * BODIES + k.clamp_max(BODIES - 1)
    body = tables.bodies.flatten(0, 1)[rows.flatten()].T.contiguous().unflatten(1, (f, n))
    body = torch.where(around, _IDENTITY.to(body)[:, None, None], body)
    x, y, z = (c + body[OFFSET + i] for i, c in enumerate(times(body, px, py, pz)))
    ux, uy, uz = _outward(body[SHAPE], part, around, x, y, z)
    nx, ny, nz = unit(*_turned(body[MAP : MAP + 9], ux, uy, uz))
    slant = (nx * rx + ny * ry + nz * rz).abs() / (rx * rx + ry * ry + rz * rz).sqrt()
    width = depth * pixel / slant.clamp_min(0.05).sqrt()
    face = torch.where(
        part < 2, WALL_X, torch.where(part == 3, FLOOR, torch.where(part == 2, CEILING, WALL_Z))
    )
    look = torch.where(around, face, k) + tables.world.long()[:, None] * SURFACES
    look = tables.looks.flatten(0, 1)[look.flatten()].T.contiguous().unflatten(1, (f, n))
    metres = (x * body[REST], y * body[REST + 1], z * body[REST + 2])
    colour, (gx, gy, gz) = _worn(look, (ux.abs(), uy.abs(), uz.abs()), metres, width)
    gx, gy, gz = _turned(
        body[MAP : MAP + 9], gx * body[REST], gy * body[REST + 1], gz * body[REST + 2]
    )
    along = gx * nx + gy * ny + gz * nz
    normal = unit(nx - (gx - along * nx), ny - (gy - along * ny), nz - (gz - along * nz))
    is_sky = seen == SKY
    air = _sky(tables, ray, pixel)
    red, green, blue = (torch.where(is_sky, a, c) for a, c in zip(air, colour, strict=True))
    nx, ny, nz = (c.masked_fill(is_sky, 0.0) for c in normal)
    return Paint(
        (red, green, blue), look[GLOSS].masked_fill(is_sky, 0.0), (nx, ny, nz), (px, py, pz)
    )


_IDENTITY = torch.tensor(
    [1.0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, BOX, 1, 1, 1, 1, 0, 0, 0, 0]
)


def _outward(
    shape: Tensor, part: Tensor, around: Tensor, x: Tensor, y: Tensor, z: Tensor
) -> Planes:
    """Normal of unit shapes, outwards and of any length; of the surroundings, inwards."""
    side = (2.0 * (part % 2) - 1.0) * torch.where(around, -1.0, 1.0)
    zero = torch.zeros_like(x)
    box = [torch.where(part // 2 == axis, side, zero) for axis in range(3)]
    tube = (
        torch.where(part == 0, x, zero),
        torch.where(part == 0, zero, 3.0 - 2.0 * part),
        torch.where(part == 0, z, zero),
    )
    ux, uy, uz = (
        torch.where(
            shape == BALL,
            ball,
            torch.where(
                shape == BOX, flat, torch.where(shape == CYLINDER, round_, ball * ball * ball)
            ),
        )
        for ball, flat, round_ in zip((x, y, z), box, tube, strict=True)
    )
    return ux, uy, uz


def _worn(look: Tensor, facing: Planes, metres: Planes, width: Tensor) -> tuple[Planes, Planes]:
    """Colour at points (metres on the surface), and the gradient of their grain times the bump."""
    (ax, ay, az), (mx, my, mz) = facing, metres
    on_y, on_x = (ay > ax) & (ay >= az), ax >= az
    u0 = torch.where(on_y, mx, torch.where(on_x, mz + 3.7, mx + 7.9))
    v0 = torch.where(on_y, mz, my)
    u, v = look[COS] * u0 + look[SIN] * v0, look[COS] * v0 - look[SIN] * u0
    footprint, seed = width * look[SCALE] + 1e-4, look[SEED].int()
    position, shade = torch.zeros_like(u), torch.zeros_like(u)
    for kind, pattern in enumerate(PATTERNS):
        its = look[PATTERN] == kind
        given = (u[its], v[its], footprint[its], seed[its], look[FIRST][its], look[SECOND][its])
        position[its], shade[its] = pattern(*given)
    fine, stretch = look[GRAIN_SCALE], look[GRAIN_STRETCH]
    n, gx, gy, gz = octaves(mx * fine, my * (fine * stretch), mz * fine, width * fine, seed ^ 0x55)
    light = (1.0 + look[CONTRAST] * shade + look[GRAIN] * n).clamp_min(0.05)
    weights = [
        limited(1.0 - 3.0 * position),
        *(limited(1.0 - (3.0 * position - i).abs()) for i in (1, 2)),
    ]
    weights.append(limited(3.0 * position - 2.0))
    red, green, blue = (
        sum((w * look[PALETTE + 3 * i + c] for i, w in enumerate(weights)), torch.zeros_like(light))
        * light
        for c in range(3)
    )
    return (red, green, blue), (gx * look[BUMP], gy * (look[BUMP] * stretch), gz * look[BUMP])


def _sky(tables: TraceTables, ray: Planes, pixel: Tensor) -> Planes:
    """Colour of the sky: zenith to horizon, clouds, and hills in front of both."""
    dx, dy, dz = unit(*ray)
    up = (-dy).clamp_min(0.0)
    look = tables.looks[:, WALL_X][tables.world.long()].T[..., None]
    seed = look[SEED].int().expand_as(up)
    inverse = 1.0 / (up + 0.08)
    height = torch.full_like(up, 0.3)
    flow, _, _, _ = octaves(dx * inverse, dz * inverse, height, pixel * inverse * inverse, seed)
    cover = limited((flow + look[FIRST]) * 2.5) * limited(up * 6.0)
    flat = 1.0 / (dx * dx + dz * dz).clamp_min(1e-6).sqrt()
    height = torch.full_like(up, 0.7)
    rise, _, _, _ = octaves(
        dx * flat * 2.0, dz * flat * 2.0, height, 2.0 * pixel + 0.0 * up, seed ^ 0x33
    )
    hill = covered(look[SECOND] * (1.0 + 1.6 * rise) - up, 1.5 * pixel + 0.0 * up)
    high = up.clamp_max(1.0).sqrt()
    planes = []
    for p in range(PALETTE, PALETTE + 3):
        plain = look[p + 3] + (look[p] - look[p + 3]) * high
        cloudy = plain + (look[p + 9] - plain) * cover
        planes.append(cloudy + (look[p + 6] - cloudy) * hill)
    return planes[0], planes[1], planes[2]
