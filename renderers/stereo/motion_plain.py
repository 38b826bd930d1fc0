"""One level of ``image_velocity`` in torch, on any device and in any precision."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.renderers.stereo.config import MotionConfig
from fsm.renderers.stereo.constants import LEAST_VARIANCE, LEAST_WEIGHT
from fsm.renderers.stereo.sources import sample_maps
from fsm.renderers.stereo.windows import window_mean


def plain_alignment(
    maps: Float[Tensor, "b n 3 hn wn"],
    index: Int[Tensor, "b v k"],
    start: Float[Tensor, "b v k 2 h w"],
    u: Float[Tensor, "b v 2 h w"],
    gaps: Float[Tensor, "b v k"],
    config: MotionConfig,
) -> Float[Tensor, "b v 2 h w"]:
    """See ``motion.alignment``."""
    gap = gaps[..., None, None, None]
    weights = 1.0 / (config.moment + gap.square())
    for _ in range(config.iterations):
        at = start + u[:, :, None] * gap
        samples, inside = sample_maps(maps, index, at.movedim(3, -1))
        step = _step(samples, weights * (inside + LEAST_WEIGHT), gap, config)
        u = window_mean(u + step, config.smoothing)
    return u


def _step(
    samples: Float[Tensor, "b v k 3 h w"],
    weights: Float[Tensor, "b v k 1 h w"],
    gaps: Float[Tensor, "b v k 1 1 1"],
    config: MotionConfig,
) -> Float[Tensor, "b v 2 h w"]:
    """One Gauss-Newton step towards samples that do not change along the path."""
    total = weights.sum(2)
    mean_gap = (weights * gaps).sum(2) / total
    mean = (weights * samples).sum(2) / total
    centred = gaps - mean_gap[:, :, None]
    variance = (weights * centred.square()).sum(2) / total
    slope = (weights * centred * samples).sum(2) / total / variance.clamp_min(LEAST_VARIANCE)
    present = mean - slope * mean_gap
    gy, gx = torch.gradient(present, dim=(-2, -1))
    products = (gx * gx, gx * gy, gy * gy, gx * slope, gy * slope)
    sums = window_mean(torch.stack([p.sum(2) for p in products], dim=2), config.window)
    xx, xy, yy, xt, yt = sums.unbind(2)
    xx, yy = xx + config.damping, yy + config.damping
    determinant = xx * yy - xy * xy
    step = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=2) / determinant[:, :, None]
    step = step * (variance > LEAST_VARIANCE)
    return step.clamp(-config.largest_step, config.largest_step)
