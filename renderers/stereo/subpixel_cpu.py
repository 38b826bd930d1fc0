"""``subpixel.equations`` for float32 on the CPU, compiled: the rules of the plain form, which it is
tested against.

The same bits for any number of threads, which take rows of the views in turn.
"""

from jaxtyping import Float
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import subpixel_kernels as kernels
from fsm.renderers.stereo.config import SubpixelConfig
from fsm.renderers.stereo.sources import SourceViews


def equations_on_cpu(
    sources: SourceViews,
    maps: Float[Tensor, "b n hn wn 16"],
    rho: Float[Tensor, "b v 1 h w"],
    unit: Float[Tensor, "b v 1 h w"],
    config: SubpixelConfig,
) -> Float[Tensor, "b v 3 h w"]:
    """See ``subpixel.equations``. No gradients."""
    out, threads = rho.new_empty(*sources.index.shape[:2], 3, *sources.reference.hw), workers()
    given = (
        maps,
        sources.pictures.movedim(2, -1),
        sources.index,
        *sources.cameras.tensors(),
        sources.rays,
        rho[:, :, 0],
        unit[:, :, 0],
    )
    arrays = (t.detach().contiguous().numpy() for t in given)
    numbers = (config.outlier, config.unseen_misfit)
    on_threads(kernels.fill_equations, threads, threads, *numbers, *arrays, out.numpy())
    return out
