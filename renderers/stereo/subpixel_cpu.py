"""``subpixel.equations`` for float32 on the CPU, compiled: the rules of the plain form, which it is
tested against.

The same bits for any number of threads, which take runs of pixels in turn.
"""

from jaxtyping import Float
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import subpixel_kernels as kernels
from fsm.renderers.stereo.config import SubpixelConfig
from fsm.renderers.stereo.sources import SourceViews


def equations_on_cpu(
    sources: SourceViews,
    maps: Float[Tensor, "b n 9 hn wn"],
    rho: Float[Tensor, "b v 1 h w"],
    unit: Float[Tensor, "b v 1 h w"],
    config: SubpixelConfig,
) -> Float[Tensor, "b v 3 h w"]:
    """See ``subpixel.equations``. No gradients."""
    hw, threads = sources.reference.hw, workers()
    out = rho.new_empty(*sources.index.shape[:2], 3, hw[0] * hw[1])
    given = (
        maps,
        sources.pictures.flatten(3),
        sources.index,
        *sources.cameras.tensors(),
        sources.rays.flatten(3),
        rho.flatten(2),
        unit.flatten(2),
    )
    arrays = (t.detach().contiguous().numpy() for t in given)
    numbers = (config.outlier, config.unseen_misfit)
    on_threads(kernels.fill_equations, threads, threads, *numbers, *arrays, out.numpy())
    return out.unflatten(3, hw)
