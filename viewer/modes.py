"""What a rendering can be shown as. Pure functions of tensors."""

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.sequence import colourise_depth
from fsm.views import Rendering, Views

Mode = Literal["Colour", "Depth", "Opacity", "Motion", "Flow", "Difference"]
MODES: tuple[Mode, ...] = get_args(Mode)
DIFFERENCE_GAIN = 4.0
"""A difference of a quarter is white: small ones must be seen."""
UNSEEN = 0.15
"""Grey of pixels that the input frame does not show."""


def colour(rendering: Rendering) -> Float[Tensor, "3 h w"]:
    """The picture itself, of the first view of ``rendering`` [v]."""
    return rendering.rgb[0].clamp(0, 1)


def depth(rendering: Rendering, limits: tuple[float, float]) -> Float[Tensor, "3 h w"]:
    """Depth in the turbo colour map between ``limits`` (near, far; the clip's unit); InputError
    where there is none.
    """
    if rendering.depth is None:
        raise InputError("this scene's model renders no depth; choose another mode.")
    return colourise_depth(rendering.depth[0], *limits)


def opacity(rendering: Rendering) -> Float[Tensor, "3 h w"]:
    """Opacity in grey, white where opaque; InputError where there is none."""
    if rendering.alpha is None:
        raise InputError("this scene's model renders no opacity; choose another mode.")
    return rendering.alpha[0].clamp(0, 1).expand(3, -1, -1)


def difference(rendering: Rendering, frame: Views, request: Views) -> Float[Tensor, "3 h w"]:
    """Absolute difference to an input ``frame`` [1] with rgb, times ``DIFFERENCE_GAIN``; grey where
    that shows nothing.

    ``request`` [1] is what was rendered; it must stand where the frame was taken, and may look
    elsewhere.
    """
    truth, seen = turned(frame, request)
    off = ((rendering.rgb[0].cpu() - truth).abs() * DIFFERENCE_GAIN).clamp(0, 1)
    return torch.where(seen, off, torch.full_like(off, UNSEEN))


def framed(frame: Views, request: Views) -> Float[Tensor, "3 h w"]:
    """The picture of an input ``frame`` [1] as ``request`` [1], at the same place, sees it; grey
    where it shows nothing.
    """
    truth, seen = turned(frame, request)
    return torch.where(seen, truth.clamp(0, 1), torch.full_like(truth, UNSEEN))


def bordered(picture: UInt8[ndarray, "h w 3"], aspect: float) -> UInt8[ndarray, "h2 w2 3"]:
    """``picture`` with grey borders on two sides that make it ``aspect`` wide to high."""
    h, w = picture.shape[:2]
    whole = np.full(
        (max(h, round(w / aspect)), max(w, round(h * aspect)), 3), round(255 * UNSEEN), np.uint8
    )
    top, left = (whole.shape[0] - h) // 2, (whole.shape[1] - w) // 2
    whole[top : top + h, left : left + w] = picture
    return whole


def turned(frame: Views, request: Views) -> tuple[Float[Tensor, "3 h w"], Bool[Tensor, "1 h w"]]:
    """The picture of ``frame`` [1] as a camera at the same place sees it, and where it has one.

    Views that share their centre are related by x' ~ K' R'^T R K^-1 x whatever the depth (Hartley
    and Zisserman, Multiple View Geometry, 8.4.2). Bilinear; averaged where the request is coarser
    than the frame.
    """
    if frame.rgb is None:
        raise InputError("this input frame has no picture to compare with; choose another mode.")
    coarser = min(1.0, float(request.intrinsics[0, 1] / frame.intrinsics[0, 1]))
    h, w = (max(1, round(side * coarser)) for side in frame.hw)
    frame = frame.resized((h, w))
    assert frame.rgb is not None
    fx, fy, cx, cy = request.intrinsics[0].double().cpu()
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) + 0.5 for n in request.hw), indexing="ij"
    )
    rays = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=-1)
    rotation = frame.c2w[0, :3, :3].double().cpu().T @ request.c2w[0, :3, :3].double().cpu()
    there = rays @ rotation.T
    fx, fy, cx, cy = frame.intrinsics[0].double().cpu()
    ahead = there[..., 2] > 1e-6
    z = torch.where(ahead, there[..., 2], torch.ones_like(x))
    u, v = fx * there[..., 0] / z + cx, fy * there[..., 1] / z + cy
    # Rounding must not make the frame's own outermost pixels unseen.
    inside = ahead & (u > -1e-3) & (u < w + 1e-3) & (v > -1e-3) & (v < h + 1e-3)
    grid = torch.stack([2 * u / w - 1, 2 * v / h - 1], dim=-1)[None].float()
    picture = F.grid_sample(
        frame.rgb.cpu(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return picture[0], inside[None]


def as_bytes(picture: Float[Tensor, "3 h w"]) -> UInt8[ndarray, "h w 3"]:
    """The picture as bytes, rounded."""
    levels = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous().cpu().numpy()
