"""Tables that both tracers read: bodies and frames as rows of numbers, worked out once per view."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.datasets.world.description import (
    BALL,
    BODIES,
    BOX,
    CYLINDER,
    Bodies,
    Surfaces,
    Surroundings,
)
from fsm.views import Views

NEAR = 0.05  # metres
# Columns of a body's row: maps a point x to unit space as MAP · x + OFFSET; ORIGIN is the camera
# there; BOUND 0: not there.
MAP, OFFSET, ORIGIN, MIDDLE, BOUND, SHAPE, REST, RADIUS, RECT, BODY = (
    0,
    9,
    12,
    15,
    18,
    19,
    20,
    23,
    24,
    28,
)
# Columns of a frame's row.
EYE, AXES, LENS, LAMP, COLOUR, ABOVE, BELOW, ROOM = 0, 3, 12, 16, 19, 22, 25, 28
OPEN, FALLOFF, SOFTNESS, FOG, FRAME = 31, 32, 33, 34, 35


@dataclass(frozen=True)
class TraceTables:
    """Worlds as f frames find them, each at its own time."""

    bodies: Float[Tensor, "f k 28"]
    frames: Float[Tensor, "f 35"]
    looks: Float[Tensor, "b s 26"]
    world: Int[Tensor, "f"]
    """Row of ``looks`` for each frame."""


def trace_tables(
    bodies: Bodies, surfaces: Surfaces, around: Surroundings, views: Views
) -> TraceTables:
    """Put the bodies of every view's world where they are at its time, and find where they can be
    seen.
    """
    b, v = views.time.shape
    shape, middle = bodies.pose(views.time)
    to_unit = _inverse(shape)
    offset = -(to_unit @ middle[..., None])[..., 0]
    eye = views.c2w[..., :3, 3]
    origin = (to_unit @ eye[:, :, None, :, None])[..., 0] + offset
    kind = bodies.shape[:, None].expand(b, v, BODIES)
    bound = _bound(shape, kind)
    rect = torch.stack(_rectangle(middle, bound, views), -1)
    bound = torch.where(bodies.there(views.time), bound, torch.zeros_like(bound))
    radius = bodies.size.log().mean(-1).exp()[:, None].expand(b, v, BODIES)
    rest = bodies.size[:, None].expand(b, v, BODIES, 3)
    columns = (
        to_unit.flatten(-2),
        offset,
        origin,
        middle,
        bound[..., None],
        kind[..., None].float(),
        rest,
    )
    table = torch.cat([*columns, radius[..., None], rect], -1).flatten(0, 1)
    fixed = (around.lamp, around.colour, around.above, around.below, around.room)
    fixed += tuple(n[:, None] for n in (around.open, around.falloff, around.softness, around.fog))
    per_world = torch.cat(fixed, -1)[:, None].expand(b, v, -1)
    frames = torch.cat(
        [eye, views.c2w[..., :3, :3].flatten(-2), views.intrinsics, per_world], -1
    ).flatten(0, 1)
    world = torch.arange(b, device=frames.device, dtype=torch.int32).repeat_interleave(v)
    return TraceTables(
        table.contiguous(), frames.contiguous(), surfaces.packed().contiguous(), world
    )


def _inverse(m: Tensor) -> Tensor:
    """Inverse of many 3x3 matrices by cofactors: no iteration, no exceptions, the same on any
    device.
    """
    x, y, z = m.unbind(-1)
    rows = torch.stack(
        [torch.linalg.cross(y, z), torch.linalg.cross(z, x), torch.linalg.cross(x, y)], -2
    )
    return rows / (x * rows[..., 0, :]).sum(-1)[..., None, None]


def _bound(shape: Tensor, kind: Tensor) -> Tensor:
    """Radius of a ball around each body's middle that holds it."""
    gram = shape.transpose(-1, -2) @ shape
    longest = gram.abs().sum(-1).amax(-1).sqrt()  # of the image of a unit vector, or more
    square = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).to(shape)
    box = (shape @ square.T).square().sum(-2).amax(-1).sqrt()
    round_ = (
        torch.where(kind == BALL, 1.0, torch.where(kind == CYLINDER, 2.0**0.5, 3.0**0.25)) * longest
    )
    return torch.where(kind == BOX, box, torch.minimum(round_, box)) * 1.001


def _rectangle(
    middle: Tensor, bound: Tensor, views: Views
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Left, right, top, bottom in pixels of what a ball can cover; everything around the near
    plane, nothing behind it.
    """
    x, y, z = ((middle - views.c2w[..., None, :3, 3]) @ views.c2w[..., :3, :3]).unbind(-1)
    fx, fy, cx, cy = views.intrinsics[..., None].unbind(-2)
    sides = []
    for across, focal, centre in ((x, fx, cx), (y, fy, cy)):
        reach = (across * across + z * z - bound * bound).clamp_min(1e-6).sqrt()
        low = (across * reach - bound * z) / (z * reach + bound * across).clamp_min(1e-6)
        high = (across * reach + bound * z) / (z * reach - bound * across).clamp_min(1e-6)
        ends = [focal.abs() * low, focal.abs() * high]
        ends = [
            torch.where(focal > 0, ends[0], -ends[1]),
            torch.where(focal > 0, ends[1], -ends[0]),
        ]
        everything, nothing = z - bound < NEAR, z + bound < NEAR
        low = torch.where(everything, -1e9, ends[0] + centre - 1.0).masked_fill(nothing, 1.0)
        high = torch.where(everything, 1e9, ends[1] + centre + 1.0).masked_fill(nothing, -1.0)
        sides += [low, high]
    return sides[0], sides[1], sides[2], sides[3]
