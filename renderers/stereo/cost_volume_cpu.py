"""``cost_volume`` for float32 on the CPU, compiled, with the gradients of all maps written out.

The rules of the plain form, which it is tested against, without its samples of every map at every
depth. The same bits for any number of threads.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import on_threads, workers
from fsm.rays import full_precision
from fsm.renderers.stereo import cost_volume_kernels as kernels
from fsm.renderers.stereo.constants import COSTS
from fsm.renderers.stereo.sources import SourceViews


@full_precision
def cost_volume_on_cpu(
    sources: SourceViews,
    maps: Float[Tensor, "b n c hn wn"],
    reference_maps: Float[Tensor, "b v c h w"],
    inverse_depths: Float[Tensor, "*b d _h _w"],
    unseen_cost: float,
) -> Float[Tensor, "b v d 4 h w"]:
    """See ``cost_volume.cost_volume``; at most ``MOST_CHANNELS``, gradients for both maps only."""
    geometry = (sources.index, *sources.cameras.tensors(), sources.rays)
    depths = inverse_depths.detach().expand(
        *sources.index.shape[:2], inverse_depths.shape[-3], *sources.reference.hw
    )
    return _CostVolume.apply(  # pyright: ignore[reportReturnType]
        maps, reference_maps, unseen_cost, *(t.contiguous() for t in geometry), depths
    )


def _packed(maps: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b n h w lanes"]:
    """Channels last, filled up with zeros."""
    packed = maps.new_zeros(*maps.shape[:2], *maps.shape[3:], kernels.LANES)
    packed[..., : maps.shape[2]] = maps.movedim(2, -1)
    return packed


class _CostVolume(torch.autograd.Function):
    """Maps, reference maps, unseen cost, index, cameras, rays, depths -> costs [b v d 4 h w]."""

    @staticmethod
    def forward(ctx, maps, reference_maps, unseen_cost, *geometry):  # pyright: ignore[reportIncompatibleMethodOverride]
        given = (_packed(maps), _packed(reference_maps), *geometry)
        b, v, d, h, w = geometry[-1].shape
        costs, threads, channels = maps.new_empty(b, v, d, COSTS, h, w), workers(), maps.shape[2]
        arrays = (t.numpy() for t in (*given, costs))
        on_threads(kernels.fill_costs, threads, threads, channels, unseen_cost, *arrays)
        if any(ctx.needs_input_grad[:2]):
            ctx.save_for_backward(*given)
            ctx.channels = channels
        return costs

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        packed, pictures, index, *_ = given = [t.numpy() for t in ctx.saved_tensors]
        (b, n, hn, wn, _), threads = packed.shape, workers()
        groups = -(-index.shape[1] // kernels.TOGETHER)
        sums = np.zeros((b, groups, *packed.shape[1:]), np.float32)
        own = np.zeros_like(pictures)
        slopes = gradient.contiguous().numpy()
        on_threads(kernels.add_gradients, threads, threads, ctx.channels, *given, slopes, sums, own)
        out = gradient.new_empty(b, n, ctx.channels, hn, wn)
        on_threads(kernels.add_up, threads, threads, index, sums, out.numpy())
        own = torch.from_numpy(own[..., : ctx.channels]).movedim(-1, 2)
        return (out, own, *(None for _ in ctx.needs_input_grad[2:]))
