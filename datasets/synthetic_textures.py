"""A bank of tileable patterns with mip levels, and its filtered lookup: what surfaces of the
synthetic world wear.

A texel holds three palette weights (the first of four colours takes the rest) and one brightness
detail. Colour is linear in the weights, so mip levels and bilinear taps filter the *picture*,
whatever palette a surface brings: no aliasing from procedural edges, and one bank serves any number
of worlds. Patterns repeat with period one in u and v.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SIDE = 256  # texels per period at the finest level
LEVELS = 7  # 256 .. 4 texels
VARIANTS = 6  # per family
_DRAWS_SEED = 20_240_607


def sample_bank(
    pattern: Int[Tensor, "n"],
    u: Float[Tensor, "n"],
    v: Float[Tensor, "n"],
    level: Float[Tensor, "n"],
) -> Float[Tensor, "n 4"]:
    """Trilinearly filtered texels (weights of colours 1, 2, 3; detail) of patterns; ``level`` 0 is
    the finest.
    """
    table, offsets = _bank(str(u.device))
    level = level.clamp(0.0, LEVELS - 1.001)
    fine = level.floor()
    blend = level - fine
    fine = fine.int()
    indices, weights = [], []
    for step, share in ((0, 1.0 - blend), (1, blend)):
        depth = fine + step
        side = torch.bitwise_right_shift(torch.full_like(depth, SIDE), depth)
        x, y = u * side - 0.5, v * side - 0.5
        x0, y0 = x.floor(), y.floor()
        fx, fy = x - x0, y - y0
        last = side - 1
        ix, iy = x0.int() & last, y0.int() & last
        jx, jy = (ix + 1) & last, (iy + 1) & last
        base = offsets[depth] + pattern * (side * side)
        row, below = base + iy * side, base + jy * side
        right, left = fx * share, (1.0 - fx) * share
        indices += [row + ix, row + jx, below + ix, below + jx]
        weights += [left * (1.0 - fy), right * (1.0 - fy), left * fy, right * fy]
    return F.embedding_bag(
        torch.stack(indices, -1), table, per_sample_weights=torch.stack(weights, -1), mode="sum"
    )


def bank_size() -> int:
    """Number of patterns."""
    return len(FAMILIES) * VARIANTS


def family_patterns(*names: str) -> list[int]:
    """Indices of all patterns of the named families."""
    order = list(FAMILIES)
    return [order.index(name) * VARIANTS + i for name in names for i in range(VARIANTS)]


@functools.lru_cache(maxsize=4)
def _bank(device: str) -> tuple[Tensor, Tensor]:
    """All levels of all patterns as one table [texels, 4], and where each level starts; made on the
    CPU, then moved.
    """
    if device != "cpu":
        table, offsets = _bank("cpu")
        return table.to(device), offsets.to(device)
    draws = torch.Generator().manual_seed(_DRAWS_SEED)
    with torch.no_grad():
        # [p, 4, s, s]
        finest = torch.stack(
            [make(draws, i) for make in FAMILIES.values() for i in range(VARIANTS)]
        )
        levels = [finest]
        while len(levels) < LEVELS:
            levels.append(F.avg_pool2d(levels[-1], 2))
        table = torch.cat(
            [level.permute(0, 2, 3, 1).reshape(-1, 4) for level in levels]
        ).contiguous()
    sizes = [level.numel() // 4 for level in levels]
    return table, torch.tensor([sum(sizes[:i]) for i in range(LEVELS)], dtype=torch.int32)


def _grid() -> tuple[Tensor, Tensor]:
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    return axis[None, :].expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)


def _uniform(draws: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=draws)


def _noise(
    draws: torch.Generator, slope: float, stretch: float = 1.0, lowest: float = 1.0
) -> Tensor:
    """Periodic noise of zero mean and unit variance, amplitude 1 / f**slope; ``stretch`` > 1 draws
    it out along x.
    """
    fx = torch.fft.fftfreq(SIDE) * SIDE * stretch
    fy = torch.fft.fftfreq(SIDE) * SIDE
    radius = (fx[None, :].square() + fy[:, None].square()).sqrt()
    amplitude = torch.where(radius >= lowest, radius.clamp_min(1e-3) ** -slope, torch.zeros(()))
    white = torch.randn(SIDE, SIDE, generator=draws)
    field = torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real
    return (field - field.mean()) / field.std()


def _flat(noise: Tensor) -> Tensor:
    """Gaussian noise to a uniform distribution on [0, 1]."""
    return 0.5 * (1.0 + torch.erf(noise / math.sqrt(2.0)))


def _ramp(position: Tensor) -> Tensor:
    """A position in [0, 1] along the palette as weights of colours 1, 2, 3."""
    return torch.stack([(1.0 - (3.0 * position - i).abs()).clamp_min(0.0) for i in (1, 2, 3)])


def _step(distance: Tensor, texels: float = 1.0) -> Tensor:
    """Coverage of the half-space distance > 0 (distance in periods), one texel soft."""
    return (distance * SIDE / texels + 0.5).clamp(0.0, 1.0)


def _texture(weights: Tensor, detail: Tensor) -> Tensor:
    return torch.cat([weights, detail[None]])


def _per_cell(
    draws: torch.Generator, cells: Tensor, count: int, uneven: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Random palette colour and brightness for each cell number, looked up at every texel; low
    colours are likelier.
    """
    colour = (_uniform(draws, count) ** uneven * 4).long().clamp_max(3)
    shade = _uniform(draws, count) * 2.0 - 1.0
    return F.one_hot(colour, 4)[cells][..., 1:].permute(2, 0, 1).float(), shade[cells]


def _clouds(draws: torch.Generator, i: int) -> Tensor:
    return _texture(_ramp(_flat(_noise(draws, 1.5 + 0.15 * i))), 0.8 * _noise(draws, 1.0))


def _smooth(draws: torch.Generator, i: int) -> Tensor:
    return _texture(
        _ramp(_flat(_noise(draws, 2.6 + 0.1 * i))),
        0.45 * _noise(draws, 1.1) + 0.25 * _noise(draws, 0.4),
    )


def _marble(draws: torch.Generator, i: int) -> Tensor:
    x, y = _grid()
    kx, ky = ((1, 0), (1, 1), (2, 1), (0, 2), (3, 1), (2, 2))[i]
    wave = torch.sin(2 * math.pi * (kx * x + ky * y) + 1.8 * _noise(draws, 1.8))
    vein = torch.exp(-8.0 * wave.abs())
    return _texture(
        _ramp((0.5 + 0.36 * wave * (1 - vein)).clamp(0, 1)), 0.6 * _noise(draws, 1.2) - 1.2 * vein
    )


def _islands(draws: torch.Generator, i: int) -> Tensor:
    level = _flat(_noise(draws, 1.9 + 0.08 * i)) * (3.999 - 0.2 * (i % 3))
    stair = level.floor() + ((level - level.floor() - 0.5) * 14.0 + 0.5).clamp(0.0, 1.0)
    return _texture(_ramp((stair / 3.0).clamp(0, 1)), 0.6 * _noise(draws, 1.2))


def _checks(draws: torch.Generator, i: int) -> Tensor:
    x, y = _grid()
    n = (2, 4, 4, 8, 8, 4)[i]
    cx, cy = (x * n).long(), (y * n).long()
    weights, shade = _per_cell(draws, cx * n + cy, n * n)
    odd = ((cx + cy) % 2).float()
    plain = torch.stack([odd, torch.zeros_like(odd), torch.zeros_like(odd)])
    weights = (
        plain if i % 2 == 0 else torch.where(odd[None] > 0, weights, torch.zeros_like(weights))
    )
    return _texture(weights, 0.5 * shade + 0.6 * _noise(draws, 1.1))


def _stripes(draws: torch.Generator, i: int) -> Tensor:
    x, _ = _grid()
    n = (4, 8, 8, 16, 16, 32)[i]
    weights, shade = _per_cell(draws, (x * n).long(), n, uneven=1.0)
    alternate = ((x * n).long() % 2).float()
    if i % 2 == 0:
        weights = torch.stack([alternate, torch.zeros_like(alternate), torch.zeros_like(alternate)])
    return _texture(weights, 0.4 * shade + 0.5 * _noise(draws, 1.0, stretch=0.25))


def _bricks(draws: torch.Generator, i: int) -> Tensor:
    x, y = _grid()
    columns, rows = ((4, 8), (2, 4), (4, 4), (4, 16), (2, 8), (8, 8))[i]
    row = (y * rows).long()
    shifted = x * columns + (0.5 * (row % 2) if i != 2 else 0.0)
    column = shifted.long() % columns
    weights, shade = _per_cell(draws, row * columns + column, rows * columns, uneven=1.2)
    along = (shifted % 1.0 - 0.5).abs() / columns
    across = ((y * rows) % 1.0 - 0.5).abs() / rows
    joint = _step(torch.maximum(along - 0.5 / columns, across - 0.5 / rows) + 0.008)
    mortar = torch.tensor([0.0, 0.0, 1.0])[:, None, None].expand_as(weights)
    bevel = torch.exp(-(0.5 / rows - across) * 90.0)
    detail = 0.9 * shade + 0.7 * _noise(draws, 1.0) - 0.5 * bevel
    return _texture(weights * (1 - joint) + mortar * joint, detail * (1 - joint) - 0.8 * joint)


def _planks(draws: torch.Generator, i: int) -> Tensor:
    x, y = _grid()
    rows = (4, 4, 8, 8, 2, 8)[i]
    row = (y * rows).long()
    start = _uniform(draws, rows)[row]
    half = ((x + start) % 1.0 * 2).long()
    _, shade = _per_cell(draws, row * 2 + half, rows * 2)
    grain = _noise(draws, 1.3, stretch=9.0)
    tone = (0.35 + 0.22 * shade + 0.10 * grain).clamp(0, 1)
    gap = _step(((y * rows) % 1.0 - 0.5).abs() / rows - 0.5 / rows + 0.004)
    ends = _step(((((x + start) * 2) % 1.0) - 0.5).abs() / 2 - 0.25 + 0.003)
    return _texture(
        _ramp(tone),
        0.6 * grain + 0.5 * _noise(draws, 0.9, stretch=5.0) - 2.4 * torch.maximum(gap, ends),
    )


def _leaves(draws: torch.Generator, i: int) -> Tensor:
    """Dead leaves: overlapping discs whose radii follow a power law, nearly scale invariant as
    natural images are.
    """
    smallest, biggest, count = 0.02 + 0.006 * i, 0.22, 110
    exponent = 2.0  # radii distributed as r**-3
    share = _uniform(draws, count)
    radii = (smallest**-exponent + share * (biggest**-exponent - smallest**-exponent)) ** (
        -1.0 / exponent
    )
    radii = radii.sort(descending=True).values if i % 2 else radii
    out = torch.zeros(4, SIDE, SIDE)
    for radius in radii.tolist():
        reach = math.ceil(radius * SIDE) + 1
        px, py = (_uniform(draws, 2) * SIDE).tolist()
        columns = torch.arange(int(px) - reach, int(px) + reach + 1)
        rows = torch.arange(int(py) - reach, int(py) + reach + 1)
        distance = (
            (columns + 0.5 - px).square()[None, :] + (rows + 0.5 - py).square()[:, None]
        ).sqrt() / SIDE
        colour = F.one_hot((_uniform(draws, 1) * 4).long(), 4)[0, 1:].float()
        disc = torch.cat([colour, _uniform(draws, 1) * 2.4 - 1.2])[:, None, None]
        window = (slice(None), rows[:, None] % SIDE, columns[None, :] % SIDE)
        out[window] = torch.lerp(out[window], disc, _step(radius - distance)[None])
    return _texture(out[:3], out[3] + 0.5 * _noise(draws, 1.1))


def _terrazzo(draws: torch.Generator, i: int) -> Tensor:
    """Chips of stone in a plain ground: cells of random points, kept where they clear their
    neighbours.
    """
    first, second, nearest = _nearest(draws, 90 + 20 * i)
    weights, shade = _per_cell(draws, nearest, 90 + 20 * i, uneven=0.9)
    chip = _step(second - first - 0.016 - 0.012 * shade, 1.5)
    return _texture(
        weights * chip, (0.5 * shade + 0.5 * _noise(draws, 1.0)) * chip + 0.5 * _noise(draws, 0.9)
    )


def _mosaic(draws: torch.Generator, i: int) -> Tensor:
    count = 14 + 10 * i
    first, second, nearest = _nearest(draws, count)
    weights, shade = _per_cell(draws, nearest, count, uneven=1.0)
    seam = 1.0 - _step(second - first - 0.008, 1.5)
    return _texture(
        weights * (1 - seam), 0.9 * shade * (1 - seam) + 0.6 * _noise(draws, 1.2) - 1.5 * seam
    )


def _nearest(draws: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distances to the nearest and second nearest of ``count`` random points on the torus, and
    which is nearest.
    """
    x, y = _grid()
    first, second = torch.full((SIDE, SIDE), 9.0), torch.full((SIDE, SIDE), 9.0)
    nearest = torch.zeros(SIDE, SIDE, dtype=torch.long)
    for i, (px, py) in enumerate(_uniform(draws, count, 2).tolist()):
        dx, dy = (x[0] - px + 0.5) % 1.0 - 0.5, (y[:, 0] - py + 0.5) % 1.0 - 0.5
        squared = dx.square()[None, :] + dy.square()[:, None]
        second = torch.minimum(second, torch.maximum(first, squared))
        nearest.masked_fill_(squared < first, i)
        first = torch.minimum(first, squared)
    return first.sqrt(), second.sqrt(), nearest


def _dots(draws: torch.Generator, i: int) -> Tensor:
    x, y = _grid()
    n = (4, 6, 8, 8, 12, 4)[i]
    row = (y * n).long()
    shifted = x * n + 0.5 * (row % 2)
    cell = row * n + shifted.long() % n
    weights, shade = _per_cell(draws, cell, n * n, uneven=0.9)
    if i % 2 == 0:
        weights = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand_as(weights)
    distance = ((shifted % 1.0 - 0.5).square() + ((y * n) % 1.0 - 0.5).square()).sqrt() / n
    dot = _step(0.32 / n - distance)
    ring = dot - _step(0.17 / n - distance) if i == 5 else dot
    return _texture(weights * ring, 0.4 * shade * dot + 0.6 * _noise(draws, 1.1))


FAMILIES: dict[str, Callable[[torch.Generator, int], Tensor]] = {
    "clouds": _clouds,
    "smooth": _smooth,
    "marble": _marble,
    "islands": _islands,
    "checks": _checks,
    "stripes": _stripes,
    "bricks": _bricks,
    "planks": _planks,
    "leaves": _leaves,
    "terrazzo": _terrazzo,
    "mosaic": _mosaic,
    "dots": _dots,
}
