"""Convolutional blocks that stereo and the decoder heads share."""

from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Conv(nn.Conv2d):
    """A convolution that runs in bfloat16 where the CPU has matrix units for it (AMX) and no
    gradient is asked for: five times as fast. Weights, input and output stay float32.
    """

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d _h _w"]:
        """Features of the type of ``input``."""
        if input.dtype != torch.float32 or torch.is_grad_enabled() or not _rounds(input.device):
            return super().forward(input)
        bias = None if self.bias is None else self.bias.bfloat16()
        return self._conv_forward(input.bfloat16(), self.weight.bfloat16(), bias).float()


def _rounds(device: torch.device) -> bool:
    return device.type == "cpu" and has_matrix_units()


@cache
def has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices several times as fast as float32 (AMX)."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


class ConvTrunk(nn.ModuleList):
    """``depth`` residual 3x3 convolutions of one width: x + GELU(conv(x))."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__(Conv(width, width, 3, padding=1) for _ in range(depth))

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
