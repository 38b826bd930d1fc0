"""One level of ``motion_guess`` for float32 on the CPU, compiled: the rules of the torch form,
which it is tested against.

The same bits for any number of threads, which take one target each.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import motion_kernels as kernels


def aligned_on_cpu(
    maps: Float[Tensor, "b n 3 hn wn"],
    chosen: Int[Tensor, "b v k"],
    start: Float[Tensor, "b v k 2 h w"],
    u: Float[Tensor, "b v 2 h w"],
    gaps: Float[Tensor, "b v k"],
    weights: Float[Tensor, "b v k"],
    iterations: int,
) -> Float[Tensor, "b v 2 h w"]:
    """See ``motion_guess.plain_aligned``. No gradients."""
    threads, out = workers(), u.clone(memory_format=torch.contiguous_format)
    given = (maps.movedim(2, -1), chosen, start, gaps, weights)
    on_threads(
        kernels.align,
        threads,
        threads,
        iterations,
        *(t.contiguous().numpy() for t in given),
        out.numpy(),
    )
    return out
