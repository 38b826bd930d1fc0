"""Which views serve as source views of a reference view."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.sources import SourceViews, gather
from fsm.views import Views

# Entries of poses and times up to which two views are one: distances between equal cameras carry
# rounding.
SAME = 1e-6


@full_precision
def nearest_views(
    reference: Views, views: Views, count: int, *, others: bool = False
) -> tuple[Int[Tensor, "b v k"], Float[Tensor, "b v k"]]:
    """Indices of the ``count`` views nearest to each reference view, in time order, and their
    distances.

    Distance in model units: |Δt| + |Δcentre| + (1 - cos of the angle between forward axes),
    divided by its mean over the chosen. Where there are fewer views than ``count`` the nearest are
    taken more than once. ``others`` leaves out the reference view itself where it is one of
    several.
    """
    with torch.no_grad():
        dt = (reference.time[:, :, None] - views.time[:, None]).abs()
        dc = torch.cdist(reference.c2w[..., :3, 3], views.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", reference.c2w[..., :3, 2], views.c2w[..., :3, 2])
        distances = dt + dc + 1.0 - cos
        if others:
            distances = torch.where(_same(reference, views), torch.inf, distances)
        order = distances.sort(dim=-1, stable=True)
        left = distances.isfinite().sum(-1, keepdim=True).clamp_min(1)
        rank = torch.arange(count, device=dt.device) % left
        index = order.indices.gather(-1, rank)
        # infinite where the reference view is the only view
        score = order.values.gather(-1, rank).nan_to_num(posinf=0.0)
        by_time = gather(views.time, index).argsort(dim=-1, stable=True)
        index, score = index.gather(-1, by_time), score.gather(-1, by_time)
        return index, score / score.mean(-1, keepdim=True).clamp_min(1e-6)


def _same(reference: Views, views: Views) -> Bool[Tensor, "b v n"]:
    """Which views are the reference view: one place, one direction, one time."""
    moved = (reference.c2w[:, :, None] - views.c2w[:, None]).abs().amax((-1, -2))
    return (moved < SAME) & ((reference.time[:, :, None] - views.time[:, None]).abs() < SAME)


def spread_views(reference: Views, views: Views, count: int) -> Int[Tensor, "b v k"]:
    """Indices of ``count`` other views near each reference view but apart from one another, for
    parallax however dense the views are.

    Of at most 3 ``count`` views, evenly spread over all, the 2 ``count`` nearest, and of these
    every other in time.
    """
    n = views.time.shape[-1]
    sparse = torch.linspace(0, n - 1, min(n, 3 * count), device=views.time.device).round().long()
    index, _ = nearest_views(reference, views.without_rgb()[sparse], 2 * count, others=True)
    return sparse[index[..., ::2]]


def stereo_sources(reference: Views, views: Views, near: int) -> SourceViews:
    """Source views for depth: the ``near`` nearest, in which moving things hardly differ, and half
    as many that stand apart, never the reference view itself.
    """
    index, _ = nearest_views(reference, views, near, others=True)
    apart = spread_views(reference, views, max(1, near // 2))
    sources = SourceViews.of(reference, views, torch.cat([index, apart], dim=-1))
    return sources.compacted()
