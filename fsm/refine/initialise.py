"""Gaussians to start from without a model: pixels of the frames, at the depth where other frames
agree.

A plane sweep (Collins 1996) with random depths: every drawn pixel tries some, looks where they fall
in the frames next to its own, and keeps the one at which those show its colour. Next are frames
close in time; in a static capture cameras close in space. Also the background: what all frames have
at their border.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.rays import unproject
from fsm.refine.hold_back import camera_distances
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.renderers.stereo.sources import SourceViews, camera_rays, pixel_grid
from fsm.views import SceneFrame, Views

NEAREST = 2.5  # largest inverse depth tried, in model units (the cameras' spread is one)
CANDIDATES, ROUNDS = 48, 2
MANY, FEW = 16, 4  # frames next to one: the many see depth well, the few see what moves
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

    Each has the colour of one pixel of one frame, and that frame's time; where ``frame`` is static
    they are always there. What is drawn depends on ``seed`` alone.
    """
    if inputs.rgb is None or len(inputs) < 2:
        raise InputError(
            "Gaussians are found where frames agree; give at least 2 with colours, found "
            f"{len(inputs)}."
        )
    views = frame.to_model(inputs)
    shown = foreground(views, constant_background(views))
    generator = torch.Generator().manual_seed(seed)
    pixels = _sample_pixels(views, shown, OVERSAMPLING * n, generator)
    rho, durations = _surfaces(views, pixels, frame.static, generator)
    kept = torch.multinomial(_weights(durations), n, generator=generator)
    pixels, durations = pixels[kept], durations[kept]
    depth = 1.0 / rho[kept]
    # As large as the gaps between those that share the picture at one moment.
    at_once = float((2.0 * durations).clamp_max(1.0).sum())
    spacing = math.sqrt(float(shown.sum()) / len(views) / at_once)
    size = SIZE * spacing * depth / views.intrinsics[pixels.frames, 0]
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(n, 1)
    return Gaussians4D(
        unproject(
            pixels.places[:, None],
            depth[:, None],
            views.c2w[pixels.frames],
            views.intrinsics[pixels.frames],
        )[:, 0],
        views.time[pixels.frames],
        size[:, None].repeat(1, 3),
        durations,
        quats,
        quats,
        torch.full((n,), OPACITY),
        colour_to_sh(pixels.colours),
    )


def _surfaces(
    views: Views, pixels: "_Pixels", static: bool, generator: torch.Generator
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Inverse depths and durations of ``pixels``: infinite in a static capture. Else what moves is
    put where it was, for a short time.
    """
    if static:
        apart = camera_distances(views)
        rho, _ = _sweep(views, pixels, apart, MANY, generator)
        return rho, torch.full_like(rho, math.inf)
    apart = (views.time[:, None] - views.time).abs()
    rho, disagreement = _sweep(views, pixels, apart, MANY, generator)
    nearby, least = _sweep(views, pixels, apart, FEW, generator)
    moves = disagreement - least > MOVED
    short = min(STAYS, max(MOVES, MOVES_FRAMES * 2.0 / len(views)))
    return torch.where(moves, nearby, rho), torch.where(moves, short, STAYS)


def _weights(durations: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """How often a pixel is kept: of what stays fewer are needed for as many at each moment."""
    return torch.where(durations.isinf(), torch.ones_like(durations), 1.0 / durations)


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
    places: Float[Tensor, "n 2"]
    """Their centres, x and y in pixels."""
    rays: Float[Tensor, "n 3"]
    """Points at z-depth one, in the axes of their camera."""
    colours: Float[Tensor, "n 3"]

    def __getitem__(self, index: Tensor) -> "_Pixels":
        return _Pixels(
            self.frames[index], self.places[index], self.rays[index], self.colours[index]
        )


def foreground(views: Views, background: Float[Tensor, " 3"] | None) -> Float[Tensor, "v h w"]:
    """1 where there is something to see; ``InputError`` where there is nothing at all."""
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


def _sample_pixels(views: Views, shown: Tensor, n: int, generator: torch.Generator) -> _Pixels:
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
    flat = [
        t.flatten(2)[frames, :, index]
        for t in (
            pixel_grid(views.batched())[0, :, 0].movedim(-1, 1),
            camera_rays(views.batched())[0],
            views.rgb,
        )
    ]
    return _Pixels(frames, *flat)


def _sweep(
    views: Views,
    pixels: _Pixels,
    apart: Float[Tensor, "v v"],
    neighbours: int,
    generator: torch.Generator,
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
        found, at = _disagreement(views, pixels, apart, neighbours, tried).min(dim=1)
        better = found < least
        rho = torch.where(better, tried.gather(1, at[:, None])[:, 0], rho)
        least = torch.where(better, found, least)
        step = (high - low) / CANDIDATES
        low, high = (rho - step).clamp_min(0.0), rho + step
    return rho, least


def _disagreement(
    views: Views,
    pixels: _Pixels,
    apart: Float[Tensor, "v v"],
    neighbours: int,
    tried: Float[Tensor, "n c"],
) -> Float[Tensor, "n c"]:
    """How different the colours at inverse depths ``tried`` are in the frames least ``apart``."""
    out, batched = torch.empty_like(tried), views.batched()
    for i in pixels.frames.unique().tolist():
        mine = (pixels.frames == i).nonzero()[:, 0]
        near = apart[i].argsort(stable=True)
        near = near[near != i][:neighbours]
        sources = SourceViews.of(batched[i], batched, near[None, None])
        # the drawn pixels alone, as a picture of one row
        sources = replace(sources, rays=pixels.rays[mine].T[None, None, :, None])
        out[mine] = _difference(sources, tried[mine], pixels.colours[mine])
    return out


def _difference(
    sources: SourceViews, tried: Float[Tensor, "p c"], colours: Float[Tensor, "p 3"]
) -> Float[Tensor, "p c"]:
    """Mean difference between ``colours`` and those of the source views at inverse depths
    ``tried``; seen by fewer than two of them is the worst.
    """
    pixels = sources.project_planes(tried.T[None, None, :, None]).pixels  # [1 1 k c 1 p 2]
    found, inside = sources.sample(sources.frames, pixels[:, :, :, :, 0])
    inside = inside[0, 0, :, 0] > 0  # [k c p]
    off = (found[0, 0] - colours.T[:, None]).abs().mean(1).clamp_max(MOST_DISAGREEMENT)
    count = inside.sum(0)
    mean = (off * inside).sum(0) / count.clamp_min(1)
    least = min(2, sources.index.shape[2])
    return torch.where(count >= least, mean, torch.full_like(mean, MOST_DISAGREEMENT)).T
