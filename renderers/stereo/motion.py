"""Motion between frames: along which path through time do the source views agree?

Around a reference view's moment a point is taken to move on a straight line in the image: source
view k, at relative time gap g_k, sees it at  base_k + u g_k.  At every pixel the samples are fitted
by  A + D g;  alignment means D = 0, and a Gauss-Newton step solves  Σ (∇A ∇Aᵀ + λ) δu = -Σ ∇A D
over a small window (Lucas and Kanade 1981), coarse to fine. Nothing is learnt here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.kernels.dispatch import runs_compiled
from fsm.rays import full_precision
from fsm.renderers.stereo.config import MotionConfig
from fsm.renderers.stereo.constants import LEAST_WEIGHT
from fsm.renderers.stereo.motion_plain import plain_alignment
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.windows import shrunk, window_mean


@torch.no_grad()
@full_precision
def image_velocity(
    sources: SourceViews, base: Float[Tensor, "b v k h w 2"], config: MotionConfig
) -> Float[Tensor, "b v 1 h w 2"]:
    """Velocity u in pixels per unit of ``sources.relative_gaps`` that aligns the samples taken at
    ``base + u gaps``; a constant for autograd.

    A level that would be smaller than the window is left out.
    """
    b, v, _, h, w, _ = base.shape
    sources = sources.compacted()
    frames, gaps = sources.frames.float(), sources.relative_gaps
    velocity = base.new_zeros(b, v, 2, h, w)
    planar = base.movedim(-1, 3).float().contiguous()
    for stride in config.strides:
        hw = (h // stride, w // stride)
        if min(hw) < config.window:
            continue
        maps = shrunk(frames, (frames.shape[-2] // stride, frames.shape[-1] // stride))
        start = shrunk(planar, hw) / stride
        u = shrunk(velocity, hw) / stride
        u = alignment(maps, sources.index, start, u, gaps, config)
        velocity = F.interpolate(
            u.flatten(0, 1) * stride, size=(h, w), mode="bilinear", align_corners=False
        ).view(b, v, 2, h, w)
    return velocity.movedim(2, -1)[:, :, None]


@torch.no_grad()
@full_precision
def acceptance(
    sources: SourceViews,
    base: Float[Tensor, "b v k h w 2"],
    moved: Float[Tensor, "b v k h w 2"],
    weights: Float[Tensor, "b v k 1 h w"],
    config: MotionConfig,
) -> Float[Tensor, "b v 1 h w 1"]:
    """How far the samples at ``moved`` agree better than those at ``base``, from 0 to 1;
    ``weights`` are those of the samples. A constant for autograd.

    Where a surface is hidden from a source view, a path through time that seems to fit is wrong.
    """
    (here, inside_here), (there, inside_there) = (
        sources.sample(sources.frames.float(), at) for at in (base, moved)
    )
    # leaving the picture is no way to agree
    weights = weights * inside_here * inside_there + LEAST_WEIGHT
    before, after = (_disagreement(s, weights, config.gain_window) for s in (here, there))
    gain = ((before + config.noise) / (after + config.noise)).log()
    return torch.sigmoid((gain - config.least_gain) / config.gain_width).movedim(2, -1)[:, :, None]


def _disagreement(
    samples: Float[Tensor, "b v k c h w"], weights: Float[Tensor, "b v k 1 h w"], side: int
) -> Float[Tensor, "b v 1 h w"]:
    """Mean distance of the samples from their mean, over a window."""
    weights = weights / weights.sum(2, keepdim=True)
    mean = (samples * weights).sum(2, keepdim=True)
    return window_mean(((samples - mean).abs() * weights).sum(2).mean(2, keepdim=True), side)


def alignment(
    maps: Float[Tensor, "b n 3 hn wn"],
    index: Tensor,
    start: Float[Tensor, "b v k 2 h w"],
    u: Float[Tensor, "b v 2 h w"],
    gaps: Float[Tensor, "b v k"],
    config: MotionConfig,
) -> Float[Tensor, "b v 2 h w"]:
    """Velocities after some steps from ``u`` on one level, in its pixels; ``index`` is [b v k].

    Float32 on the CPU is computed by compiled code, without gradients.
    """
    if runs_compiled(constants=(maps, start, u, gaps)):
        from fsm.renderers.stereo.motion_cpu import alignment_on_cpu

        return alignment_on_cpu(maps, index, start, u, gaps, config)
    return plain_alignment(maps, index, start, u, gaps, config)
