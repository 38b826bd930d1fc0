"""``plane_sweep.disagreement`` for float32 on the CPU, compiled, with the gradients of all maps
written out.

The same rules and results as the torch form, which it is tested against, without its samples of
every map at every inverse depth. The same bits for any number of threads.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import on_threads, workers
from fsm.rays import full_precision
from fsm.renderers.stereo import cost_volume_kernels as kernels
from fsm.renderers.stereo.cost_volume import COSTS
from fsm.renderers.stereo.sources import cameras_from
from fsm.views import Views


@full_precision
def disagreement_on_cpu(
    requests: Views,
    cameras: Views,
    maps: Float[Tensor, "b n c hn wn"],
    own: Float[Tensor, "b v c h w"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v d 4 h w"]:
    """See ``plane_sweep.disagreement``; float32 and at most ``MOST_CHANNELS``. Gradients reach
    ``maps`` and ``own`` only.
    """
    with torch.no_grad():
        seen = cameras_from(requests, cameras, chosen)
        tried = rho.expand(*chosen.shape[:2], rho.shape[-3], *requests.hw)
        lenses = requests.intrinsics.contiguous()
    return _Disagreement.apply(maps, own, chosen.contiguous(), seen, lenses, tried)  # pyright: ignore[reportReturnType]


def _packed(maps: Float[Tensor, "b n c h w"]) -> Float[Tensor, "b n h w lanes"]:
    """Channels last, filled up with zeros."""
    packed = maps.new_zeros(*maps.shape[:2], *maps.shape[3:], kernels.LANES)
    packed[..., : maps.shape[2]] = maps.movedim(2, -1)
    return packed


class _Disagreement(torch.autograd.Function):
    """Maps, own maps, chosen, cameras, lenses, inverse depths -> cost [b v d 4 h w]."""

    @staticmethod
    def forward(ctx, maps, own, *given):  # pyright: ignore[reportIncompatibleMethodOverride]
        given = (_packed(maps), _packed(own), *given)
        b, v, d, h, w = given[-1].shape
        cost, threads, channels = maps.new_empty(b, v, d, COSTS, h, w), workers(), maps.shape[2]
        on_threads(
            kernels.disagree, threads, threads, channels, *(t.numpy() for t in (*given, cost))
        )
        if any(ctx.needs_input_grad[:2]):
            ctx.save_for_backward(*given)
            ctx.channels = channels
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        packed, pictures, chosen, *_ = given = [t.numpy() for t in ctx.saved_tensors]
        (b, n, hn, wn, _), threads = packed.shape, workers()
        groups = -(-chosen.shape[1] // kernels.TOGETHER)
        sums, own = np.zeros((b, groups, *packed.shape[1:]), np.float32), np.zeros_like(pictures)
        slopes = gradient.contiguous().numpy()
        on_threads(kernels.disagree_back, threads, threads, ctx.channels, *given, slopes, sums, own)
        out = gradient.new_empty(b, n, ctx.channels, hn, wn)
        on_threads(kernels.add_up, threads, threads, chosen, sums, out.numpy())
        return (
            out,
            torch.from_numpy(own[..., : ctx.channels]).movedim(-1, 2),
            None,
            None,
            None,
            None,
        )
