"""Two pictures side by side under one line. Pure functions of tensors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LINE = (1.0, 0.55, 0.0)
"""Colour of the line, sRGB: the orange of the nearest input camera."""
LINES = 400
"""The line is one pixel wide for as many pixels of the picture's width, at least one."""


@dataclass(frozen=True)
class Wipe:
    """What stands right of the line, and where the line is."""

    against: str | None
    """Name of another scene; None: the input frame of the moment."""
    at: float
    """Share of the width that lies left of the line, 0 to 1."""

    def column(self, width: int) -> int:
        """The first column of the right side in a picture ``width`` pixels wide: 0 all right,
        ``width`` all left.
        """
        return min(max(int(self.at * width + 0.5), 0), width)


def joined(
    left: Float[Tensor, "3 h w"], right: Float[Tensor, "3 h w"], column: int
) -> Float[Tensor, "3 h w"]:
    """``left`` before ``column``, ``right`` from it on, and between them a line; none where only
    one side is seen.
    """
    width = left.shape[-1]
    if column <= 0 or column >= width:
        return right if column <= 0 else left
    picture = torch.cat([left[..., :column], right[..., column:]], dim=-1)
    thickness = max(1, round(width / LINES))
    start = max(column - thickness // 2, 0)
    picture[..., start : start + thickness] = picture.new_tensor(LINE)[:, None, None]
    return picture
