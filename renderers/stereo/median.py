"""Median of inverse depth over small squares: it removes single wrong pixels, which a camera beside
the path sees as specks in front of a surface, and keeps depth edges.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

COMPILED = (3, 5)  # sides that OpenCV knows for floats


@torch.no_grad()
def median(maps: Float[Tensor, "b v 1 h w"], side: int) -> Float[Tensor, "b v 1 h w"]:
    """Median over squares of odd ``side`` about every pixel, borders repeated; a constant for
    autograd.
    """
    if side == 1:
        return maps
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    if maps.device.type != "cpu" or maps.dtype != torch.float32 or side not in COMPILED:
        return plain_median(flat, side).view_as(maps)
    import cv2

    found = np.stack([cv2.medianBlur(m, side) for m in flat[:, 0].numpy()])
    return torch.from_numpy(found).view_as(maps)


def plain_median(maps: Float[Tensor, "n 1 h w"], side: int) -> Float[Tensor, "n 1 h w"]:
    """``median`` in torch, on any device and in any precision."""
    around = F.unfold(F.pad(maps, [side // 2] * 4, mode="replicate"), side)
    return around.median(1, keepdim=True).values.view_as(maps)
