"""Means over square windows and over boxes."""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.kernels.dispatch import runs_compiled
from fsm.rays import full_precision
from fsm.views import resize_images


@full_precision
def window_mean(x: Float[Tensor, "b v c h w"], side: int) -> Float[Tensor, "b v c h w"]:
    """Mean over a square of odd ``side``, at the border over the part of it inside the picture.

    Float32 on the CPU is computed by compiled code, without gradients.
    """
    if runs_compiled(constants=(x,)):
        from fsm.renderers.stereo.windows_cpu import window_mean_on_cpu

        return window_mean_on_cpu(x, side)
    return plain_window_mean(x, side)


def plain_window_mean(x: Float[Tensor, "b v c h w"], side: int) -> Float[Tensor, "b v c h w"]:
    """``window_mean`` in torch: a product with a band matrix along each axis."""
    return _band(x.shape[-2], side, x) @ (x @ _band(x.shape[-1], side, x).T)


def shrunk(images: Float[Tensor, "*b c h w"], hw: tuple[int, int]) -> Float[Tensor, "*b c _h _w"]:
    """``resize_images``, by compiled code where that can do it: float32 on the CPU, sides that
    shrink by whole factors, no gradients.
    """
    (h, w), (new_h, new_w) = images.shape[-2:], hw
    if (h, w) == (new_h, new_w):
        return images
    if h % new_h == 0 and w % new_w == 0 and runs_compiled(constants=(images,)):
        from fsm.renderers.stereo.windows_cpu import box_mean_on_cpu

        return box_mean_on_cpu(images, hw)
    return resize_images(images, hw)


def _band(size: int, side: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Row i holds the shares of the neighbours of i in its mean."""
    at = torch.arange(size, device=like.device)
    near = ((at[:, None] - at).abs() <= side // 2).to(like.dtype)
    return near / near.sum(1, keepdim=True)
