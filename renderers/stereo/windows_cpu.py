"""Means over windows and boxes, and slopes of pictures, for float32 on the CPU, compiled, without
gradients. The same bits for any number of threads, which take pictures in turn.
"""

from jaxtyping import Float
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import windows_kernels as kernels


def window_mean_on_cpu(x: Float[Tensor, "*b h w"], side: int) -> Float[Tensor, "*b h w"]:
    """See ``windows.window_mean``."""
    flat, threads = x.detach().reshape(-1, *x.shape[-2:]).contiguous(), workers()
    means = flat.new_empty(flat.shape)
    on_threads(kernels.average, threads, threads, side, flat.numpy(), means.numpy())
    return means.view(x.shape)


def box_mean_on_cpu(x: Float[Tensor, "*b h w"], hw: tuple[int, int]) -> Float[Tensor, "*b _h _w"]:
    """Means over boxes whose sides are whole: see ``windows.shrunk``."""
    flat, threads = x.detach().reshape(-1, *x.shape[-2:]).contiguous(), workers()
    means = flat.new_empty(len(flat), *hw)
    on_threads(kernels.shrink, threads, threads, flat.numpy(), means.numpy())
    return means.view(*x.shape[:-2], *hw)


def gradient_maps_on_cpu(frames: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n 9 h w"]:
    """See ``subpixel.gradient_maps``."""
    (b, n, _, h, w), threads = frames.shape, workers()
    maps = frames.new_empty(b, n, 9, h, w)
    given = frames.detach().contiguous().numpy()
    on_threads(kernels.differentiate, threads, threads, given, maps.numpy())
    return maps
