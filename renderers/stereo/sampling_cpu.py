"""``SourceViews.project`` and ``sample_maps`` for float32 on the CPU, compiled, without gradients:
the rules of the plain forms, which they are tested against.

The same bits for any number of threads, which take source views in turn.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import sampling_kernels as kernels


def arrays(*tensors: Tensor):
    """The tensors as contiguous arrays."""
    return tuple(t.detach().contiguous().numpy() for t in tensors)


def project_on_cpu(
    cameras: tuple[Tensor, ...],
    rays: Float[Tensor, "b v 3 h w"],
    motion: Float[Tensor, "b v 3 h w"],
    gaps: Float[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
    far: float,
) -> tuple[Float[Tensor, "b v k h w 2"], Float[Tensor, "b v k h w"], Float[Tensor, "b v k h w"]]:
    """Pixels, inverse depths and scales: see ``Projected``."""
    (b, v, k), (h, w), threads = cameras[0].shape[:3], rho.shape[-2:], workers()
    pixels = rho.new_empty(b, v, k, h * w, 2)
    inverse_depths, scales = rho.new_empty(2, b, v, k, h * w)
    given = arrays(*cameras, rays.flatten(3), motion.flatten(3), gaps, rho.flatten(2))
    found = (pixels.numpy(), inverse_depths.numpy(), scales.numpy())
    on_threads(kernels.project, threads, threads, far, *given, *found)
    return (
        pixels.unflatten(3, (h, w)),
        inverse_depths.unflatten(3, (h, w)),
        scales.unflatten(3, (h, w)),
    )


def sample_on_cpu(
    maps: Float[Tensor, "b n c hn wn"],
    index: Int[Tensor, "b v k"],
    pixels: Float[Tensor, "b v k h w 2"],
    mode: Literal["bilinear", "bicubic"],
) -> tuple[Float[Tensor, "b v k c h w"], Float[Tensor, "b v k 1 h w"]]:
    """See ``sources.sample_maps``."""
    (b, v, k, h, w, _), c, threads = pixels.shape, maps.shape[2], workers()
    samples, inside = pixels.new_empty(b, v, k, c, h * w), pixels.new_empty(b, v, k, h * w)
    given = arrays(maps, index, pixels.flatten(3, 4))
    found = (samples.numpy(), inside.numpy())
    on_threads(kernels.sample, threads, threads, mode == "bicubic", *given, *found)
    return samples.unflatten(4, (h, w)), inside.view(b, v, k, 1, h, w)
