"""Occlusion: which source views see a point, judged by the reference view's own depth.

What hides a point from a source view is mostly in the reference view's picture, too. Every pixel is
written into the source view at the place where it is sampled (a z-buffer); where a nearer one has
been written to the same place, the farther one is hidden. Nothing is learnt here.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import LayerConfig
from fsm.renderers.stereo.sources import Projected, SourceViews, compiles


@torch.no_grad()
@full_precision
def visible(
    sources: SourceViews,
    pixels: Float[Tensor, "b v k h w 2"],
    rho: Float[Tensor, "b v 1 h w"],
    config: LayerConfig,
) -> Float[Tensor, "b v k 1 h w"]:
    """1 where source view k shows the reference view's point at ``pixels``, 0 where a nearer point
    of the reference view stands there.

    ``rho`` is the reference views' inverse z-depth, model units. Points outside a source view or
    behind it count as visible: samples tell that themselves. A constant for autograd.
    """
    projected = sources.project(rho.clamp_min(0.0))
    there = Projected(pixels, projected.inverse_depth, projected.scale, projected.hw)
    given = (pixels, projected.inverse_depth)
    if compiles(sources.reference.hw, *given):
        from fsm.renderers.stereo.warp_cpu import visible_on_cpu

        return visible_on_cpu(there, config)
    return plain_visible(there, config)


def plain_visible(there: Projected, config: LayerConfig) -> Float[Tensor, "b v k 1 h w"]:
    """``visible`` for points of known places, in torch, on any device and in any precision."""
    h, w = there.hw
    depth = there.inverse_depth.flatten(0, 2).flatten(1)
    inside = there.inside.flatten(0, 2).flatten(1)
    buffer = depth.new_zeros(len(depth), h * w)
    value = torch.where(inside, depth, torch.zeros_like(depth))
    x, y = (t.flatten(0, 2).flatten(1) for t in there.pixels.unbind(-1))
    for place in splat_places(x, y, h, w):
        buffer.scatter_reduce_(1, place, value, "amax")
    front = buffer.gather(1, pixel_index(x, y, h, w))
    hidden = inside & (depth < config.same_surface * front - config.slack)
    return (~hidden).float().view_as(there.inverse_depth)[:, :, :, None]


def splat_places(
    x: Float[Tensor, "m n"], y: Float[Tensor, "m n"], h: int, w: int
) -> list[Int[Tensor, "m n"]]:
    """Where points are written: all pixels of a picture whose centres are nearer than 0.75 along
    each axis, so that few holes are left.
    """
    return [pixel_index(x + dx, y + dy, h, w) for dx in (-0.25, 0.25) for dy in (-0.25, 0.25)]


def pixel_index(
    x: Float[Tensor, "m n"], y: Float[Tensor, "m n"], h: int, w: int
) -> Int[Tensor, "m n"]:
    """Index into the pixels of a picture of the one that holds each place, or the nearest."""
    column, row = ((t - 0.5).nan_to_num().round() for t in (x, y))
    return row.clamp(0, h - 1).long() * w + column.clamp(0, w - 1).long()
