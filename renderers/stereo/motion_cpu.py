"""One level of ``image_velocity`` for float32 on the CPU, compiled: the rules of the plain form,
which it is tested against.

The same bits for any number of threads, which take one reference view each.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import motion_kernels as kernels
from fsm.renderers.stereo.config import MotionConfig


def alignment_on_cpu(
    maps: Float[Tensor, "b n 3 hn wn"],
    index: Int[Tensor, "b v k"],
    start: Float[Tensor, "b v k 2 h w"],
    u: Float[Tensor, "b v 2 h w"],
    gaps: Float[Tensor, "b v k"],
    config: MotionConfig,
) -> Float[Tensor, "b v 2 h w"]:
    """See ``motion.alignment``. No gradients."""
    threads, out = workers(), u.clone(memory_format=torch.contiguous_format)
    given = (maps.movedim(2, -1), index, start, gaps, 1.0 / (config.moment + gaps.square()))
    rules = (config.iterations, config.window, config.smoothing)
    arrays = (t.contiguous().numpy() for t in given)
    on_threads(
        kernels.align,
        threads,
        threads,
        *rules,
        config.damping,
        config.largest_step,
        *arrays,
        out.numpy(),
    )
    return out
