"""``projection.project_gaussians`` for CPU tensors, compiled, with its gradients written out.

The same rules and results as ``projection_plain``, which it is tested against. Gaussians are looked
at twice: once to see which show, once to write those where they belong, so that the order is theirs
for any number of threads.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import on_threads, workers
from fsm.rays import full_precision
from fsm.renderers.gaussians import projection_backward_kernels as backward_kernels
from fsm.renderers.gaussians import projection_kernels as kernels
from fsm.renderers.gaussians.constants import GUARD
from fsm.renderers.gaussians.types import Gaussians3D, Projection, Splats
from fsm.views import Views


@full_precision
def project_compiled(gaussians: Gaussians3D, camera: Views, projection: Projection) -> Splats:
    """See ``projection.project_gaussians``; the fields must be float32 on the CPU.

    Gradients reach every field of ``gaussians`` and no camera.
    """
    return Splats(*_Project.apply(*gaussians.tensors(), _describe(camera, projection)))


def _describe(camera: Views, projection: Projection) -> np.ndarray:
    """Camera and projection as the kernels read them: float64 that hold the float32 values the
    torch twin computes with.
    """
    c2w, k = camera.c2w[0].detach().float().numpy(), camera.intrinsics[0].detach().float().numpy()
    h, w = camera.hw
    fx, fy, cx, cy = (float(v) for v in k)
    x, y = sorted((-cx / fx, (w - cx) / fx)), sorted((-cy / fy, (h - cy) / fy))
    guard_x, guard_y = GUARD * 0.5 * w / abs(fx), GUARD * 0.5 * h / abs(fy)
    window = (x[0] - guard_x, x[1] + guard_x, y[0] - guard_y, y[1] + guard_y)
    limits = np.array([projection.near, projection.far], dtype=np.float32)
    values = (
        *c2w[:3, :3].T.flat,
        *c2w[:3, 3],
        *k,
        *window,
        w,
        h,
        *limits,
        projection.blur,
        projection.radius_clip,
    )
    return np.array([*values, projection.antialiased], dtype=np.float64)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, covariances, opacities, sh, camera):  # pyright: ignore[reportIncompatibleMethodOverride]
        arrays, n, threads = _arrays(means, covariances, opacities, sh), len(means), workers()
        index = np.empty(n, dtype=np.int32)
        counts = np.zeros((-(-n // kernels.BLOCK), 2), dtype=np.int64)
        on_threads(kernels.find_what_shows, threads, threads, *arrays, camera, index, counts)
        ends = np.cumsum(counts[:, 0])
        m, dropped = (int(total) for total in counts.sum(0))
        shown = np.empty(m, dtype=np.int32)
        out = tuple(
            np.empty((m, *tail), dtype=np.float32) for tail in ((2,), (3,), (), (), (3,), (2,))
        )
        on_threads(
            kernels.write_splats,
            threads,
            threads,
            *arrays,
            camera,
            index,
            counts,
            ends,
            shown,
            *out,
        )
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(means, covariances, opacities, sh)
            ctx.camera, ctx.shown = camera, shown
        result = tuple(torch.from_numpy(a) for a in out)
        ctx.mark_non_differentiable(result[-1])
        return (*result, dropped)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):  # pyright: ignore[reportIncompatibleMethodOverride]
        out = tuple(np.zeros(t.shape, dtype=np.float32) for t in ctx.saved_tensors)
        threads = workers()
        arrays = (*_arrays(*ctx.saved_tensors), ctx.camera, ctx.shown, *_arrays(*gradients[:5]))
        on_threads(backward_kernels.project_backward, threads, threads, *arrays, *out)
        return (*(torch.from_numpy(a) for a in out), None)


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(t.detach().contiguous().numpy() for t in tensors)
