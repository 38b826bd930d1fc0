"""Surfaces of worlds from seeds: which pattern, how large, which colours."""

import math

import torch
from torch import Tensor

from fsm.datasets.world.colours import oklch
from fsm.datasets.world.description import BODIES, CEILING, SURFACES, WALL_X, Surfaces
from fsm.datasets.world.patterns import NAMES
from fsm.datasets.world.sampler import SeededSampler

# Cells per metre (a range, log-uniform), then ranges of the pattern's two numbers.
_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "clouds": ((0.7, 4.0), (0.0, 9.0), (0.4, 1.0)),
    "stripes": ((2.0, 14.0), (0.3, 0.7), (0.0, 1.2)),
    "checks": ((2.0, 10.0), (0.3, 1.0), (0.0, 0.6)),
    "bricks": ((2.5, 9.0), (0.15, 1.0), (0.01, 0.05)),
    "cells": ((2.0, 9.0), (0.01, 0.06), (0.2, 0.8)),
    "leaves": ((1.0, 4.0), (0.0, 1.0), (0.2, 0.9)),
    "dots": ((3.0, 12.0), (0.2, 0.42), (0.6, 1.1)),
    "letters": ((3.0, 10.0), (0.7, 0.95), (0.5, 1.0)),
}
_LIVELY = (
    "clouds",
    "stripes",
    "checks",
    "bricks",
    "cells",
    "leaves",
    "leaves",
    "dots",
    "letters",
    "clouds",
)
_WALLS = ("clouds", "clouds", "bricks", "stripes", "leaves", "cells", "clouds", "dots", "letters")
_FLOORS = ("bricks", "bricks", "checks", "cells", "clouds", "leaves", "clouds")
_GROUND = ("clouds", "clouds", "cells", "leaves", "bricks")
_LARGER = 0.6  # patterns of surroundings against those of bodies


def _numbers(names: tuple[str, ...]) -> list[int]:
    return [NAMES.index(name) for name in names]


def sample_surfaces(random: SeededSampler, is_open: Tensor, scale: Tensor) -> Surfaces:
    """Looks of all bodies and of floor, ceiling and walls, or ground and sky, of worlds ``scale``
    [b] times as large as a room; ``is_open`` [b] is above 0 outdoors.
    """
    outdoors = is_open[:, None] > 0
    walls = random.pick(_numbers(_WALLS), 1)
    floor = torch.where(
        outdoors, random.pick(_numbers(_GROUND), 1), random.pick(_numbers(_FLOORS), 1)
    )
    ceiling = torch.full_like(walls, NAMES.index("clouds"))
    other = torch.where(random.unit(1) < 0.6, walls, random.pick(_numbers(_WALLS), 1))
    pattern = torch.cat([random.pick(_numbers(_LIVELY), BODIES), floor, ceiling, walls, other], -1)
    ranges = torch.tensor([_RANGES[name] for name in NAMES]).double()[pattern]  # [b s 3 2]
    share = random.unit(SURFACES, 3)
    cells = ranges[..., 0, 0] * (ranges[..., 0, 1] / ranges[..., 0, 0]) ** share[..., 0]
    first, second = (
        ranges[..., i, 0] + (ranges[..., i, 1] - ranges[..., i, 0]) * share[..., i] for i in (1, 2)
    )
    larger = torch.where(torch.arange(SURFACES) < BODIES, 1.0, _LARGER)
    # clouds of the sky: how much of it they cover; its hills: how high they rise
    first[:, WALL_X] = torch.where(is_open > 0, random.between(-0.5, 0.3), first[:, WALL_X])
    second[:, WALL_X] = torch.where(is_open > 0, random.between(-0.05, 0.16), second[:, WALL_X])
    second[:, CEILING] *= 0.4
    turn = random.pick([0, 0, 1], SURFACES).double() * (math.pi / 2)
    turn = turn + random.between(-math.pi, math.pi, SURFACES) * (random.unit(SURFACES) < 0.3)
    turn[:, CEILING:] = 0.0
    wooden = (random.unit(SURFACES) < 0.25).double()
    return Surfaces(
        pattern=pattern,
        seed=(random.unit(SURFACES) * 2**24).long(),
        scale=cells * larger / scale[:, None].sqrt(),
        turn=turn,
        first=first,
        second=second,
        palette=_sample_palettes(random, outdoors),
        contrast=random.between(0.1, 0.7, SURFACES),
        grain=random.between(0.05, 0.5, SURFACES),
        grain_scale=torch.exp(random.between(math.log(2.0), math.log(12.0), SURFACES))
        / scale[:, None].sqrt(),
        grain_stretch=1.0 - 0.88 * wooden,
        bump=random.between(0.0, 0.035, SURFACES) * (random.unit(SURFACES) < 0.5),
        gloss=random.between(0.0, 0.7, SURFACES) ** 2
        * torch.where(torch.arange(SURFACES) < BODIES, 1.0, 0.2),
    )


def _sample_palettes(random: SeededSampler, outdoors: Tensor) -> Tensor:
    """Four linear colours per surface: muted surroundings of one family of hues, bodies in accents
    from around the wheel.
    """
    hue = random.between(0.0, 2 * math.pi)[:, None]
    vivid = torch.exp(random.between(-0.9, 0.3))[:, None, None]
    spread = random.pick([0, 1], BODIES) * random.between(
        -math.pi, math.pi, BODIES
    ) + random.between(-0.6, 0.6, BODIES)
    warm = 1.1 + random.between(-0.4, 0.4, 1)  # wood, stone, earth
    floor = torch.where(random.unit(1) < 0.65, warm, hue + random.between(-0.5, 0.5, 1))
    green = 2.2 + random.between(-0.4, 0.3, 1)
    floor = torch.where(outdoors & (random.unit(1) < 0.5), green, floor)
    hues = torch.cat([hue + spread, floor, warm, hue, hue + random.between(-0.4, 0.4, 1)], -1)[
        ..., None
    ]
    light = torch.cat(
        [
            random.between(0.2, 0.92, BODIES),
            random.between(0.28, 0.75, 1),
            random.between(0.7, 0.94, 1),
        ],
        -1,
    )
    light = torch.cat([light, random.between(0.4, 0.92, 2)], -1)[..., None]
    chroma = (
        torch.cat([random.between(0.02, 0.17, BODIES), random.between(0.015, 0.07, 4)], -1)[
            ..., None
        ]
        * vivid
    )
    step = torch.cat(
        [torch.zeros(len(hue), SURFACES, 1).double(), random.between(0.5, 1.1, SURFACES, 3)], -1
    )
    reach = torch.where(torch.arange(SURFACES) < BODIES, 1.0, 0.6)[:, None]
    lightness = light + torch.tensor([0.0, -0.3, 0.2, -0.14]).double() * step * reach
    turned = torch.tensor([0.0, 0.25, -0.4, 1.2]).double() * step * random.sign(SURFACES, 1)
    faded = 1.0 - torch.tensor([0.0, 0.1, 0.6, 0.0]).double() * step
    palette = oklch(lightness.clamp(0.14, 0.96), chroma * faded.clamp_min(0.1), hues + turned)
    blue = 4.4 + random.between(-0.35, 0.35)
    day = random.between(0.0, 1.0)
    tones = torch.stack(
        [0.4 + 0.35 * day, 0.62 + 0.36 * day, 0.25 + 0.25 * random.unit(), 0.72 + 0.25 * day], -1
    )
    sky_hues = torch.stack(
        [blue, blue - 0.3 + 2.8 * (random.unit() < 0.25), random.between(1.8, 4.4), blue], -1
    )
    chromas = torch.stack(
        [
            random.between(0.02, 0.12),
            random.between(0.01, 0.06),
            random.between(0.01, 0.07),
            0.01 + 0 * blue,
        ],
        -1,
    )
    sky = oklch(tones, chromas, sky_hues)
    palette[:, WALL_X] = torch.where(outdoors[..., None], sky, palette[:, WALL_X])
    return palette
