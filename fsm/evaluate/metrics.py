"""PSNR, SSIM and LPIPS per image, with every choice that moves a number written down in
``Metrics.describe``.

Images are clamped to [0, 1] and rounded to 8 bits first, as a PNG would be: a number can then be
checked from saved pictures. Means are taken over per-image values, so they do not depend on how
images were batched.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from fsm.errors import InputError
from fsm.evaluate.lpips import LPIPS, spatial, total

MASKED = ("psnr_moving", "psnr_standing", "lpips_moving", "lpips_standing")
"""Of the pixels that show what moves, and of the others; where the truth tells them apart."""
METRIC_NAMES = ("psnr", "ssim", "lpips", "depth", *MASKED)
HIGHER_IS_BETTER = {name: name.startswith(("psnr", "ssim")) for name in METRIC_NAMES}
FEWEST = 1e-3
"""Share of a picture's pixels below which those that move, or those that stand, are not scored."""
PSNR_CEILING = 100.0
"""dB given to equal images, whose ratio is infinite; one level of one channel in one pixel of
128x128 is 95 dB.
"""
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def quantised(rgb: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """Clamp to [0, 1] and round to the nearest of 256 levels; NaN is an ``InputError``, not a black
    pixel.
    """
    if not bool(torch.isfinite(rgb).all()):
        raise InputError(
            "an image to be scored has NaN or infinite pixels; the model that made it has diverged."
        )
    return (rgb.float().clamp(0.0, 1.0) * 255.0).round() / 255.0


def psnr(
    prediction: Float[Tensor, "n 3 h w"],
    target: Float[Tensor, "n 3 h w"],
    mask: Bool[Tensor, "n 1 h w"] | None = None,
) -> Float64[Tensor, "n"]:
    """Peak signal-to-noise ratio in dB of each image clamped to [0, 1]: -10 log10 of the mean
    squared error.

    With ``mask`` the mean runs over its true pixels only. Equal images get ``PSNR_CEILING``. Raises
    ``InputError`` for an empty mask.
    """
    error = (prediction.clamp(0, 1).double() - target.clamp(0, 1).double()).square().mean(1)
    weight = torch.ones_like(error) if mask is None else mask[:, 0].double()
    count = weight.sum((1, 2))
    if bool((count == 0).any()):
        raise InputError(
            "PSNR of an image without any pixel in its mask is undefined; leave that frame out."
        )
    mse = (error * weight).sum((1, 2)) / count
    return (-10.0 * torch.log10(mse.clamp_min(10.0 ** (-PSNR_CEILING / 10.0)))).clamp_max(
        PSNR_CEILING
    )


def ssim(
    prediction: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]
) -> Float64[Tensor, "n"]:
    """Structural similarity (Wang et al. 2004) of each image in [0, 1], averaged over channels and
    all pixels.

    Gaussian window of 11 pixels with sigma 1.5, constants (0.01, 0.03), mirrored border, population
    variances: the definition of ``torchmetrics``. float64, because variances are differences of
    large sums.
    """
    height, width = prediction.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise InputError(
            f"SSIM needs images of at least {SSIM_WINDOW} pixels a side, found {(height, width)}."
        )
    x, y = prediction.double(), target.double()
    # A separable filter with its mirrored border is one small matrix a side. In float64 that is two
    # to four times as fast as kornia's filter, and equal to 1e-15.
    rows, columns = _blur_matrix(height).to(x.device), _blur_matrix(width).to(x.device).T
    mean_x, mean_y, squares, product = rows @ (torch.stack([x, y, x * x + y * y, x * y]) @ columns)
    c1, c2 = 0.01**2, 0.03**2
    means = mean_x.square() + mean_y.square()
    cross = mean_x * mean_y
    similarity = (
        (2 * cross + c1) * (2 * (product - cross) + c2) / ((means + c1) * (squares - means + c2))
    )
    return similarity.mean((1, 2, 3))


@functools.lru_cache(maxsize=8)
def _blur_matrix(size: int) -> Tensor:
    """[size, size] matrix that blurs a line with the SSIM window, its ends mirrored about the last
    pixel's centre.
    """
    offsets = torch.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    kernel = torch.exp(-(offsets.double() ** 2) / (2 * SSIM_SIGMA**2))
    source = torch.arange(size)[:, None] + offsets
    source = (size - 1) - (source.abs() - (size - 1)).abs()
    return torch.zeros(size, size, dtype=torch.float64).scatter_add(
        1, source, (kernel / kernel.sum()).expand(size, -1)
    )


def depth_errors(
    depth: Float[Tensor, "n 1 h w"], truth: Float[Tensor, "n 1 h w"]
) -> tuple[float | None, ...]:
    """Median of |z - z*| / z* of each image, over the pixels whose true z-depth z* is finite;
    None where there is none.

    A pixel left empty (z = 0) is off by 1. NaN and infinity are an ``InputError``.
    """
    if not bool(torch.isfinite(depth).all()):
        raise InputError(
            "a depth to be scored has NaN or infinite pixels; the model that made it has diverged."
        )
    errors: list[float | None] = []
    for z, true in zip(depth.double(), truth.double(), strict=True):
        known = torch.isfinite(true)
        off = ((z - true).abs() / true)[known]
        errors.append(float(off.median()) if len(off) else None)
    return tuple(errors)


@dataclass(frozen=True)
class ImageScore:
    """Numbers of one image; ``lpips`` is None where no weights were given, ``depth`` where truth or
    rendering lack it, those of moving and standing pixels where the truth does not tell them apart
    or there are hardly any.
    """

    psnr: float
    ssim: float
    lpips: float | None
    depth: float | None = None
    psnr_moving: float | None = None
    psnr_standing: float | None = None
    lpips_moving: float | None = None
    lpips_standing: float | None = None


@dataclass(frozen=True)
class Metrics:
    """What is measured. ``lpips`` None leaves that column empty, and the report says so."""

    lpips: LPIPS | None = None

    @torch.no_grad()
    def score(
        self,
        prediction: Float[Tensor, "n 3 h w"],
        target: Float[Tensor, "n 3 h w"],
        mask: Bool[Tensor, "n 1 h w"] | None = None,
        moving: Bool[Tensor, "n 1 h w"] | None = None,
    ) -> tuple[ImageScore, ...]:
        """Scores of each image. With ``mask``, PSNR counts its pixels; SSIM and LPIPS see black
        outside it. ``moving`` marks the pixels that show what moves.
        """
        scores = []
        # one by one: convolutions round differently in other batch sizes
        for i in range(len(target)):
            p, t = quantised(prediction[i : i + 1]), quantised(target[i : i + 1])
            m = None if mask is None else mask[i : i + 1]
            ratio = psnr(p, t, m).item()
            whole = (p, t)
            if m is not None:
                p, t = p * m, t * m
            maps = None if self.lpips is None else self.lpips.maps(p, t)
            distance = None if maps is None else total(maps).item()
            parts = {}
            if moving is not None:
                part = moving[i : i + 1]
                counted = torch.ones_like(part) if m is None else m
                parts = _masked(*whole, maps, counted & part, "moving")
                parts |= _masked(*whole, maps, counted & ~part, "standing")
            scores.append(ImageScore(ratio, ssim(p, t).item(), distance, **parts))
        return tuple(scores)

    def describe(self) -> dict[str, str]:
        """One sentence per metric, for the header of a report."""
        if self.lpips is None:
            lpips = "not measured: no LPIPS weights were given"
        else:
            lpips = (
                f"LPIPS v0.1, {self.lpips.net} trunk, weights {self.lpips.fingerprint()}, "
                "images in [-1, 1]"
            )
        return {
            "images": "sRGB clamped to [0, 1], rounded to 8 bits; no border is cut",
            "psnr": (
                f"dB, per image over all (or the mask's) pixels, {PSNR_CEILING:g} for equal images"
            ),
            "ssim": (
                f"Gaussian window {SSIM_WINDOW}, sigma {SSIM_SIGMA}, mirrored border, as "
                "torchmetrics"
            ),
            "lpips": lpips,
            "depth": (
                "median relative error of z-depth, over the pixels of an image that show a surface"
            ),
            "masked": (
                "moving and standing: PSNR over those pixels, LPIPS as the mean of its map there; "
                f"pictures with less than {FEWEST:.1%} of such pixels are left out"
            ),
            "mean": "over the images of a scene, then over scenes",
        }


def _masked(
    prediction: Float[Tensor, "1 3 h w"],
    target: Float[Tensor, "1 3 h w"],
    maps: Sequence[Float[Tensor, "1 _ _"]] | None,
    pixels: Bool[Tensor, "1 1 h w"],
    name: str,
) -> dict[str, float]:
    """PSNR and, from its ``maps``, LPIPS over ``pixels``; nothing where they are hardly any."""
    if float(pixels.float().mean()) < FEWEST:
        return {}
    found = {f"psnr_{name}": psnr(prediction, target, pixels).item()}
    if maps is not None:
        h, w = target.shape[-2:]
        found[f"lpips_{name}"] = spatial(maps, (h, w))[pixels[:, 0]].mean().item()
    return found


class RunningScores:
    """Collects scores image by image; the mean is that of the collected values, whatever the
    batches were.
    """

    def __init__(self) -> None:
        self.images: list[ImageScore] = []

    def add(self, scores: tuple[ImageScore, ...]) -> None:
        """Append the scores of some images."""
        self.images.extend(scores)

    def mean(self) -> ImageScore:
        """Mean of each metric over all images so far; raises ``InputError`` when there is none."""
        return mean_score(tuple(self.images))


def mean_score(scores: tuple[ImageScore, ...]) -> ImageScore:
    """Mean of each metric (correctly rounded sum, so that order does not matter); of depth and of
    moving and standing pixels over the images that have them.
    """
    if not scores:
        raise InputError("no image was scored, so there is no mean; check the protocol's targets.")

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)

    distances = [s.lpips for s in scores if s.lpips is not None]
    if distances and len(distances) != len(scores):
        raise InputError(
            "LPIPS was measured for some of the images only; score all of them in the same way."
        )
    optional: dict[str, float | None] = {}
    for name in ("depth", *MASKED):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        optional[name] = mean(values) if values else None
    return ImageScore(
        mean([s.psnr for s in scores]),
        mean([s.ssim for s in scores]),
        mean(distances) if distances else None,
        **optional,
    )
