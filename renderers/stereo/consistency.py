"""Geometric consistency: which depths the other source views of a target contradict.

Every pixel of a source view is projected into the others and compared with the depth found there
(Merrell et al. 2007). Depth is contradicted where another view sees through it and none supports
it. A wrong depth mostly floats before a surface, and other views look through it. So they do where
something has moved by its own size: its depth was measured as parallax together with its motion,
and is wrong as a rule. Nothing is learnt here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import ConsistencyConfig
from fsm.renderers.stereo.sources import Projected, SourceViews, compiles


@torch.no_grad()
@full_precision
def contradicted(
    views: SourceViews,
    counted: Bool[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
    motion: Float[Tensor, "b v 3 h w"],
    config: ConsistencyConfig,
) -> Bool[Tensor, "b v 1 h w"]:
    """Where the inverse depth ``rho`` of a view, with its ``motion`` (see ``SourceViews.project``),
    is seen through by one source view and supported by none.

    The source views are among the reference views themselves, all of one size; those not
    ``counted`` say nothing. Model units.
    """
    given = (*views.cameras.tensors(), views.rays, rho, motion)
    if compiles(views.reference.hw, *given):
        from fsm.renderers.stereo.warp_cpu import contradicted_on_cpu

        return contradicted_on_cpu(views, counted, rho, motion, config)
    return plain_contradicted(views, counted, rho, motion, config)


def plain_contradicted(
    views: SourceViews,
    counted: Bool[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
    motion: Float[Tensor, "b v 3 h w"],
    config: ConsistencyConfig,
) -> Bool[Tensor, "b v 1 h w"]:
    """``contradicted`` in torch, on any device and in any precision."""
    seen = views.project(rho, motion)
    inside = seen.inside & counted[..., None, None]
    there = seen.inverse_depth + config.slack
    near, far = depths_there(views, seen, rho, config.slack, config.neighbourhood)
    supported = inside & (there > config.support * far) & (near > config.support * there)
    through = inside & (config.seen_through * there > near)
    return (through.any(2) & ~supported.any(2))[:, :, None]


def depths_there(
    sources: SourceViews,
    seen: Projected,
    rho: Float[Tensor, "b n 1 hn wn"],
    slack: float,
    side: int = 3,
) -> tuple[Float[Tensor, "b v k h w"], Float[Tensor, "b v k h w"]]:
    """Largest and least inverse depth, and ``slack``, that the source views have where they see
    points, in squares of ``side`` pixels; ``rho`` is that of all ``sources.views``.
    """
    nearest, farthest = (
        at_pixels(sources, seen, sign * F.max_pool2d(sign * rho[:, :, 0], side, 1, side // 2))
        for sign in (1, -1)
    )
    return nearest + slack, farthest + slack


def at_pixels(
    sources: SourceViews, seen: Projected, maps: Shaped[Tensor, "b n hn wn"]
) -> Shaped[Tensor, "b v k h w"]:
    """Values of maps of all ``sources.views`` in the pixels where source views see points."""
    h, w = maps.shape[-2:]
    column, row = (
        t.clamp(0, size - 1).long() for t, size in zip(seen.pixels.unbind(-1), (w, h), strict=True)
    )
    place = (row * w + column).flatten(3)
    sample = torch.arange(len(maps), device=maps.device)[:, None, None]
    return maps.flatten(2)[sample, sources.index].gather(3, place).view_as(row)


def other_sources(
    index: Int[Tensor, "b v k"],
) -> tuple[Int[Tensor, "b vk j"], Bool[Tensor, "b vk j"]]:
    """For every source view of a target the other ones, as places in [b vk]; and which of them are
    another view: where views are few, one is chosen more than once.
    """
    b, v, k = index.shape
    steps = torch.arange(1, k, device=index.device)
    slots = (torch.arange(k, device=index.device)[:, None] + steps) % k
    own = torch.arange(v, device=index.device)[:, None, None] * k
    places = (own + slots).flatten(0, 1).expand(b, -1, -1)
    flat = index.flatten(1)
    others = flat.gather(1, places.flatten(1)).view(places.shape)
    return places, others != flat[..., None]
