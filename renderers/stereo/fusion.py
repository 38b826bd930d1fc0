"""Depth fusion: one surface from the depth of many frames, and what stands by the evidence of all.

Every pixel of a view is projected into the others. One that sees the same surface there in the same
colour supports it; one that should see it and shows another colour contradicts it (Merrell et al.
2007). What stands is not contradicted more often than supported. Pixels that show what an earlier
view shows as well are left out: one surface stays, not one layer per view. Nothing is learnt here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import FusionConfig
from fsm.renderers.stereo.consistency import at_pixels, depths_there
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.selection import stereo_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.windows import window_mean
from fsm.views import Views


@dataclass(frozen=True)
class Surfaces:
    """What is known of every pixel of views [b v] from all of them."""

    layers: Layers
    standing: Bool[Tensor, "b v 1 h w"]
    """Stands, by what was learnt and by the other views."""
    kept: Bool[Tensor, "b v 1 h w"]
    """Shows what no earlier view shows."""

    def __getitem__(self, index: slice) -> "Surfaces":
        """Those of some views."""
        return Surfaces(self.layers[index], self.standing[:, index], self.kept[:, index])


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
    return Surfaces(layers, standing, kept)


def spread_order(n: int) -> list[int]:
    """Numbers below n so that every beginning is spread over all: halves, quarters, and so on."""
    order, step = [], 1
    while step < n:
        step *= 2
    while step >= 1:
        order += [i for i in range(0, n, step) if i not in order]
        step //= 2
    return order
