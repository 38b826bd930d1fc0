"""Rays through worlds, plain torch: any device, one formula per shape; ``trace_kernels`` is the
compiled twin.

Rays keep their camera's z as parameter: affine maps leave it alone, so the smallest one over all
bodies is the z-depth.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER
from fsm.datasets.world.light import light
from fsm.datasets.world.surfaces import PARTS, SKY, Planes, paint, times
from fsm.datasets.world.tables import (
    AXES,
    BOUND,
    EYE,
    LENS,
    NEAR,
    OPEN,
    ORIGIN,
    ROOM,
    SHAPE,
    TraceTables,
)

FAR = 1000.0  # metres: z-depth of the sky, and where the ground ends
MISS = 1e9
ROUNDS = 6  # Newton's steps
EDGE_RAYS = 2  # on a side, for the pixels of blocks that show more than one surface


def _slab(o: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Where lines from ``o`` enter and leave [-1, 1]."""
    return -o * inverse - inverse.abs(), inverse.abs() - o * inverse


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c in order; where there are none, enter > leave."""
    square = b * b - a * c
    reach = torch.where(square > 0, square.clamp_min(0.0).sqrt(), -MISS)
    return (-b - reach) / a, (reach - b) / a


def _pillow(o: Planes, d: Planes, enter: Tensor, leave: Tensor) -> Tensor:
    """Newton's steps on the convex x⁴ + y⁴ + z⁴ - 1 along the ray from where it enters the cube
    around it.
    """
    t, value = enter, torch.ones_like(enter)
    for _ in range(ROUNDS):
        points = [(p + q * t, q) for p, q in zip(o, d, strict=True)]
        value = sum(((x * x).square() for x, _ in points), torch.zeros_like(t)) - 1.0
        slope = 4.0 * sum((x * x * x * q for x, q in points), torch.zeros_like(t))
        t = torch.minimum(t - value / slope.clamp_max(-1e-6), leave + 1.0)
    return torch.where((value < 0.01) & (t < leave), t, MISS)


def _face(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Number of the face of the cube that points on it lie on."""
    ax, ay, az = x.abs(), y.abs(), z.abs()
    beside = torch.where(ax >= az, (x > 0).float(), 4.0 + (z > 0))
    return torch.where((ay > ax) & (ay >= az), 2.0 + (y > 0), beside)


def _body(body: Tensor, ray: Planes) -> tuple[Tensor, Tensor]:
    """Where rays enter bodies, and on which of their parts; MISS or less than NEAR for none."""
    dx, dy, dz = times(body, *ray)
    ox, oy, oz = (body[ORIGIN + i].expand_as(dx) for i in range(3))
    shape = body[SHAPE].expand_as(dx)
    miss = torch.full_like(dx, MISS)
    start, end = _roots(
        dx * dx + dy * dy + dz * dz, dx * ox + dy * oy + dz * oz, ox * ox + oy * oy + oz * oz - 1.0
    )
    ball = torch.where(start < end, start, miss)
    (near_x, far_x), (near_y, far_y), (near_z, far_z) = (
        _slab(o, 1.0 / d.masked_fill(d.abs() < 1e-9, 1e-9))
        for o, d in ((ox, dx), (oy, dy), (oz, dz))
    )
    near, far = _roots(
        (dx * dx + dz * dz).clamp_min(1e-12), dx * ox + dz * oz, ox * ox + oz * oz - 1.0
    )
    start, end = torch.maximum(near, near_y), torch.minimum(far, far_y)
    tube = torch.where(start < end, start, miss)
    tube_part = torch.where(near_y > near, 1.0 + (dy > 0), 0.0)
    start = torch.maximum(torch.maximum(near_x, near_y), near_z)
    end = torch.minimum(torch.minimum(far_x, far_y), far_z)
    box = torch.where(start < end, start, miss)
    box_part = _face(ox + dx * start, oy + dy * start, oz + dz * start)
    pillow = torch.where(start < end, _pillow((ox, oy, oz), (dx, dy, dz), start, end), miss)
    enter = torch.where(
        shape == BALL,
        ball,
        torch.where(shape == BOX, box, torch.where(shape == CYLINDER, tube, pillow)),
    )
    part = torch.where(shape == BOX, box_part, torch.where(shape == CYLINDER, tube_part, 0.0))
    return torch.where(body[BOUND] > 0, enter, miss), part


def _around(frames: Tensor, ray: Planes) -> tuple[Tensor, Tensor]:
    """Where rays meet the room or the ground, and the number of that surface; the sky is FAR."""
    inverse = [1.0 / d.masked_fill(d.abs() < 1e-9, 1e-9) for d in ray]
    half = frames[ROOM : ROOM + 3]
    ends = []
    for i, shift in enumerate((0.0, half[1], 0.0)):
        ends.append(_slab((frames[EYE + i] + shift) / half[i], half[i] * inverse[i])[1])
    t = torch.minimum(torch.minimum(ends[0], ends[1]), ends[2])
    up_down, x, z = 2.0 + (ray[1] > 0), (ray[0] > 0).float(), 4.0 + (ray[2] > 0)
    on_y = (ends[1] < ends[0]) & (ends[1] <= ends[2])
    face = BODIES * PARTS + torch.where(on_y, up_down, torch.where(ends[0] <= ends[2], x, z))
    down = -frames[EYE + 1] * inverse[1]
    ground = (down > NEAR) & (down < FAR)
    is_open = frames[OPEN] > 0.5
    t = torch.where(is_open, torch.where(ground, down, FAR), t)
    return t, torch.where(is_open, torch.where(ground, float(BODIES * PARTS + 3), float(SKY)), face)


def first_hit(tables: TraceTables, x: Tensor, y: Tensor) -> tuple[Planes, Tensor, Tensor]:
    """Directions (unit length along the camera's axis) of rays through pixels [f n], their z-depth,
    and what they meet.
    """
    frames = tables.frames.T[..., None]
    cx, cy = (x - frames[LENS + 2]) / frames[LENS], (y - frames[LENS + 3]) / frames[LENS + 1]
    rx, ry, rz = (
        frames[AXES + 3 * i] * cx + frames[AXES + 3 * i + 1] * cy + frames[AXES + 3 * i + 2]
        for i in range(3)
    )
    t, seen = _around(frames, (rx, ry, rz))
    for k in range(BODIES):
        enter, part = _body(tables.bodies[:, k].T[..., None], (rx, ry, rz))
        closer = (enter > NEAR) & (enter < t)
        t, seen = torch.where(closer, enter, t), torch.where(closer, part + k * PARTS, seen)
    return (rx, ry, rz), t, seen


def _colours(tables: TraceTables, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tone-mapped linear colours [f 3 n], depth and surfaces of rays, patterns filtered to a
    pixel.
    """
    ray, depth, seen = first_hit(tables, x, y)
    pixel = 2.0 / tables.frames[:, LENS : LENS + 2].abs().sum(1, keepdim=True)
    return (
        torch.stack(light(tables, ray, depth, seen, paint(tables, ray, depth, seen, pixel)), 1),
        depth,
        seen,
    )


def _blend(tables: TraceTables, x: Tensor, y: Tensor) -> Tensor:
    """Colours [f 3 n] of pixels that show more than one surface: each is lit once, and counts by
    its share of the rays.
    """
    shifts = [(i + 0.5) / EDGE_RAYS - 0.5 for i in range(EDGE_RAYS)]
    places = [(x + a, y + b) for b in shifts for a in shifts]
    seen = [first_hit(tables, *place)[2] for place in places]
    colours = []
    for mine in seen:
        at_x, at_y = x, y
        for theirs, (other_x, other_y) in zip(seen, places, strict=True):
            same = theirs == mine
            at_x, at_y = torch.where(same, other_x, at_x), torch.where(same, other_y, at_y)
        colours.append(_colours(tables, at_x, at_y)[0])
    return torch.stack(colours).mean(0)


def mixed_blocks(surface: Float[Tensor, "f h w"]) -> Tensor:
    """Which 4 x 4 blocks, with the pixels around them, show more than one surface: [f h/4 w/4]."""
    around = F.pad(surface[:, None], (1, 1, 1, 1), mode="replicate")
    return (F.max_pool2d(around, 6, 4) != -F.max_pool2d(-around, 6, 4))[:, 0]


def trace_frames(
    tables: TraceTables, hw: tuple[int, int]
) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "f h w"], Float[Tensor, "f h w"]]:
    """sRGB pictures, z-depth and numbers of the surfaces at pixel centres; h and w are multiples of
    four.
    """
    h, w = hw
    f, device = len(tables.frames), tables.frames.device
    rows, columns = torch.meshgrid(
        torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
    )
    x, y = (c.flatten().float().expand(f, -1) + 0.5 for c in (columns, rows))
    linear, depth, seen = _colours(tables, x, y)
    surface = seen.unflatten(1, hw)
    mixed = mixed_blocks(surface).repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1)
    order = mixed.int().sort(dim=1, descending=True, stable=True)
    most = int(mixed.sum(1).max())
    index, real = order.indices[:, :most], order.values[:, :most] > 0
    if most:
        fine = _blend(tables, x.gather(1, index), y.gather(1, index))
        target = index[:, None].expand_as(fine)
        linear = linear.scatter(
            2, target, torch.where(real[:, None], fine, linear.gather(2, target))
        )
    return linear.clamp_min(0.0).sqrt().unflatten(2, hw), depth.unflatten(1, hw), surface
