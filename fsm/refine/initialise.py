"""Gaussians to start from without a model: pixels of the frames, at the depth where frames close in
time agree.

A plane sweep (Collins 1996) with random depths: every drawn pixel tries some, looks where they fall
in the frames next to its own in time, and keeps the one at which those show its colour. Also the
background: what all frames have at their border.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.views import SceneFrame, Views

NEAREST = 2.5  # largest inverse depth tried, in model units (the cameras' spread is one)
CANDIDATES, ROUNDS = 48, 2
MANY, FEW = 16, 4  # frames next in time: the many see depth well, the few see what moves
MOVED = 0.06  # where the few agree by so much better than the many, something moves
MOST_DISAGREEMENT = 0.3  # a frame in which something else is in front says no more than that
OVERSAMPLING = 2  # pixels tried for one that is kept
STAYS, MOVES, MOVES_FRAMES = (
    0.2,
    0.08,
    2.0,
)  # durations: standard deviations in model time (a clip lasts 2), or in frames
OPACITY, SIZE = 0.6, 1.0  # size in units of the gaps


def random_gaussians(inputs: Views, frame: SceneFrame, n: int, seed: int = 0) -> Gaussians4D:
    """``n`` still Gaussians on surfaces seen in ``inputs`` [v] (the clip's own space, with rgb), in
    the space of ``frame``.

    Each has the colour of one pixel of one frame, and that frame's time. What is drawn depends on
    ``seed`` alone.
    """
    if inputs.rgb is None or len(inputs) < 2:
        raise InputError(
            "Gaussians are found where frames agree; give at least 2 with colours, found "
            f"{len(inputs)}."
        )
    views = frame.to_model(inputs)
    shown = _foreground(views, constant_background(views))
    generator = torch.Generator().manual_seed(seed)
    pixels = _draw_pixels(views, shown, OVERSAMPLING * n, generator)
    rho, disagreement = _sweep(views, pixels, MANY, generator)
    nearby, least = _sweep(views, pixels, FEW, generator)
    moves = disagreement - least > MOVED
    # What moves is put where it was, for a short time; of what stays fewer are needed for as many
    # at each moment.
    short = min(STAYS, max(MOVES, MOVES_FRAMES * 2.0 / len(views)))
    durations = torch.where(moves, short, STAYS)
    kept = torch.multinomial(1.0 / durations, n, generator=generator)
    pixels, durations = pixels[kept], durations[kept]
    depth = 1.0 / torch.where(moves, nearby, rho)[kept]
    # As large as the gaps between those that share the picture at one moment.
    at_once = float((2.0 * durations).clamp_max(1.0).sum())
    spacing = math.sqrt(float(shown.sum()) / len(views) / at_once)
    size = SIZE * spacing * depth / views.intrinsics[pixels.frames, 0]
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(n, 1)
    return Gaussians4D(
        pixels.origins + depth[:, None] * pixels.rays,
        views.time[pixels.frames],
        size[:, None].repeat(1, 3),
        durations,
        quats,
        quats,
        torch.full((n,), OPACITY),
        colour_to_sh(pixels.colours),
    )


def constant_background(views: Views) -> Float[Tensor, " 3"] | None:
    """The colour that at least half of the border pixels of all frames share, or None."""
    if views.rgb is None:
        return None
    rgb = views.rgb
    border = torch.cat([rgb[..., 0, :], rgb[..., -1, :], rgb[..., :, 0], rgb[..., :, -1]], dim=-1)
    border = border.movedim(1, -1).reshape(-1, 3)
    colour = border.median(0).values
    same = ((border - colour).abs() <= 2.0 / 255.0).all(-1).float().mean()
    return colour if float(same) >= 0.5 else None


@dataclass(frozen=True)
class _Pixels:
    """n pixels of some frames."""

    frames: Int[Tensor, " n"]
    origins: Float[Tensor, "n 3"]
    rays: Float[Tensor, "n 3"]
    """Of z-depth one."""
    colours: Float[Tensor, "n 3"]

    def __getitem__(self, index: Tensor) -> "_Pixels":
        return _Pixels(
            self.frames[index], self.origins[index], self.rays[index], self.colours[index]
        )


def _foreground(views: Views, background: Tensor | None) -> Float[Tensor, "v h w"]:
    """1 where there is something to see."""
    assert views.rgb is not None
    shown = torch.ones_like(views.rgb[:, 0])
    if background is not None:
        shown = ((views.rgb - background[:, None, None]).abs().amax(1) > 4.0 / 255.0).float()
    shown = shown if views.mask is None else shown * views.mask[:, 0]
    if not bool(shown.any()):
        raise InputError(
            "every pixel of the input frames is background; there is nothing to refine."
        )
    return shown


def _draw_pixels(views: Views, shown: Tensor, n: int, generator: torch.Generator) -> _Pixels:
    """Pixels that show something, equally many of every frame that has some."""
    assert views.rgb is not None
    shown = shown.flatten(1)
    useful = shown.any(1).nonzero()[:, 0]
    counts = torch.bincount(torch.arange(n) % len(useful)).tolist()
    at = [
        torch.multinomial(shown[i], count, replacement=True, generator=generator)
        # fewer pixels than frames: the first frames
        for i, count in zip(useful.tolist(), counts, strict=False)
    ]
    frames = useful[: len(counts)].repeat_interleave(torch.tensor(counts))
    index = torch.cat(at)
    w = views.hw[1]
    fx, fy, cx, cy = views.intrinsics[frames].unbind(-1)
    local = torch.stack(
        [(index % w + 0.5 - cx) / fx, (index // w + 0.5 - cy) / fy, torch.ones_like(fx)], -1
    )
    c2w = views.c2w[frames]
    rays = (c2w[:, :3, :3] @ local[..., None])[..., 0]
    return _Pixels(frames, c2w[:, :3, 3], rays, views.rgb.flatten(2)[frames, :, index])


def _sweep(
    views: Views, pixels: _Pixels, neighbours: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inverse depth [n] of the least disagreement, and that disagreement; the second round looks
    close to the first's.
    """
    n = len(pixels.frames)
    low, high = torch.zeros(n), torch.full((n,), NEAREST)
    rho, least = torch.full((n,), 0.5 * NEAREST), torch.full((n,), math.inf)
    for _ in range(ROUNDS):
        share = (
            torch.arange(CANDIDATES) + torch.rand(n, CANDIDATES, generator=generator)
        ) / CANDIDATES
        tried = (low[:, None] + (high - low)[:, None] * share).clamp_min(1e-3)
        found, at = _disagreement(views, pixels, neighbours, tried).min(dim=1)
        better = found < least
        rho = torch.where(better, tried.gather(1, at[:, None])[:, 0], rho)
        least = torch.where(better, found, least)
        step = (high - low) / CANDIDATES
        low, high = (rho - step).clamp_min(0.0), rho + step
    return rho, least


def _disagreement(
    views: Views, pixels: _Pixels, neighbours: int, tried: Float[Tensor, "n c"]
) -> Float[Tensor, "n c"]:
    """How different the colours at inverse depths ``tried`` are in the frames next in time."""
    out = torch.empty_like(tried)
    for i in pixels.frames.unique().tolist():
        mine = (pixels.frames == i).nonzero()[:, 0]
        points = pixels.origins[mine, None] + pixels.rays[mine, None] / tried[mine, :, None]
        near = (views.time - views.time[i]).abs().argsort(stable=True)
        out[mine] = _difference(views[near[near != i][:neighbours]], points, pixels.colours[mine])
    return out


def _difference(
    views: Views, points: Float[Tensor, "p c 3"], colours: Float[Tensor, "p 3"]
) -> Float[Tensor, "p c"]:
    """Mean difference between ``colours`` and what ``views`` show at ``points``; not seen by two of
    them is the worst.
    """
    assert views.rgb is not None
    local = torch.einsum(
        "kij,kpci->kpcj", views.c2w[:, :3, :3], points - views.c2w[:, None, None, :3, 3]
    )
    ahead = local[..., 2] > 1e-3
    fx, fy, cx, cy = views.intrinsics[..., None, None].unbind(1)
    x = local[..., 0] / local[..., 2].clamp_min(1e-3) * fx + cx
    y = local[..., 1] / local[..., 2].clamp_min(1e-3) * fy + cy
    h, w = views.hw
    inside = ahead & (x > 0) & (x < w) & (y > 0) & (y < h)
    grid = torch.stack([2.0 * x / w - 1.0, 2.0 * y / h - 1.0], -1)
    seen = F.grid_sample(views.rgb, grid, align_corners=False, padding_mode="border")
    off = (seen - colours.T[:, :, None]).abs().mean(1).clamp_max(MOST_DISAGREEMENT)
    count = inside.sum(0)
    mean = (off * inside).sum(0) / count.clamp_min(1)
    return torch.where(count >= min(2, len(views)), mean, torch.full_like(mean, MOST_DISAGREEMENT))
