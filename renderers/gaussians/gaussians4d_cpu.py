"""``Gaussians4D.condition`` and the two ``at`` for float32 on the CPU, compiled.

The plain forms in ``gaussians4d_plain`` say what is computed; these are tested against them.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import Kernel, on_threads, workers
from fsm.renderers.gaussians import gaussians4d_kernels as kernels
from fsm.renderers.gaussians.gaussians4d_backward_kernels import condition_backward
from fsm.renderers.gaussians.types import Gaussians3D


def condition(
    scales: Float[Tensor, "n 3"],
    time_scales: Float[Tensor, " n"],
    left: Float[Tensor, "n 4"],
    right: Float[Tensor, "n 4"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, "n 6"]]:
    """Velocity, variance over time and covariance; see ``gaussians4d_plain.condition``."""
    return _Condition.apply(scales, time_scales, left, right)


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
            condition_backward,
            threads,
            threads,
            *_arrays(*free),
            *_arrays(*gradients),
            *out,
        )
        return tuple(torch.from_numpy(a) for a in out)


def moving_at(
    time: float,
    min_weight: float,
    means: Float[Tensor, "n 3"],
    velocities: Float[Tensor, "n 3"],
    times: Float[Tensor, " n"],
    variances: Float[Tensor, " n"],
    covariances: Float[Tensor, "n 6"],
    opacities: Float[Tensor, " n"],
    sh: Float[Tensor, "n k 3"],
) -> Gaussians3D:
    """Those there at ``time``, in their order; see ``MovingGaussians.at``. No gradients."""
    when = (*_arrays(times, variances), time)
    there = _found(kernels.find_moving, *when, min_weight)
    fields = _arrays(means, covariances, opacities, sh.flatten(1), velocities)
    return _written(kernels.write_moving, sh, *fields, *when, *there)


def free_at(
    time: float,
    min_weight: float,
    means: Float[Tensor, "n 3"],
    times: Float[Tensor, " n"],
    scales: Float[Tensor, "n 3"],
    time_scales: Float[Tensor, " n"],
    left: Float[Tensor, "n 4"],
    right: Float[Tensor, "n 4"],
    opacities: Float[Tensor, " n"],
    sh: Float[Tensor, "n k 3"],
) -> Gaussians3D:
    """The same of Gaussians not conditioned yet; only those there are conditioned. No gradients."""
    when = (*_arrays(scales, time_scales, left, right, times), time)
    there = _found(kernels.find_free, *when, min_weight)
    fields = _arrays(means, opacities, sh.flatten(1))
    return _written(kernels.write_free, sh, *when, *fields, *there)


def _found(kernel: Kernel, *when) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of those there, packed at the start of every block; how many; where their block
    ends.
    """
    *when, time, min_weight = when
    n, threads = len(when[0]), workers()
    index, counts = np.empty(n, np.int32), np.zeros(-(-n // kernels.BLOCK), np.int64)
    # NaN: all
    least = math.log(min_weight) if min_weight > 0.0 else math.nan
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
