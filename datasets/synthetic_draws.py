"""Procedural worlds from seeds: every number of a world comes from its own generator, in a fixed
order.

Changing the order or the number of draws changes every world, the built-in clip included.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fsm.datasets.synthetic_textures import SIDE, family_patterns
from fsm.datasets.synthetic_world import (
    ARENA,
    BOXES,
    CYLINDERS,
    ROOM_FACES,
    ROUND,
    SOLIDS,
    SURFACES,
    CameraPath,
    Light,
    Solids,
    Surfaces,
    mapped,
)

_LAYOUTS = 32
_DRAWS = 2048  # numbers per world
_FIRST_SEED = 61  # of the generator: a world 0 worth showing


class Draws:
    """Uniform numbers of each seed, dealt out in a fixed order: the same for a seed whatever else
    is in the batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        generators = [torch.Generator().manual_seed(_FIRST_SEED + int(seed)) for seed in seeds]
        rows = [
            torch.rand(_DRAWS, generator=generator, dtype=torch.float64) for generator in generators
        ]
        self.numbers, self.taken = torch.stack(rows), 0

    def unit(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), shape [b, *shape]."""
        count = math.prod(shape)
        part = self.numbers[:, self.taken : self.taken + count]
        self.taken += count
        assert self.taken <= _DRAWS, "raise _DRAWS"
        return part.reshape(-1, *shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit(*shape)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return torch.where(self.unit(*shape) < 0.5, -1.0, 1.0).double()

    def pick(self, choices: list[int], *shape: int) -> Tensor:
        """One of the choices."""
        return torch.tensor(choices)[(self.unit(*shape) * len(choices)).long()]


def draw_world(seeds: Sequence[int]) -> tuple[Tensor, Solids, Surfaces, Light, CameraPath]:
    """Half extents of the room [b 3] and everything in it, float32 on the CPU."""
    draws = Draws(seeds)
    room = torch.stack(
        [draws.between(2.9, 4.2), draws.between(1.35, 1.75), draws.between(2.9, 4.2)], -1
    )
    view_angle = draws.between(-math.pi, math.pi)
    solids = _draw_solids(draws)
    surfaces = _draw_surfaces(draws, solids)
    light = _draw_light(draws, room, view_angle)
    camera = _draw_camera(draws, room, view_angle)

    def cast(t: Tensor) -> Tensor:
        return t.float() if t.is_floating_point() else t.int()

    return (
        cast(room),
        mapped(solids, cast),
        mapped(surfaces, cast),
        mapped(light, cast),
        mapped(camera, cast),
    )


def _draw_solids(draws: Draws) -> Solids:
    b = len(draws.numbers)
    kind_box, kind_cylinder = (
        torch.zeros(SOLIDS, dtype=torch.bool),
        torch.zeros(SOLIDS, dtype=torch.bool),
    )
    kind_box[BOXES], kind_cylinder[CYLINDERS] = True, True
    present = draws.unit(SOLIDS) < torch.tensor([1.0, 0.75, 0.35, 1.0, 0.7, 0.35, 0.45])
    present[:, 1] |= present.sum(-1) < 3
    moving = draws.unit(SOLIDS) < 0.55
    moving[:, 0] = True
    floating = (draws.unit(SOLIDS) < 0.45) & moving

    base = draws.between(0.26, 0.48, SOLIDS)[..., None]
    stretch = torch.exp(draws.between(-0.32, 0.32, SOLIDS, 3))
    ball = (draws.unit(SOLIDS) < 0.55) & ~kind_box & ~kind_cylinder
    stretch = torch.where(ball[..., None], torch.ones(()).double(), stretch)
    size = (
        base * stretch * torch.where(floating, 0.75, 1.0)[..., None]
    )  # so that a tumbling one clears floor and ceiling
    size[:, CYLINDERS, 2] = size[:, CYLINDERS, 0]

    reach = (
        torch.stack([draws.between(0.22, 0.5, SOLIDS), draws.between(0.03, 0.14, SOLIDS)], -1)
        * moving[..., None]
    )
    extent = torch.where(kind_box | kind_cylinder, size.norm(dim=-1), size.amax(-1))
    anchor = _layout(draws, present, size, ARENA - extent - reach.sum(-1))
    height = torch.where(floating, draws.between(1.2, 1.5, SOLIDS), size[..., 1])
    anchor = torch.stack([anchor[..., 0], -height, anchor[..., 1]], -1)
    anchor = torch.where(present[..., None], anchor, torch.tensor([0.0, 1000.0, 0.0]).double())

    direction = draws.between(-math.pi, math.pi, SOLIDS, 2)
    rise = draws.between(0.2, 0.5, SOLIDS, 2) * floating[..., None]
    swing = torch.stack([direction.cos(), rise, direction.sin()], -1)
    swing = swing * reach[..., None]
    period = torch.stack([draws.between(3.0, 6.5, SOLIDS), draws.between(1.6, 3.0, SOLIDS)], -1)
    phase = draws.between(-math.pi, math.pi, SOLIDS, 2)

    tumbling = floating & (draws.unit(SOLIDS) < 0.8)
    tilt = draws.between(-0.9, 0.9, SOLIDS, 2) * tumbling[..., None]
    axis = torch.stack([tilt[..., 0], torch.ones(b, SOLIDS).double(), tilt[..., 1]], -1)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    spin = (
        draws.sign(SOLIDS)
        * draws.between(0.3, 1.3, SOLIDS)
        * (moving | (draws.unit(SOLIDS) < 0.15))
    )
    angle = draws.between(-math.pi, math.pi, SOLIDS)
    return Solids(size, anchor, swing, 2 * math.pi / period, phase, axis, angle, spin)


def _layout(draws: Draws, present: Tensor, size: Tensor, limit: Tensor) -> Tensor:
    """Floor positions [b k 2] up to ``limit`` [b k] from the middle: the widest-spaced of many
    random layouts.
    """
    angle = draws.between(-math.pi, math.pi, _LAYOUTS, SOLIDS)
    radius = limit[:, None] * draws.unit(_LAYOUTS, SOLIDS).sqrt()
    place = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)  # [b l k 2]
    reach = size[..., [0, 2]].amax(-1)
    gap = (
        (place[:, :, :, None] - place[:, :, None]).norm(dim=-1)
        - reach[:, None, :, None]
        - reach[:, None, None]
    )
    ignored = ~(present[:, :, None] & present[:, None]) | torch.eye(SOLIDS, dtype=torch.bool)
    best = gap.masked_fill(ignored[:, None], 9.0).amin((-1, -2)).argmax(-1)
    return place[torch.arange(len(place)), best]


def _draw_surfaces(draws: Draws, solids: Solids) -> Surfaces:
    b = len(draws.numbers)
    ball_like = torch.zeros(SURFACES, dtype=torch.bool)
    ball_like[ROUND] = ball_like[CYLINDERS] = True
    quiet = family_patterns(
        "smooth", "clouds", "bricks", "stripes", "mosaic", "leaves", "dots", "planks", "bricks"
    )
    floor = family_patterns("planks", "checks", "terrazzo", "planks", "bricks", "marble", "mosaic")
    lively = family_patterns(
        "checks", "stripes", "leaves", "islands", "mosaic", "dots", "terrazzo", "marble", "planks"
    )
    walls = draws.pick(quiet, 2)
    pattern = torch.cat(
        [
            draws.pick(lively, SOLIDS),
            walls[:, [0, 0]],
            draws.pick(family_patterns("smooth", "clouds", "planks"), 1),
            draws.pick(floor, 1),
            walls[:, [1, 1]],
        ],
        dim=-1,
    )
    # planar surfaces: a turned and scaled metre; round ones: whole repeats per turn, so that the
    # pattern closes
    scale = torch.cat([draws.between(0.7, 1.5, SOLIDS), draws.between(0.38, 0.8, ROOM_FACES)], -1)
    turn = draws.pick([0, 1], SURFACES).double() * math.pi / 2
    turn[:, :SOLIDS] += draws.between(-0.5, 0.5, SOLIDS) * (draws.unit(SOLIDS) < 0.4)
    turn[:, SOLIDS:] *= torch.tensor([0, 0, 1, 1, 0, 0])
    planar = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], -1).unflatten(
        -1, (2, 2)
    )
    planar = planar * scale[..., None, None]
    repeats = draws.pick([1, 2, 2, 3], SURFACES).double()
    around = torch.diag_embed(
        torch.stack([repeats, repeats * draws.between(0.45, 0.6, SURFACES)], -1)
    )
    uv = torch.where(ball_like[:, None, None], around, planar)
    radius = torch.cat([solids.size[..., [0, 2]].mean(-1), torch.ones(b, ROOM_FACES).double()], -1)
    texels = torch.where(ball_like, repeats / (2 * math.pi * radius), scale) * SIDE
    gloss = torch.cat(
        [draws.between(0.0, 0.5, SOLIDS) * (draws.unit(SOLIDS) < 0.6), torch.zeros(b, ROOM_FACES)],
        -1,
    )
    return Surfaces(
        pattern=pattern,
        uv=uv,
        shift=draws.unit(SURFACES, 2),
        palette=_draw_palettes(draws),
        detail=draws.between(0.05, 0.13, SURFACES),
        gloss=gloss,
        texels=texels,
    )


def _draw_palettes(draws: Draws) -> Tensor:
    """Four linear colours per surface: a muted room of one hue family, solids in accents from
    around the wheel.
    """
    b = len(draws.numbers)
    hue = draws.between(0.0, 2 * math.pi)[:, None]
    vivid = draws.between(0.7, 1.25)[:, None]
    # accents: complementary, triad or analogous to the room's hue
    spread = torch.tensor(
        [[math.pi, 2.1, -2.1, 0.5, -0.5, 2.6, -2.6], [math.pi, 2.6, -2.6, 0.4, -0.4, 3.6, 1.2]]
    ).double()
    accent = hue + spread[draws.pick([0, 1])] + draws.between(-0.3, 0.3, SOLIDS)
    warm = 1.1 + draws.between(-0.35, 0.35)[:, None]  # wood and stone
    floor_warm = draws.unit(1) < 0.65
    wall_hue = hue + draws.between(-0.3, 0.3, 2)
    floor_hue = torch.where(floor_warm, warm, hue + draws.between(-0.5, 0.5, 1))
    face_hue = torch.cat([wall_hue[:, [0, 0]], warm, floor_hue, wall_hue[:, [1, 1]]], -1)
    wall_light = draws.between(0.68, 0.84, 2)
    face_light = torch.cat(
        [
            wall_light[:, [0, 0]],
            draws.between(0.84, 0.92, 1),
            draws.between(0.5, 0.7, 1),
            wall_light[:, [1, 1]],
        ],
        -1,
    )
    face_chroma = torch.cat(
        [
            draws.between(0.02, 0.075, 2)[:, [0, 0, 1, 1]],
            draws.between(0.008, 0.02, 1),
            draws.between(0.03, 0.07, 1),
        ],
        -1,
    )[:, [0, 1, 4, 5, 2, 3]]
    light = torch.cat([draws.between(0.55, 0.76, SOLIDS), face_light], -1)[..., None]
    chroma = (
        torch.cat([draws.between(0.09, 0.16, SOLIDS), face_chroma], -1)[..., None]
        * vivid[..., None]
    )
    hues = torch.cat([accent, face_hue], -1)[..., None]
    is_solid = (torch.arange(SURFACES) < SOLIDS)[None, :, None]
    reach = torch.where(is_solid, 1.0, 0.42).double()
    # second: darker relative; third: pale; fourth: contrasting hue
    step = torch.cat(
        [torch.zeros(b, SURFACES, 1).double(), draws.between(0.6, 1.0, SURFACES, 3)], -1
    )
    lighter = torch.tensor([0.0, -0.26, 0.24, -0.10]).double() * step * reach
    turned = torch.tensor([0.0, 0.25, -0.35, 0.9]).double() * step * draws.sign(SURFACES, 1)
    fainter = 1.0 - torch.tensor([0.0, 0.1, 0.75, 0.1]).double() * step
    lightness = (light + lighter).clamp(0.2, 0.96)
    return oklch(lightness, chroma * fainter, hues + turned)


def oklch(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Linear sRGB of OKLCH colours (Ottosson 2020), clipped to the gamut."""
    a, b = chroma * hue.cos(), chroma * hue.sin()
    to_lms, to_rgb = _oklab_matrices()
    lms = torch.stack([lightness, a, b], -1) @ to_lms.T
    return (lms**3 @ to_rgb.T).clamp(0.01, 0.95)


@functools.lru_cache(maxsize=1)
def _oklab_matrices() -> tuple[Tensor, Tensor]:
    to_lms = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    return torch.tensor(to_lms, dtype=torch.float64), torch.tensor(to_rgb, dtype=torch.float64)


def _draw_light(draws: Draws, room: Tensor, view_angle: Tensor) -> Light:
    aside = view_angle + draws.sign() * draws.between(0.5, 1.4)
    distance = draws.between(1.2, 2.2)
    height = 2 * room[:, 1] - draws.between(0.15, 0.4)
    position = torch.stack([distance * aside.sin(), -height, -distance * aside.cos()], -1)
    warmth = draws.between(-0.5, 1.0)[:, None]
    tint = torch.cat([1.0 + 0.10 * warmth, torch.ones_like(warmth), 1.0 - 0.16 * warmth], -1)
    cool = torch.cat([1.0 - 0.08 * warmth, torch.ones_like(warmth), 1.0 + 0.10 * warmth], -1)
    ambient = draws.between(0.30, 0.44)[:, None]
    return Light(
        position, tint * draws.between(1.0, 1.3)[:, None], cool * ambient, tint * ambient * 0.85
    )


def _draw_camera(draws: Draws, room: Tensor, view_angle: Tensor) -> CameraPath:
    b = len(room)
    radius = 2.3 + draws.between(0.0, 1.0) * (room[:, [0, 2]].amin(-1) - 0.35 - 2.3)
    mean = torch.stack([view_angle, radius, draws.between(1.0, 1.7)], -1)
    period = torch.stack(
        [draws.between(8.0, 16.0), draws.between(6.0, 12.0), draws.between(6.0, 12.0)], -1
    )
    omega = 2 * math.pi / period
    speed = torch.stack(
        [draws.between(0.1, 0.6) / radius, draws.between(0.0, 0.12), draws.between(0.0, 0.2)], -1
    )
    limit = torch.tensor([0.6, 0.2, 0.35]).double()
    phase = draws.between(-math.pi, math.pi, 3)
    target = torch.stack(
        [draws.between(-0.35, 0.35), -draws.between(0.5, 0.95), draws.between(-0.35, 0.35)], -1
    )
    hand = torch.tensor([0.012, 0.012, 0.012, 0.03, 0.03, 0.03]).double()
    shake_omega = (
        2
        * math.pi
        * torch.tensor([0.35, 0.8, 1.5]).double()[None, :, None]
        * draws.between(0.8, 1.25, 3, 6)
    )
    shake = hand * torch.tensor([1.0, 0.5, 0.2]).double()[:, None] * draws.between(0.3, 1.0, 3, 6)
    return CameraPath(
        hfov=torch.deg2rad(draws.between(45.0, 75.0)),
        mean=mean,
        swing=torch.minimum(speed / omega, limit.expand(b, 3)) * draws.sign(3),
        omega=omega,
        phase=phase,
        target=target,
        shake=shake,
        shake_omega=shake_omega,
        shake_phase=draws.between(-math.pi, math.pi, 3, 6),
    )
