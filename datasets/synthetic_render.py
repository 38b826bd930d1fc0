"""Ray tracing of synthetic worlds: batched over worlds, views and pixels, on any device.

Every solid is a unit ball, cube or cylinder under an affine map, and rays keep their camera's z as
parameter: affine maps leave the parameter alone, so the smallest one over all solids is the
z-depth. Vectors are kept as three planes.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.datasets.synthetic_textures import sample_bank
from fsm.datasets.synthetic_world import (
    BOXES,
    CYLINDERS,
    ROUND,
    SOLIDS,
    SURFACES,
    Light,
    Solids,
    Surfaces,
)
from fsm.views import Views

NEAR = 0.05  # metres
PENUMBRA = 0.22  # metres of solid that a shadow ray crosses before the shadow is complete
EDGE = 0.5  # difference of neighbouring unit normals, summed over x, y and z, that makes an outline
GAMMA = 1.0 / 2.2
_TINY = 1e-9

Planes = tuple[Tensor, ...]  # x, y, z


@dataclass(frozen=True)
class Stage:
    """Worlds as f frames find them, each at its own time: k used solids in the order of their
    slots, then the room.
    """

    slots: Int[Tensor, "k"]
    """Slot of every used solid, then SOLIDS for the room."""
    counts: tuple[int, int, int]
    """How many of them are round, boxes and cylinders."""
    world: Int[Tensor, "f"]
    """Index of each frame's world in the batch."""
    to_unit: Float[Tensor, "f k 3 3"]
    """World directions into unit space."""
    offset: Float[Tensor, "f k 3"]
    """What goes with ``to_unit`` for points."""
    centre: Float[Tensor, "f k 3"]
    radius: Float[Tensor, "f k 1"]
    """Mean radius in metres."""
    eye: Float[Tensor, "f 3"]
    camera: Float[Tensor, "f 3 3"]
    """Columns are the camera's axes."""
    intrinsics: Float[Tensor, "f 4"]

    def part(self, frames: slice) -> "Stage":
        """Some of the frames, with only the solids that their worlds use."""
        used = (self.centre[frames, :, 1] < 100.0).any(0)
        index = used.nonzero()[:, 0]
        slots = index.tolist()
        counts = tuple(
            sum(kind.start <= s < kind.stop for s in slots) for kind in (ROUND, BOXES, CYLINDERS)
        )
        values = {
            name: getattr(self, name)[frames] for name in ("world", "eye", "camera", "intrinsics")
        }
        values |= {
            name: getattr(self, name)[frames][:, index]
            for name in ("to_unit", "offset", "centre", "radius")
        }
        return dataclasses.replace(self, slots=self.slots[index], counts=counts, **values)


def set_stage(room: Float[Tensor, "b 3"], solids: Solids, views: Views) -> Stage:
    """Put the solids of every view's world where they are at its time."""
    b, v = views.time.shape
    rotation, centre = solids.pose(views.time)  # [b v k 3 3]
    to_unit = rotation.transpose(-1, -2) / solids.size[:, None, :, :, None]
    room_map = torch.diag_embed(1.0 / room)[:, None, None].expand(b, v, 1, 3, 3)
    room_centre = torch.stack(
        [torch.zeros_like(room[:, 1]), -room[:, 1], torch.zeros_like(room[:, 1])], -1
    )
    to_unit = torch.cat([to_unit, room_map], 2).flatten(0, 1)
    centre = torch.cat([centre, room_centre[:, None, None].expand(b, v, 1, 3)], 2).flatten(0, 1)
    radius = torch.cat([solids.size.log().mean(-1).exp(), room[:, :1]], 1)
    return Stage(
        slots=torch.arange(SOLIDS + 1, device=room.device),
        counts=(
            ROUND.stop - ROUND.start,
            BOXES.stop - BOXES.start,
            CYLINDERS.stop - CYLINDERS.start,
        ),
        world=torch.arange(b, device=room.device).repeat_interleave(v),
        to_unit=to_unit,
        offset=-(to_unit @ centre[..., None])[..., 0],
        centre=centre,
        radius=radius.repeat_interleave(v, 0)[..., None],
        eye=views.c2w[..., :3, 3].flatten(0, 1),
        camera=views.c2w[..., :3, :3].flatten(0, 1),
        intrinsics=views.intrinsics.flatten(0, 1),
    )


@dataclass(frozen=True)
class Hits:
    """Where n rays per frame end."""

    depth: Float[Tensor, "f n"]
    """z-depth in metres."""
    surface: Int[Tensor, "f n"]
    """0 .. 6 a solid, 7 .. 12 a face of the room."""
    s: Float[Tensor, "f n"]
    """First surface coordinate: metres, or turns around what is round. Glued to the surface while
    it moves.
    """
    t: Float[Tensor, "f n"]
    """Second surface coordinate: metres, or half turns from the equator of a ball."""
    stretch: Float[Tensor, "f n"]
    """How much longer a step in s is here than at the equator of a ball."""
    point: Float[Tensor, "f 3 n"]
    normal: Float[Tensor, "f 3 n"]
    """Unit length; outward for solids, inward for the room."""
    ray: Float[Tensor, "f 3 n"]
    """World direction with unit length along the camera's axis."""


def _spans(
    origin: Planes, direction: Planes, counts: tuple[int, int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters [f kind n] at which lines enter and leave the solids, kind by kind; enter > leave
    for a miss.

    Directions are planes [f k n]; origins too, or [f k 1] where all rays share one.
    """
    first = 0
    for kind, count in enumerate(counts):
        here = slice(first, first + count)
        first += count
        if count == 0:
            continue
        ox, oy, oz = (plane[:, here] for plane in origin)
        dx, dy, dz = (plane[:, here] for plane in direction)
        if kind == 0:
            a = torch.addcmul(torch.addcmul(dx * dx, dy, dy), dz, dz)
            b = torch.addcmul(torch.addcmul(ox * dx, oy, dy), oz, dz)
            c = torch.addcmul(torch.addcmul(ox * ox - 1.0, oy, oy), oz, oz)
            yield _roots(a, b, c)
            continue
        near_y, far_y = _slab(oy, dy)
        if kind == 1:
            near_x, far_x = _slab(ox, dx)
            near_z, far_z = _slab(oz, dz)
            enter = torch.maximum(torch.maximum(near_x, near_y), near_z)
            yield enter, torch.minimum(torch.minimum(far_x, far_y), far_z)
        else:
            b = torch.addcmul(ox * dx, oz, dz)
            c = torch.addcmul(ox * ox - 1.0, oz, oz)
            near, far = _roots(torch.addcmul(dx * dx, dz, dz), b, c)
            yield torch.maximum(near, near_y), torch.minimum(far, far_y)


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Where a line crosses -1 and 1, in order."""
    inverse = d.masked_fill(d.abs() < _TINY, _TINY).reciprocal_()
    middle, half = o * inverse, inverse.abs()
    return torch.add(half, middle).neg_(), half - middle


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c, in order; a miss gives them the wrong way round and far away."""
    inverse = a.clamp_min(1e-12).reciprocal_()
    discriminant = torch.addcmul(b * b, a, c, value=-1.0)
    miss = discriminant <= 0.0
    root = discriminant.clamp_min_(0.0).sqrt_().masked_fill_(miss, -1e9).mul_(inverse)
    middle = b * inverse
    return torch.add(middle, root).neg_(), root - middle


def trace(at: Stage, pixels: Float[Tensor, "*f 2 n"]) -> Hits:
    """First hits of the rays through ``pixels`` (x, y), the same in every frame or each frame's
    own.
    """
    k = len(at.slots)
    fx, fy, cx, cy = at.intrinsics[..., None].unbind(1)
    x, y = (pixels[..., 0, :] - cx) / fx, (pixels[..., 1, :] - cy) / fy
    ray = at.camera @ torch.stack([x, y, torch.ones_like(x)], 1)
    # component by component: three planes of k solids
    rows = at.to_unit.transpose(1, 2).flatten(1, 2)
    direction = (rows @ ray).unflatten(1, (3, k)).unbind(1)
    origin = ((at.to_unit @ at.eye[:, None, :, None])[..., 0] + at.offset)[..., None].unbind(2)
    depths = []
    for enter, leave in _spans(origin, direction, at.counts):
        depths.append(enter.masked_fill((enter > leave) | (enter < NEAR), torch.inf))
    walls = [_slab(o[:, -1:], d[:, -1:])[1] for o, d in zip(origin, direction, strict=True)]
    depths.append(torch.minimum(torch.minimum(walls[0], walls[1]), walls[2]))
    depth, local = torch.cat(depths, 1).min(1)
    point = torch.addcmul(at.eye[..., None], ray, depth[:, None])
    return _describe(at, local, depth, point, ray)


def outlines(
    tiles: list[Hits], hw: tuple[int, int]
) -> tuple[Int[Tensor, "f m"], Bool[Tensor, "f m"]]:
    """Flat indices of the pixels where a neighbour shows another or a turned surface; False marks
    padding.

    ``tiles`` are the hits at all pixel centres, in order.
    """
    looks = torch.cat(
        [torch.cat([hit.normal, hit.surface[:, None].float()], 1) for hit in tiles], -1
    ).unflatten(-1, hw)
    across = (looks[..., 1:] - looks[..., :-1]).abs().sum(1) > EDGE
    along = (looks[..., 1:, :] - looks[..., :-1, :]).abs().sum(1) > EDGE
    edge = (
        F.pad(across, (1, 0))
        | F.pad(across, (0, 1))
        | F.pad(along, (0, 0, 1, 0))
        | F.pad(along, (0, 0, 0, 1))
    )
    order = edge.flatten(1).int().sort(dim=1, descending=True, stable=True)
    most = int(edge.flatten(1).sum(1).max())
    return order.indices[:, :most], order.values[:, :most] > 0


def _describe(at: Stage, local: Tensor, depth: Tensor, point: Tensor, ray: Tensor) -> Hits:
    """Surface, its coordinates and normal of the hit points on the solids number ``local``."""
    f, n = local.shape
    # [12, f k]
    table = torch.cat([at.to_unit.flatten(2), at.offset], -1).flatten(0, 1).T.contiguous()
    row = local + torch.arange(f, device=local.device)[:, None] * len(at.slots)
    m = table.index_select(1, row.flatten()).view(12, f, n)
    px, py, pz = point.unbind(1)
    x, y, z = (
        torch.addcmul(
            torch.addcmul(torch.addcmul(m[9 + i], m[3 * i], px), m[3 * i + 1], py), m[3 * i + 2], pz
        )
        for i in range(3)
    )
    slot = at.slots[local]
    is_ball, is_tube, is_room = slot < BOXES.start, slot == CYLINDERS.start, slot == SOLIDS
    ax, ay, az = x.abs(), y.abs(), z.abs()
    waist = torch.addcmul(x * x, z, z).sqrt_()
    curved = is_ball | (is_tube & (ay <= waist))
    on_y = ((ay > ax) & (ay >= az)) | is_tube
    on_x = (ax >= az) & ~on_y
    # normal in unit space: the point itself on a ball, its waist on a tube, one axis elsewhere
    zero = torch.zeros_like(x)
    ux = torch.where(curved, x, torch.where(on_x, x.sign(), zero))
    uy = torch.where(curved, torch.where(is_ball, y, zero), torch.where(on_y, y.sign(), zero))
    uz = torch.where(curved, z, torch.where(on_x | on_y, zero, z.sign()))
    # the normal of a surface under x -> A x + b is A^T u
    normal = torch.stack(
        [torch.addcmul(torch.addcmul(m[i] * ux, m[3 + i], uy), m[6 + i], uz) for i in range(3)],
        dim=1,
    )
    inverse = normal.square().sum(1).rsqrt_()
    normal = normal * torch.where(is_room, -inverse, inverse)[:, None]
    side = torch.where(on_x, x > 0, torch.where(on_y, 2 + (y > 0).int(), 4 + (z > 0).int()))
    # metric object coordinates: lengths of the columns of the unit map's inverse are the half
    # extents
    mx, my, mz = (
        c * m[3 * i : 3 * i + 3].square().sum(0).rsqrt_() for i, c in enumerate((x, y, z))
    )
    turn = torch.atan2(z, x) * (0.5 / torch.pi)
    climb = torch.where(is_ball, torch.asin(y.clamp(-1.0, 1.0)) * (2.0 / torch.pi), my)
    # a box shows another part of its pattern on every side
    s = torch.where(curved, turn, torch.where(on_x, mz + 0.71, mx + 0.37 * on_y))
    t = torch.where(curved, climb, torch.where(on_y, mz, my))
    stretch = torch.where(is_ball, waist.clamp_min(0.14), torch.ones_like(x))
    return Hits(depth, torch.where(is_room, SOLIDS + side, slot), s, t, stretch, point, normal, ray)


def _albedo(
    hits: Hits, surfaces: Surfaces, world: Tensor, pixel: Float[Tensor, "f 1"]
) -> tuple[Tensor, Tensor]:
    """Linear colour [3 f n] and gloss [f n] of every hit; ``pixel`` is the width of a pixel at one
    metre.
    """
    f, n = hits.depth.shape
    row = (hits.surface + world[:, None] * SURFACES).flatten()
    columns = (
        surfaces.uv,
        surfaces.shift,
        surfaces.texels,
        surfaces.detail,
        surfaces.gloss,
        surfaces.palette,
    )
    table = torch.cat(
        [c.flatten(0, 1).flatten(1) if c.ndim > 2 else c.flatten()[:, None] for c in columns], 1
    )
    look = table.T.contiguous().index_select(1, row).view(-1, f, n)
    us, ut, vs, vt, u, v, texels, detail, gloss = look[:9]
    palette = look[9:].unflatten(0, (4, 3))
    u = torch.addcmul(torch.addcmul(u, us, hits.s), ut, hits.t)
    v = torch.addcmul(torch.addcmul(v, vs, hits.s), vt, hits.t)
    slant = (hits.normal * hits.ray).sum(1).abs() * hits.ray.square().sum(1).rsqrt_()
    footprint = hits.depth * pixel * texels / (hits.stretch * slant.clamp_min(0.05).sqrt())
    pattern = surfaces.pattern.flatten()[row]
    texel = sample_bank(pattern, u.flatten(), v.flatten(), footprint.log2_().flatten())
    w1, w2, w3, bright = texel.T.contiguous().view(4, f, n)
    colour = (1.0 - w1 - w2 - w3) * palette[0]
    for weight, paint in zip((w1, w2, w3), palette[1:], strict=True):
        colour.addcmul_(weight, paint)
    return colour * torch.addcmul(torch.ones_like(bright), detail, bright).clamp_min_(0.05), gloss


def shade(
    at: Stage, hits: Hits, room: Tensor, surfaces: Surfaces, light: Light, side: int
) -> Float[Tensor, "f 3 n"]:
    """Tone-mapped linear colour: a lamp with soft shadows, ambient light dimmed near other
    surfaces, highlights.

    ``side`` rays stand side by side in a pixel: textures are filtered to their share of it.
    """
    w = at.world
    albedo, gloss = _albedo(
        hits, surfaces, w, 1.0 / (at.intrinsics[:, :2].mean(1, keepdim=True) * side)
    )
    to_lamp = light.position[w][..., None] - hits.point
    squared = to_lamp.square().sum(1)
    distance = squared.sqrt()
    facing = (hits.normal * to_lamp).sum(1) / distance
    shadow, open_sky = _occlusion(at, hits, to_lamp, distance)
    lamp = facing.clamp_min_(0.0) * shadow * 3.3 / (1.0 + 0.12 * squared)
    above = (0.5 - 0.5 * hits.normal[:, 1]) * open_sky
    corner = _corners(hits, room[w])
    above, below = above * corner, (open_sky - above) * corner
    to_eye = hits.ray * -hits.ray.square().sum(1, keepdim=True).rsqrt_()
    half = to_eye + to_lamp / distance[:, None]
    glint = ((hits.normal * half).sum(1) * half.square().sum(1).rsqrt_()).clamp_min_(0.0)
    for _ in range(5):
        glint = glint.square_()
    glint = glint * gloss * shadow
    planes = []
    for i in range(3):
        key, sky, floor = (c[w, i : i + 1] for c in (light.colour, light.above, light.below))
        incoming = torch.addcmul(torch.addcmul(key * lamp, sky, above), floor, below)
        planes.append(torch.addcmul(key * glint, albedo[i], incoming))
    return 1.0 - torch.exp(-1.25 * torch.stack(planes, 1))


def _occlusion(at: Stage, hits: Hits, to_lamp: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the lamp [f n] and of the surroundings [f n] that solids leave to each hit."""
    k = len(at.slots) - 1
    rows = at.to_unit[:, :k].transpose(1, 2).flatten(1, 2)
    shift = at.offset[:, :k].transpose(1, 2).flatten(1)[..., None]
    origin = torch.baddbmm(shift, rows, hits.point).unflatten(1, (3, k)).unbind(1)
    direction = (rows @ to_lamp).unflatten(1, (3, k)).unbind(1)
    cover = torch.zeros_like(distance)
    for enter, leave in _spans(origin, direction, at.counts):
        cover = cover + (leave.clamp_max(1.0) - enter.clamp_min(0.0)).clamp_min_(0.0).sum(1)
    cover = (cover * distance * (1.0 / PENUMBRA)).clamp_max_(1.0)
    shadow = 1.0 - cover * cover * (3.0 - 2.0 * cover)
    # a solid hides about the share (r / d)² of the half-space it is seen in
    centre, radius = at.centre[:, :k], at.radius[:, :k]
    here = hits.point.square().sum(1, keepdim=True)
    squared = torch.baddbmm(
        here + centre.square().sum(-1, keepdim=True), centre, hits.point, alpha=-2.0
    )
    toward = torch.baddbmm(
        -(hits.point * hits.normal).sum(1, keepdim=True), centre, hits.normal
    ).clamp_min_(0.0)
    inverse = squared.clamp_min_(1e-4).reciprocal_()
    hidden = toward * inverse.sqrt() * (inverse * radius.square()).clamp_max_(1.0)
    return shadow, (1.0 - 0.85 * hidden).clamp_min_(0.15).prod(1)


def _corners(hits: Hits, room: Tensor) -> Tensor:
    """Darkening [f n] of the room's faces towards their neighbours."""
    x, y, z = hits.point.unbind(1)
    away = torch.stack(
        [room[:, :1] - x.abs(), room[:, 1:2] - (y + room[:, 1:2]).abs(), room[:, 2:] - z.abs()], 1
    )
    dim = 1.0 - 0.42 * torch.exp(away * -3.2) * (1.0 - hits.normal.abs())
    return torch.where(hits.surface >= SOLIDS, dim.prod(1), torch.ones_like(x))
