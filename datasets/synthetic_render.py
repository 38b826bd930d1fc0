"""Ray tracing of synthetic worlds: batched over worlds, views and pixels, on any device.

Every solid is a unit ball, cube or cylinder under an affine map, and rays keep their camera's z as parameter: affine maps
do not touch the parameter, so the smallest one over all solids is the z-depth itself.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fsm.datasets.synthetic_textures import sample_bank
from fsm.datasets.synthetic_world import BOXES, CYLINDERS, ROOM_FACES, ROUND, SOLIDS, SURFACES, Light, Solids, Surfaces
from fsm.views import Views

NEAR = 0.05  # metres
PENUMBRA = 0.22  # metres of solid that a shadow ray crosses before the shadow is complete
RAYS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 21}  # a CPU's cache, a GPU's memory


@dataclass(frozen=True)
class Moment:
    """The world as one camera finds it: f frames, each with its own time and its own world's parameters."""

    world: Int[Tensor, "f"]
    """Index of each frame's world in the batch."""
    to_unit: Float[Tensor, "f k 3 3"]
    """World directions into the unit space of the solids (first) and of the room (last)."""
    from_world: Float[Tensor, "f k 3"]
    """Offset that goes with ``to_unit`` for points."""
    centre: Float[Tensor, "f k 3"]
    eye: Float[Tensor, "f 3"]
    camera: Float[Tensor, "f 3 3"]
    """Columns are the camera's axes."""
    intrinsics: Float[Tensor, "f 4"]

    def part(self, frames: slice) -> "Moment":
        """Some of the frames."""
        return Moment(**{name: value[frames] for name, value in vars(self).items()})


def moments(room: Float[Tensor, "b 3"], solids: Solids, views: Views) -> Moment:
    """Set every view's stage: solids at their time, maps into unit spaces."""
    b, v = views.time.shape
    rotation, centre = solids.pose(views.time)  # [b v k 3 3]
    to_unit = rotation.transpose(-1, -2) / solids.size[:, None, :, :, None]
    room_map = torch.diag_embed(1.0 / room)[:, None, None].expand(b, v, 1, 3, 3)
    room_centre = torch.stack([torch.zeros_like(room[:, 1]), -room[:, 1], torch.zeros_like(room[:, 1])], -1)
    to_unit = torch.cat([to_unit, room_map], 2).flatten(0, 1)
    centre = torch.cat([centre, room_centre[:, None, None].expand(b, v, 1, 3)], 2).flatten(0, 1)
    return Moment(
        world=torch.arange(b, device=room.device).repeat_interleave(v),
        to_unit=to_unit,
        from_world=-(to_unit @ centre[..., None])[..., 0],
        centre=centre,
        eye=views.c2w[..., :3, 3].flatten(0, 1),
        camera=views.c2w[..., :3, :3].flatten(0, 1),
        intrinsics=views.intrinsics.flatten(0, 1),
    )


@dataclass(frozen=True)
class Hits:
    """Where n rays per frame end."""

    surface: Int[Tensor, "f n"]
    """0 .. 6 a solid, 7 .. 12 a face of the room."""
    depth: Float[Tensor, "f n"]
    """z-depth in metres."""
    unit: Float[Tensor, "f 3 n"]
    """Point in the unit space of what was hit: glued to it while it moves."""
    point: Float[Tensor, "f 3 n"]
    normal: Float[Tensor, "f 3 n"]
    """Outward for solids, inward for the room."""
    ray: Float[Tensor, "f 3 n"]
    """World direction with unit length along the camera's axis."""


def spans(origin: Float[Tensor, "f k 3 m"], direction: Float[Tensor, "f k 3 n"]) -> tuple[Tensor, Tensor]:
    """Parameters [f k n] at which lines enter and leave every solid; enter > leave for a miss. m is n, or 1 for a shared origin."""
    o, d = origin[:, ROUND], direction[:, ROUND]
    a, b, c = (d * d).sum(2), (o * d).sum(2), (o * o).sum(2) - 1.0
    round_in, round_out = _roots(a, b, c)
    o, d = origin[:, BOXES], direction[:, BOXES]
    inverse = 1.0 / torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    middle, half = -o * inverse, inverse.abs()
    near, far = middle - half, middle + half
    box_in = torch.maximum(torch.maximum(near[:, :, 0], near[:, :, 1]), near[:, :, 2])
    box_out = torch.minimum(torch.minimum(far[:, :, 0], far[:, :, 1]), far[:, :, 2])
    (ox, oy, oz), (dx, dy, dz) = origin[:, CYLINDERS].unbind(2), direction[:, CYLINDERS].unbind(2)
    side_in, side_out = _roots(dx * dx + dz * dz, ox * dx + oz * dz, ox * ox + oz * oz - 1.0)
    inverse = 1.0 / torch.where(dy.abs() < 1e-9, torch.full_like(dy, 1e-9), dy)
    middle, half = -oy * inverse, inverse.abs()
    tube_in, tube_out = torch.maximum(side_in, middle - half), torch.minimum(side_out, middle + half)
    return torch.cat([round_in, box_in, tube_in], 1), torch.cat([round_out, box_out, tube_out], 1)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c in order; a miss gives them the wrong way round."""
    inverse = 1.0 / a.clamp_min(1e-12)
    discriminant = b * b - a * c
    root = torch.where(discriminant > 0, discriminant.clamp_min(0.0).sqrt() * inverse, torch.full_like(b, -1e9))
    middle = -b * inverse
    return middle - root, middle + root


def trace(at: Moment, pixels: Float[Tensor, "2 n"]) -> Hits:
    """First hits of the rays through ``pixels`` (x, y) of every frame."""
    f, n = len(at.eye), pixels.shape[1]
    fx, fy, cx, cy = at.intrinsics[..., None].unbind(1)
    camera_ray = torch.stack([(pixels[0] - cx) / fx, (pixels[1] - cy) / fy, torch.ones(f, n, device=fx.device)], 1)
    ray = at.camera @ camera_ray
    unit_ray = (at.to_unit.flatten(1, 2) @ ray).unflatten(1, (-1, 3))  # [f k+1 3 n]
    unit_eye = ((at.to_unit @ at.eye[:, None, :, None])[..., 0] + at.from_world)[..., None]
    enter, leave = spans(unit_eye[:, :SOLIDS], unit_ray[:, :SOLIDS])
    enter = torch.where((enter < leave) & (enter > NEAR), enter, torch.full_like(enter, torch.inf))
    room_ray = unit_ray[:, SOLIDS]
    room_ray = torch.where(room_ray.abs() < 1e-9, torch.full_like(room_ray, 1e-9), room_ray)
    wall = (room_ray.sign() - unit_eye[:, SOLIDS]) / room_ray
    wall = torch.minimum(torch.minimum(wall[:, 0], wall[:, 1]), wall[:, 2])
    depth, slot = torch.cat([enter, wall[:, None]], 1).min(1)
    chosen = slot[:, None, None].expand(f, 1, 3, n)
    unit = unit_ray.gather(1, chosen)[:, 0] * depth[:, None]
    unit = unit + unit_eye[..., 0].gather(1, slot[..., None].expand(f, n, 3)).transpose(1, 2)
    surface, unit_normal = _faces(unit, slot)
    # the normal of a surface under x -> A x + b is A^T n
    rows = at.to_unit.flatten(2).flatten(0, 1)
    picked = F.embedding(slot + torch.arange(f, device=slot.device)[:, None] * (SOLIDS + 1), rows)  # [f n 9]
    normal = torch.einsum("fnij,fin->fjn", picked.unflatten(-1, (3, 3)), unit_normal)
    normal = normal * normal.square().sum(1, keepdim=True).rsqrt()
    return Hits(surface, depth, unit, at.eye[..., None] + ray * depth[:, None], normal, ray)


def _faces(unit: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """Surface number and normal in unit space of hit points [f 3 n] on solids or room ``slot`` [f n]."""
    size = unit.abs()
    x, y, z = size.unbind(1)
    on_x, on_y = (x >= y) & (x >= z), (y > x) & (y >= z)
    axis = torch.stack([on_x, on_y, ~(on_x | on_y)], 1)
    flat = torch.where(axis, unit.sign(), torch.zeros_like(unit))
    is_round, is_tube, is_room = (slot < BOXES.start), (slot == CYLINDERS.start), (slot == SOLIDS)
    cap = y > (x * x + z * z).sqrt()
    level = torch.stack([torch.ones_like(y), torch.zeros_like(y), torch.ones_like(y)], 1)
    tube = torch.where(cap[:, None], torch.stack([0 * y, unit[:, 1].sign(), 0 * y], 1), unit * level)
    normal = torch.where(is_round[:, None], unit, torch.where(is_tube[:, None], tube, flat))
    normal = torch.where(is_room[:, None], -flat, normal)
    side = (axis * torch.tensor([0, 2, 4], device=unit.device)[:, None]).sum(1) + (flat.sum(1) > 0)
    return torch.where(is_room, SOLIDS + side, slot), normal


def _albedo(
    hits: Hits, size: Float[Tensor, "w s 3"], surfaces: Surfaces, world: Tensor, pixel: Float[Tensor, "f 1"]
) -> tuple[Tensor, Tensor]:
    """Linear colour [f n 3] and gloss [f n] of every hit; ``pixel`` is the width of a pixel at one metre."""
    row = hits.surface + world[:, None] * SURFACES
    table = torch.cat(
        [surfaces.uv.flatten(2), surfaces.shift, surfaces.texels[..., None], size, surfaces.detail[..., None]], -1
    )
    look = F.embedding(row, table.flatten(0, 1)).unbind(-1)
    uu, uv, vu, vv, su, sv, texels, sx, sy, sz, detail = look
    x, y, z = hits.unit.unbind(1)
    mx, my, mz = x * sx, y * sy, z * sz
    ax, ay, az = x.abs(), y.abs(), z.abs()
    on_x, on_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    is_round, is_tube = hits.surface < BOXES.start, hits.surface == CYLINDERS.start
    wraps = is_round | (is_tube & (ay <= (x * x + z * z).sqrt()))
    turn = torch.atan2(z, x) * (0.5 / torch.pi)
    height = torch.where(is_tube, my, torch.asin(y.clamp(-1.0, 1.0)) * (1.0 / torch.pi) * 2.0)
    a = torch.where(wraps, turn, torch.where(on_x, mz, mx))
    b = torch.where(wraps, height, torch.where(on_y, mz, my))
    # a box shows another part of its pattern on every side
    a = torch.where(wraps, a, a + 0.37 * on_y + 0.71 * on_x)
    u, v = uu * a + uv * b + su, vu * a + vv * b + sv
    ring = torch.where(is_round, (1.0 - y * y).clamp_min(0.02).sqrt(), torch.ones_like(y))
    length = hits.ray.square().sum(1).sqrt()
    facing = ((hits.normal * hits.ray).sum(1).abs() / length).clamp_min(0.05)
    footprint = hits.depth * pixel * texels / (ring * facing.sqrt())
    pattern = surfaces.pattern.flatten()[row]
    texel = sample_bank(pattern.flatten(), u.flatten(), v.flatten(), footprint.log2().flatten())
    palette = F.embedding(row.flatten(), surfaces.palette.flatten(2).flatten(0, 1)).unflatten(-1, (4, 3))
    weights = texel[:, :3]
    colour = (1.0 - weights.sum(1, keepdim=True)) * palette[:, 0] + (weights[..., None] * palette[:, 1:]).sum(1)
    colour = colour * (1.0 + detail.flatten() * texel[:, 3]).clamp_min(0.05)[:, None]
    return colour.unflatten(0, row.shape), surfaces.gloss.flatten()[row]


def shade(at: Moment, hits: Hits, room: Tensor, solids: Solids, surfaces: Surfaces, light: Light, sub: int) -> Tensor:
    """Tone-mapped linear colour [f 3 n]: lamp with soft shadows, ambient light dimmed near other surfaces, highlights."""
    w = at.world
    flat_room = room[:, None].expand(-1, ROOM_FACES, 3)
    pixel = 1.0 / (at.intrinsics[:, :2].mean(1, keepdim=True) * sub)
    albedo, gloss = _albedo(hits, torch.cat([solids.size, flat_room], 1), surfaces, w, pixel)
    to_lamp = light.position[w][..., None] - hits.point
    distance = to_lamp.square().sum(1).sqrt()
    facing = (hits.normal * to_lamp).sum(1) / distance
    shadow, open_sky = _occlusion(at, hits, solids, to_lamp, distance)
    lamp = facing.clamp_min(0.0) * shadow * 2.4 / (1.0 + 0.11 * distance * distance)
    up = (0.5 - 0.5 * hits.normal[:, 1:2]) * open_sky[:, None]
    corner = _corners(hits, room[w])
    ambient = light.below[w][..., None] * (open_sky[:, None] - up) + light.above[w][..., None] * up
    to_eye = -hits.ray * hits.ray.square().sum(1, keepdim=True).rsqrt()
    half = to_eye + to_lamp / distance[:, None]
    highlight = ((hits.normal * half).sum(1) * half.square().sum(1).rsqrt()).clamp_min(0.0)
    for _ in range(5):
        highlight = highlight * highlight
    glint = (highlight * gloss * shadow)[:, None] * light.colour[w][..., None]
    out = albedo.transpose(1, 2) * (light.colour[w][..., None] * lamp[:, None] + ambient * corner[:, None]) + glint
    return 1.0 - torch.exp(-1.25 * out)


def _occlusion(at: Moment, hits: Hits, solids: Solids, to_lamp: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the lamp [f n] and of the surroundings [f n] that solids leave to each hit."""
    rows = at.to_unit[:, :SOLIDS].flatten(1, 2)
    origin = torch.baddbmm(at.from_world[:, :SOLIDS].flatten(1)[..., None], rows, hits.point).unflatten(1, (-1, 3))
    enter, leave = spans(origin, (rows @ to_lamp).unflatten(1, (-1, 3)))
    chord = (leave.clamp_max(1.0) - enter.clamp_min(0.0)).clamp_min(0.0) * distance[:, None]
    cover = (chord.sum(1) * (1.0 / PENUMBRA)).clamp_max(1.0)
    shadow = 1.0 - cover * cover * (3.0 - 2.0 * cover)
    # a solid hides about the share (r / d)² of the half-space it is seen in
    radius = solids.size.log().mean(-1).exp()[at.world][..., None]  # [f k 1]
    centre = at.centre[:, :SOLIDS]
    squared = (
        hits.point.square().sum(1)[:, None] - 2.0 * centre @ hits.point + centre.square().sum(-1)[..., None]
    ).clamp_min(1e-4)
    toward = (centre @ hits.normal - (hits.point * hits.normal).sum(1)[:, None]).clamp_min(0.0)
    hidden = toward * squared.rsqrt() * (radius * radius / squared).clamp_max(1.0)
    return shadow, (1.0 - 0.85 * hidden).clamp_min(0.15).prod(1)


def _corners(hits: Hits, room: Tensor) -> Tensor:
    """Darkening [f n] of the room's faces towards their neighbours."""
    is_room = hits.surface >= SOLIDS
    x, y, z = hits.point.unbind(1)
    away = torch.stack([room[:, :1] - x.abs(), room[:, 1:2] - (y + room[:, 1:2]).abs(), room[:, 2:] - z.abs()], 1)
    dim = 1.0 - 0.42 * torch.exp(away * -3.2) * (1.0 - hits.normal.abs())
    return torch.where(is_room, dim.prod(1), torch.ones_like(x))
