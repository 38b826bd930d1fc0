"""Depth fusion: one surface from the depth of many frames, and what stands by the evidence of all.

Every pixel of a view is projected into the others. One that sees the same surface there in the same
colour supports it; one that should see it and shows another colour contradicts it (Merrell et al.
2007). What stands is not contradicted more often than supported. Pixels that show what an earlier
view shows as well are left out: one surface stays, not one layer per view. Nothing is learnt here.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import FusionConfig
from fsm.renderers.stereo.consistency import at_pixels, depths_there
from fsm.renderers.stereo.key_frames import Turns, nearest
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.regularise import resampled
from fsm.renderers.stereo.selection import stereo_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.windows import window_mean
from fsm.views import Views


@dataclass(frozen=True)
class Surfaces:
    """What is known of every pixel of views [b v] from all of them."""

    inverse_depth: Float[Tensor, "b v 1 h w"]
    """Inverse z-depth in model units."""
    standing: Bool[Tensor, "b v 1 h w"]
    """Stands, by what was learnt and by the other views."""
    turns: Turns
    """Which show what no other view shows, and when others take over."""
    side: int = 1
    """Pixels of the pictures, along a side, for each pixel that depth was found of."""

    def __getitem__(self, index: slice) -> "Surfaces":
        """Those of some views."""
        return Surfaces(
            self.inverse_depth[:, index], self.standing[:, index], self.turns[index], self.side
        )

    def resized(self, hw: tuple[int, int]) -> "Surfaces":
        """The same for larger pictures: depth bilinear, the rest as the nearest pixel has it."""
        rho = self.inverse_depth
        finer = resampled(rho.flatten(0, 1), hw).unflatten(0, rho.shape[:2])
        side = self.side * hw[0] // rho.shape[-2]
        return Surfaces(finer, nearest(self.standing, hw), self.turns.resized(hw), side)


@torch.no_grad()
@full_precision
def fused(views: Views, layers: Layers, config: FusionConfig) -> Surfaces:
    """The surfaces of observed views [b v] with their layers; model units."""
    assert views.rgb is not None
    rho, n = layers.inverse_depth.clamp_min(0.0), len(views)
    colours = window_mean(views.rgb, config.window)
    standing = (layers.moving < 0.5).clone()
    kept = torch.ones_like(standing)
    done = torch.zeros(n, dtype=torch.bool, device=rho.device)
    for i in spread_order(n):
        reference = views[[i]].without_rgb()
        index = stereo_views(reference, views, min(config.views, n - 1)) if n > 1 else None
        if index is None:
            continue
        sources = SourceViews.of(reference, views.without_rgb(), index)
        seen = sources.project(rho[:, i : i + 1])
        nearest, farthest = depths_there(sources, seen, rho, config.slack)
        stands = at_pixels(sources, seen, standing[:, :, 0])
        here = seen.inverse_depth + config.slack
        shown, _ = sources.sample(colours, seen.pixels)
        same = (shown - colours[:, i : i + 1, None]).abs().mean(3) < config.colour
        hidden = here < config.support * farthest
        agrees = ~hidden & (nearest > config.support * here)
        supported = seen.inside & agrees & same
        wrong = (seen.inside & ~hidden & ~same).sum(2) > supported.sum(2)
        standing[:, i] &= ~wrong
        focal = (sources.cameras.focal[..., 0] / reference.intrinsics[..., 0, None])[
            ..., None, None
        ]
        as_fine = focal * seen.inverse_depth > config.resolution * rho[:, i : i + 1]
        earlier = done[index][..., None, None]
        covered = (supported & stands & as_fine & earlier).any(2)
        kept[:, i] = ~(covered & standing[:, i])
        if views.one_moment:
            kept[:, i] &= ~wrong
        done[i] = True
    return Surfaces(rho, standing, replace(Turns.every(views), kept=kept))


def spread_order(n: int) -> list[int]:
    """Numbers below n so that every beginning is spread over all: halves, quarters, and so on."""
    order, step = [], 1
    while step < n:
        step *= 2
    while step >= 1:
        order += [i for i in range(0, n, step) if i not in order]
        step //= 2
    return order
