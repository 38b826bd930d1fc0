"""The refinement loss: absolute error and structural similarity, as in 3D Gaussian splatting (arXiv
2308.04079, Eq. 7).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import on_threads, workers
from fsm.refine import kernels

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def photometric_loss(
    rgb: Float[Tensor, "v 3 h w"],
    target: Float[Tensor, "v 3 h w"],
    mask: Bool[Tensor, "v 1 h w"] | None,
    ssim_weight: float,
) -> Float[Tensor, ""]:
    """(1 - w) · mean |error| + w · (1 - SSIM). Outside ``mask`` both are black."""
    if mask is not None:
        rgb, target = torch.where(mask, rgb, 0.0), torch.where(mask, target, 0.0)
    loss = (1.0 - ssim_weight) * (rgb - target).abs().mean()
    return loss if ssim_weight == 0.0 else loss + ssim_weight * (1.0 - mean_similarity(rgb, target))


def mean_similarity(a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]) -> Float[Tensor, ""]:
    """Mean of ``similarity``; compiled on a processor, where no gradient of ``b`` is asked for."""
    if a.device.type == "cpu" and a.dtype == b.dtype == torch.float32 and not b.requires_grad:
        value = _MeanSimilarity.apply(a, b)
        assert isinstance(value, Tensor)
        return value
    return similarity(a, b).mean()


def similarity(
    a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
) -> Float[Tensor, "v 3 h w"]:
    """SSIM of every pixel (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5) in single
    precision.

    Zeros lie beyond the border. For training; the metric is ``fsm.evaluate.metrics.ssim``.
    """
    mean_a, aa, ab = _Blur.apply(torch.stack([a, a * a, a * b])).unbind()  # pyright: ignore[reportOptionalMemberAccess]
    mean_b, bb = _blurred(torch.stack([b, b * b])).unbind()
    var_a, var_b, cov = aa - mean_a.square(), bb - mean_b.square(), ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return luminance * (2 * cov + C2) / (var_a + var_b + C2)


class _MeanSimilarity(torch.autograd.Function):
    """With x̄ for a blurred picture: the derivative by a is that by ā, blurred, and so on."""

    @staticmethod
    def forward(ctx, a, b):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b, n = a.detach(), b.detach(), workers()
        means = _blurred(torch.stack([a, a * a, a * b, b, b * b])).flatten(1)
        out = torch.empty(4, a.numel())
        given = means.numpy(), out.numpy()
        on_threads(kernels.similarity_terms, n, n, *given, C1, C2)
        ctx.save_for_backward(a, b, out[1:].view(3, *a.shape))
        return out[0].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        a, b, slopes = ctx.saved_tensors
        mean, square, product = _blurred(slopes)
        return mean.add_(2.0 * a * square).add_(b * product).mul_(gradient / a.numel()), None


class _Blur(torch.autograd.Function):
    """The window is symmetric and zeros lie beyond the border: blurring is its own transpose."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return _blurred(images)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _blurred(grad_outputs[0])


def _blurred(images: Tensor) -> Tensor:
    """Pictures [... h w] blurred with the window: by OpenCV on a CPU, where it is ten times as fast
    as a convolution here.
    """
    offsets = torch.arange(WINDOW) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA).square())
    kernel = (kernel / kernel.sum()).to(images)
    flat = images.detach().reshape(-1, 1, *images.shape[-2:])
    if images.device.type != "cpu":
        rows = F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, WINDOW // 2))
        return F.conv2d(rows, kernel.view(1, 1, -1, 1), padding=(WINDOW // 2, 0)).view_as(images)
    import cv2

    line, out = kernel.numpy(), torch.empty_like(flat)
    for picture, place in zip(flat[:, 0].contiguous().numpy(), out[:, 0].numpy(), strict=True):
        cv2.sepFilter2D(picture, -1, line, line, dst=place, borderType=cv2.BORDER_CONSTANT)
    return out.view_as(images)
