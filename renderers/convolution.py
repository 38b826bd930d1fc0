"""Convolutional blocks that stereo and the decoder heads share."""

from typing import TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ConvTrunk(nn.ModuleList):
    """``depth`` residual 3x3 convolutions of one width: x + GELU(conv(x))."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Features of the same shape."""
        for layer in self:
            x = x + F.gelu(layer(x))
        return x


def zeroed(layer: Layer) -> Layer:
    """The layer with weights and bias zero: what it adds begins as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
