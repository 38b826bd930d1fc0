"""Light on surfaces, plain torch: a lamp or sun with soft shadows, light from around, highlights,
haze.
"""

import torch
from torch import Tensor

from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER, WALL_X
from fsm.datasets.world.patterns import limited
from fsm.datasets.world.surfaces import PALETTE, PARTS, SKY, Paint, Planes, times, unit
from fsm.datasets.world.tables import (
    ABOVE,
    BELOW,
    BOUND,
    COLOUR,
    FALLOFF,
    FOG,
    LAMP,
    MIDDLE,
    OFFSET,
    OPEN,
    RADIUS,
    ROOM,
    SHAPE,
    SOFTNESS,
    TraceTables,
)

CONTACT = 0.01  # metres: half width of the sharpest shadow
EXPOSURE = 2.3
LEAST_SHARE = 0.03  # of the light from around: what hides less of it hides nothing


def _span(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines enter and leave [-1, 1]."""
    inverse = 1.0 / d.masked_fill(d.abs() < 1e-9, 1e-9)
    return -o * inverse - inverse.abs(), inverse.abs() - o * inverse


def _margin(shape: Tensor, o: Planes, d: Planes, a: Tensor, t: Tensor) -> Tensor:
    """How deep lines pass inside unit shapes, negative outside; ``t`` is where they come closest to
    the middle.
    """
    (ox, oy, oz), (dx, dy, dz) = o, d
    ball = (
        1.0 - sum(((p + q * t) ** 2 for p, q in zip(o, d, strict=True)), torch.zeros_like(t)).sqrt()
    )
    (ax, bx), (ay, by), (az, bz) = _span(ox, dx), _span(oy, dy), _span(oz, dz)
    box = torch.minimum(torch.minimum(bx, by), bz) - torch.maximum(torch.maximum(ax, ay), az)
    across, b = (dx * dx + dz * dz).clamp_min(1e-12), dx * ox + dz * oz
    square = b * b - across * (ox * ox + oz * oz - 1.0)
    reach = square.sign() * square.abs().sqrt()
    tube = torch.minimum((reach - b) / across, by) - torch.maximum((-b - reach) / across, ay)
    for _ in range(3):
        points = [(p + q * t, q) for p, q in zip(o, d, strict=True)]
        slope = sum((x * x * x * q for x, q in points), torch.zeros_like(t))
        t = t - slope / (
            3.0 * sum((x * x * q * q for x, q in points), torch.zeros_like(t))
        ).clamp_min(1e-9)
    pillow = (
        1.0
        - sum(
            ((p + q * t).square().square() for p, q in zip(o, d, strict=True)), torch.zeros_like(t)
        )
        .sqrt()
        .sqrt()
    )
    flat = 0.5 * a.sqrt() * torch.where(shape == BOX, box, tube)
    return torch.where(
        shape == BALL, ball, torch.where((shape == BOX) | (shape == CYLINDER), flat, pillow)
    )


def _occlusion(
    tables: TraceTables, seen: Tensor, at: Paint, lamp: Planes, far: Tensor, facing: Tensor
) -> tuple[Tensor, Tensor]:
    """Shares of the lamp and of the light from around that bodies leave."""
    shadow, free = torch.ones_like(far), torch.ones_like(far)
    softness = tables.frames[:, SOFTNESS, None]
    for k in range(BODIES):
        body = tables.bodies[:, k].T[..., None]
        there = body[BOUND] > 0
        centre = [body[MIDDLE + i] - p for i, p in enumerate(at.point)]
        squared = sum((c * c for c in centre), torch.zeros_like(far))
        other = (torch.div(seen, PARTS, rounding_mode="floor") != k) & there
        inverse = 1.0 / squared.clamp_min(1e-4)
        toward = sum(
            (c * n for c, n in zip(centre, at.normal, strict=True)), torch.zeros_like(far)
        ).clamp_min(0.0)
        hidden = (
            toward
            * inverse.sqrt()
            * ((inverse * body[RADIUS] ** 2).clamp_max(1.0) - LEAST_SHARE).clamp_min(0.0)
        )
        free = free * torch.where(other, 1.0 - 0.85 * hidden, 1.0)
        along = sum((c * l for c, l in zip(centre, lamp, strict=True)), torch.zeros_like(far))
        may = other & (facing > 0) & (along < far) & (along + body[BOUND] > 0)
        reach = body[BOUND] + CONTACT + softness * along.clamp_min(0.0)
        may = may & (squared - along * along < reach * reach)
        ox, oy, oz = (c + body[OFFSET + i] for i, c in enumerate(times(body, *at.point)))
        dx, dy, dz = times(body, *lamp)
        a = (dx * dx + dy * dy + dz * dz).clamp_min(1e-12)
        t = -(ox * dx + oy * dy + oz * dz) / a
        margin = _margin(body[SHAPE], (ox, oy, oz), (dx, dy, dz), a, t)
        share = limited(0.5 + 0.5 * margin * body[RADIUS] / (softness * t.clamp_min(0.0) + CONTACT))
        share = torch.where((t > 0) & may, share * share * (3.0 - 2.0 * share), 0.0)
        shadow = shadow * (1.0 - share)
    return shadow, free


def _corners(tables: TraceTables, at: Paint) -> Tensor:
    """Darkening of a room's faces towards their neighbours."""
    half = tables.frames[:, ROOM : ROOM + 3].T[..., None]
    x, y, z = at.point
    dim = torch.ones_like(x)
    for i, place in enumerate((x, y + half[1], z)):
        away = half[i] - place.abs()
        dim = dim * (1.0 - 0.4 * (1.0 - at.normal[i].abs()) / (1.0 + 12.0 * away * away))
    return dim


def light(tables: TraceTables, ray: Planes, depth: Tensor, seen: Tensor, at: Paint) -> Planes:
    """Tone-mapped linear light that rays bring back; ``depth`` and ``seen`` are [b n]."""
    frames, normal = tables.frames.T[..., None], at.normal
    away = [frames[LAMP + i] - p for i, p in enumerate(at.point)]
    squared = sum((c * c for c in away), torch.zeros_like(depth)).clamp_min(1e-6)
    far = squared.sqrt()
    lx, ly, lz = (c / far for c in away)
    facing = (normal[0] * lx + normal[1] * ly + normal[2] * lz).clamp_min(0.0)
    shadow, free = _occlusion(tables, seen, at, (lx, ly, lz), far, facing)
    indoors = (frames[OPEN] < 0.5) & (seen >= BODIES * PARTS)
    free = free * torch.where(indoors, _corners(tables, at), 1.0)
    above, below = (0.5 - 0.5 * normal[1]) * free, (0.5 + 0.5 * normal[1]) * free
    lamp = facing * shadow * 3.0 / (1.0 + frames[FALLOFF] * squared)
    to_eye = unit(*ray)
    half = unit(lx - to_eye[0], ly - to_eye[1], lz - to_eye[2])
    glint = (normal[0] * half[0] + normal[1] * half[1] + normal[2] * half[2]).clamp_min(0.0)
    for _ in range(5):
        glint = glint * glint
    glint = glint * at.gloss * shadow
    length = (ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2).sqrt()
    haze = 1.0 - torch.exp2(depth * length * (-1.4427 * frames[FOG]))
    horizon = tables.looks[:, WALL_X, PALETTE + 3 : PALETTE + 6][tables.world.long()].T[..., None]
    planes = []
    for i in range(3):
        key, high, low = frames[COLOUR + i], frames[ABOVE + i], frames[BELOW + i]
        lit = at.colour[i] * (key * lamp + high * above + low * below) + key * glint
        lit = torch.where(seen == SKY, at.colour[i], lit + (horizon[i] - lit) * haze)
        planes.append(1.0 - torch.exp2(lit * -EXPOSURE))
    return planes[0], planes[1], planes[2]
