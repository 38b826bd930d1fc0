"""``subpixel.equations`` for float32 on the CPU, compiled: the rules of the torch form, which it is
tested against.

The same bits for any number of threads, which take rows of the views in turn.
"""

from jaxtyping import Float, Int
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import subpixel_kernels as kernels
from fsm.renderers.stereo.sources import cameras_from
from fsm.views import Views


def equations_on_cpu(
    views: Views,
    references: Views,
    maps: Float[Tensor, "b n hn wn 16"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
) -> Float[Tensor, "b v 3 h w"]:
    """See ``subpixel.plain_equations``. No gradients."""
    assert views.rgb is not None
    out, threads = rho.new_empty(*chosen.shape[:2], 3, *views.hw), workers()
    given = (
        maps,
        views.rgb.movedim(2, -1),
        chosen,
        cameras_from(views, references, chosen),
        views.intrinsics,
    )
    given = [t.detach().contiguous().numpy() for t in (*given, rho[:, :, 0])]
    on_threads(kernels.equations, threads, threads, *given, out.numpy())
    return out
