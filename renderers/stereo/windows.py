"""Means over square windows."""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.rays import full_precision


@full_precision
def window_mean(x: Float[Tensor, "b v c h w"], side: int) -> Float[Tensor, "b v c h w"]:
    """Mean over a square of odd ``side``, at the border over the part of it inside the picture.

    A product with a band matrix along each axis: for pictures of this size that is faster than
    pooling on the CPU.
    """
    return _band(x.shape[-2], side, x) @ (x @ _band(x.shape[-1], side, x).T)


def _band(size: int, side: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Row i holds the shares of the neighbours of i in its mean."""
    at = torch.arange(size, device=like.device)
    near = ((at[:, None] - at).abs() <= side // 2).to(like.dtype)
    return near / near.sum(1, keepdim=True)
