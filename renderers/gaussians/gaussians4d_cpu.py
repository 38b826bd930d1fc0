"""``Gaussians4D.condition`` and the two ``at`` for float32 on the CPU, compiled.

The plain forms in ``gaussians`` say what is computed and are what these are tested against.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import Kernel, on_threads, workers
from fsm.renderers.gaussians import gaussians4d_kernels as kernels
from fsm.renderers.gaussians.gaussians4d import Gaussians3D, Gaussians4D, MovingGaussians


def condition(g: Gaussians4D) -> MovingGaussians:
    """As functions of time; see ``gaussians.plain_condition``. Gradients reach scales and
    quaternions.
    """
    velocities, variances, covariances = _Condition.apply(g.scales, g.time_scales, g.left, g.right)
    return MovingGaussians(g.means, velocities, g.times, variances, covariances, g.opacities, g.sh)


class _Condition(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *free):  # pyright: ignore[reportIncompatibleMethodOverride]
        n, threads = len(free[0]), workers()
        out = tuple(np.empty((n, *tail), np.float32) for tail in ((3,), (), (6,)))
        on_threads(kernels.condition_all, threads, threads, *_arrays(*free), *out)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*free)
        return tuple(torch.from_numpy(a) for a in out)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):  # pyright: ignore[reportIncompatibleMethodOverride]
        free, threads = ctx.saved_tensors, workers()
        out = tuple(np.empty(t.shape, np.float32) for t in free)
        on_threads(
            kernels.condition_backward,
            threads,
            threads,
            *_arrays(*free),
            *_arrays(*gradients),
            *out,
        )
        return tuple(torch.from_numpy(a) for a in out)


def moving_at(g: MovingGaussians, time: float, min_weight: float) -> Gaussians3D:
    """Those there at ``time``, in their order; see ``gaussians.plain_at``. No gradients."""
    when = (*_arrays(g.times, g.time_variances), time)
    there = _found(kernels.find_moving, *when, min_weight)
    fields = _arrays(g.means, g.covariances, g.opacities, g.sh.flatten(1), g.velocities)
    return _written(kernels.write_moving, g.sh, *fields, *when, *there)


def free_at(g: Gaussians4D, time: float, min_weight: float) -> Gaussians3D:
    """The same of Gaussians that were not conditioned yet: only those there are."""
    when = (*_arrays(g.scales, g.time_scales, g.left, g.right, g.times), time)
    there = _found(kernels.find_free, *when, min_weight)
    return _written(
        kernels.write_free, g.sh, *when, *_arrays(g.means, g.opacities, g.sh.flatten(1)), *there
    )


def _found(kernel: Kernel, *when) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of those there, packed at the start of every block; how many; where their block
    ends.
    """
    *when, time, min_weight = when
    n, threads = len(when[0]), workers()
    index, counts = np.empty(n, np.int32), np.zeros(-(-n // kernels.BLOCK), np.int64)
    least = math.log(min_weight) if min_weight > 0.0 else math.nan  # NaN: all
    on_threads(kernel, threads, threads, *when, time, least, index, counts)
    return index, counts, np.cumsum(counts)


def _written(kernel: Kernel, sh: Float[Tensor, "n k 3"], *given) -> Gaussians3D:
    """What a kernel writes for those found; the last of ``given`` is what ``_found`` returned."""
    m, threads = int(given[-2].sum()), workers()
    out = tuple(np.empty((m, *tail), np.float32) for tail in ((3,), (6,), (), (3 * sh.shape[1],)))
    on_threads(kernel, threads, threads, *given, *out)
    means, covariances, opacities, coefficients = (torch.from_numpy(a) for a in out)
    return Gaussians3D(means, covariances, opacities, coefficients.view(m, *sh.shape[1:]))


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().contiguous().numpy() for t in tensors)
