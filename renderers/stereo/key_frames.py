"""Key frames: what frames between two others add to them.

Films of many frames show nearly the same again and again. Every other moment is a key frame. A
pixel of a moment between two of them is left out where both show the same surface, in the same
colour and as finely. What shows it there then lasts from one key frame to the next. Nothing is
learnt here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import KeyFrameConfig
from fsm.renderers.stereo.consistency import at_pixels
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Views

AT_ONCE = 8
"""Views whose pixels are compared at once: bounds memory, changes nothing."""


@dataclass(frozen=True)
class Turns:
    """Which pixels of views [b v] are shown, and when others take over."""

    kept: Bool[Tensor, "b v 1 h w"]
    """Shown; the others are shown by the moments around theirs."""
    before: Float[Tensor, "b v 1 h w"]
    """Time since the moment before that shows the same surface."""
    after: Float[Tensor, "b v 1 h w"]
    """Time to the moment after that shows the same surface."""

    def __getitem__(self, index: slice) -> "Turns":
        """Those of some views."""
        return Turns(self.kept[:, index], self.before[:, index], self.after[:, index])

    def resized(self, hw: tuple[int, int]) -> "Turns":
        """The same maps at another size, each pixel that of the nearest."""
        return Turns(nearest(self.kept, hw), nearest(self.before, hw), nearest(self.after, hw))

    @staticmethod
    def every(views: Views) -> "Turns":
        """Every view is shown as a whole."""
        like = views.c2w.new_ones(*views.time.shape, 1, *views.hw)
        before, after = (gap[..., None, None, None] * like for gap in moments_around(views.time))
        return Turns(like.bool(), before, after)


def moments_around(
    time: Float[Tensor, "b n"],
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Gaps from every view to the moments before and after its own; that of the other side where
    there is none on one, 1 where there is no other moment.
    """
    ahead = time[:, None] - time[:, :, None]
    after = torch.where(ahead > 0, ahead, torch.inf).amin(-1)
    before = torch.where(ahead < 0, -ahead, torch.inf).amin(-1)
    before, after = (
        torch.where(torch.isinf(one), other, one)
        for one, other in ((before, after), (after, before))
    )
    return before.nan_to_num(posinf=1.0), after.nan_to_num(posinf=1.0)


@torch.no_grad()
@full_precision
def take_turns(
    views: Views, inverse_depth: Float[Tensor, "b v 1 h w"], config: KeyFrameConfig
) -> Turns:
    """The turns of observed views [b v] with their inverse depth; model units."""
    parts = [
        _of_sample(v.batched(), rho[None], config)
        for v, rho in zip(views.samples(), inverse_depth.clamp_min(0.0), strict=True)
    ]
    return Turns(*(torch.cat([getattr(p, n) for p in parts]) for n in ("kept", "before", "after")))


def _of_sample(views: Views, rho: Float[Tensor, "1 v 1 h w"], config: KeyFrameConfig) -> Turns:
    turns = Turns.every(views)
    moments, rank = views.time[0].unique(return_inverse=True)
    last = len(moments) - 1
    if len(moments) < config.moments:
        return turns
    between = (rank % 2 == 1) & (rank < last)
    which = between.nonzero()[:, 0]
    sides = [_nearest_at(views, which, rank[which] + step, rank) for step in (-1, 1)]
    for some, index in _chunks(which, torch.stack(sides, -1)):
        sources = SourceViews.of(views[some].without_rgb(), views, index[None])
        turns.kept[:, some] = ~_shown(views, some, sources, rho, config).all(2)[:, :, None]
    for step, gaps in ((-1, turns.before), (1, turns.after)):
        beside = rank + step
        keys = (~between & (beside > 0) & (beside < last)).nonzero()[:, 0]
        near = _nearest_at(views, keys, beside[keys], rank)
        farther = (moments[(rank + 2 * step).clamp(0, last)] - views.time[0]).abs()
        for some, index in _chunks(keys, near[:, None]):
            sources = SourceViews.of(views[some].without_rgb(), views.without_rgb(), index[None])
            seen = sources.project(rho[:, some])
            left_out = ~at_pixels(sources, seen, turns.kept[:, :, 0]) & seen.inside
            longer = farther[some][:, None, None, None]
            gaps[:, some] = torch.where(left_out, longer, gaps[:, some])
    first, final = (rank == 0)[:, None, None, None], (rank == last)[:, None, None, None]
    before = torch.where(first, turns.after, turns.before)
    return Turns(turns.kept, before, torch.where(final, turns.before, turns.after))


def _shown(
    views: Views,
    which: Int[Tensor, " c"],
    sources: SourceViews,
    rho: Float[Tensor, "1 v 1 h w"],
    config: KeyFrameConfig,
) -> Bool[Tensor, "1 c k h w"]:
    """Which pixels of some views their source views show as well."""
    assert views.rgb is not None
    own, seen = rho[:, which], sources.project(rho[:, which])
    colours, _ = sources.sample(sources.frames, seen.pixels)
    same = (colours - views.rgb[:, which, None]).abs().amax(3) < config.colour
    there, here = at_pixels(sources, seen, rho[:, :, 0]), seen.inverse_depth
    surface = torch.minimum(there, here) > config.support * torch.maximum(there, here)
    focal = sources.cameras.focal[..., 0] / views.intrinsics[:, which, 0, None]
    as_fine = focal[..., None, None] * here > config.resolution * own
    return seen.inside & same & surface & as_fine


def _nearest_at(
    views: Views, which: Int[Tensor, " c"], moment: Int[Tensor, " c"], rank: Int[Tensor, " v"]
) -> Int[Tensor, " c"]:
    """Of all views at a moment, the one nearest in place and direction to each of some views."""
    centre, forward = views.c2w[0, :, :3, 3], views.c2w[0, :, :3, 2]
    apart = torch.cdist(centre[which], centre) + 1.0 - forward[which] @ forward.T
    return torch.where(rank == moment[:, None], apart, torch.inf).argmin(-1)


def _chunks(*values: Tensor) -> list[Sequence[Tensor]]:
    """All of them, ``AT_ONCE`` rows at a time."""
    return list(zip(*(v.split(AT_ONCE) for v in values), strict=True)) if len(values[0]) else []


def nearest(
    maps: Shaped[Tensor, "b v 1 _h _w"], hw: tuple[int, int]
) -> Shaped[Tensor, "b v 1 h w"]:
    """Maps at another size, each pixel that of the nearest."""
    if tuple(maps.shape[-2:]) == tuple(hw):
        return maps
    row, column = (
        ((torch.arange(size, device=maps.device) + 0.5) * old / size).long()
        for size, old in zip(hw, maps.shape[-2:], strict=True)
    )
    return maps[..., row[:, None], column]
