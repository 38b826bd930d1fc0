"""A first guess of motion from the reference frames themselves: along which path through time do
they agree?

Around a target's moment a point is taken to move on a straight line in the image: reference k, at
signed time gap g_k, sees it at  base_k + u g_k.  At every pixel the samples are fitted by  A + D g
; alignment means D = 0, and a Gauss-Newton step solves  Σ (∇A ∇Aᵀ + λ) δu = -Σ ∇A D  over a small
window (Lucas and Kanade 1981), coarse to fine. Nothing is learnt here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.sources import averaged, sample_frames
from fsm.views import resize_images

# sides over which equations, velocities and what they gain are averaged
WINDOW, SMOOTHED, JUDGED = 5, 3, 7
# of squared image gradients in [0, 1] per pixel: below it a window has no texture to follow
DAMPING = 3e-4
# pixels of the level per iteration; a longer step leaves the range where the linear model holds
LARGEST_STEP = 1.0
LEAST_VARIANCE = 1e-6  # of the gaps: one moment says nothing about motion
EVERYWHERE = 1e-6  # what a sample counts outside its frame, so that weights never vanish
LEAST_GAIN, DOUBT = (
    0.15,
    0.05,
)  # logarithm of what a motion makes of the disagreement at which it is half believed; its width
NOISE = 1e-3  # disagreement in colours from 0 to 1 that says nothing


@torch.no_grad()
@full_precision
def motion_guess(
    frames: Float[Tensor, "b n 3 hn wn"],
    chosen: Int[Tensor, "b v k"],
    base: Float[Tensor, "b v k h w 2"],
    gaps: Float[Tensor, "b v k"],
    *,
    strides: tuple[int, ...] = (8, 4, 2),
    iterations: int = 4,
) -> Float[Tensor, "b v 1 h w 2"]:
    """Velocity u in pixels per unit of ``gaps`` that aligns the samples of ``frames`` taken at
    ``base + u gaps``.

    ``strides`` are the pixel strides of the levels, coarsest first; a level that would be smaller
    than the window is left out. A constant for autograd.
    """
    b, v, _, h, w, _ = base.shape
    # the cost must not grow with the length of the clip
    used, chosen = chosen.unique(return_inverse=True)
    frames = frames[:, used].float()
    velocity = base.new_zeros(b, v, 2, h, w)
    weights = 1.0 / (0.25 + gaps.square())
    for stride in strides:
        hw = (h // stride, w // stride)
        if min(hw) < WINDOW:
            continue
        maps = resize_images(frames, (frames.shape[-2] // stride, frames.shape[-1] // stride))
        start = resize_images(base.movedim(-1, 3).float(), hw) / stride
        u = _aligned(
            maps, chosen, start, resize_images(velocity, hw) / stride, gaps, weights, iterations
        )
        velocity = F.interpolate(
            u.flatten(0, 1) * stride, size=(h, w), mode="bilinear", align_corners=False
        ).view(b, v, 2, h, w)
    return velocity.movedim(2, -1)[:, :, None]


@torch.no_grad()
@full_precision
def belief(
    frames: Float[Tensor, "b n 3 hn wn"],
    chosen: Int[Tensor, "b v k"],
    base: Float[Tensor, "b v k h w 2"],
    moved: Float[Tensor, "b v k h w 2"],
    counted: Float[Tensor, "b v k 1 h w"],
) -> Float[Tensor, "b v 1 h w 1"]:
    """How far the samples at ``moved`` agree better than those at ``base``, from 0 to 1;
    ``counted`` is each sample's weight.

    Where a surface is hidden from a reference, a path through time that seems to fit is a wrong
    one. A constant for autograd.
    """
    (here, inside_here), (there, inside_there) = (
        sample_frames(frames.float(), chosen, at) for at in (base, moved)
    )
    # leaving the picture is no way to agree
    weight = counted * inside_here * inside_there + EVERYWHERE
    gain = ((_spread(here, weight) + NOISE) / (_spread(there, weight) + NOISE)).log()
    return torch.sigmoid((gain - LEAST_GAIN) / DOUBT).movedim(2, -1)[:, :, None]


def _spread(
    samples: Float[Tensor, "b v k c h w"], weight: Float[Tensor, "b v k 1 h w"]
) -> Float[Tensor, "b v 1 h w"]:
    """Mean distance of the samples from their mean, over a window."""
    weight = weight / weight.sum(2, keepdim=True)
    mean = (samples * weight).sum(2, keepdim=True)
    return averaged(((samples - mean).abs() * weight).sum(2).mean(2, keepdim=True), JUDGED)


def _aligned(
    maps: Tensor,
    chosen: Tensor,
    start: Tensor,
    u: Tensor,
    gaps: Tensor,
    weights: Tensor,
    iterations: int,
):
    """``plain_aligned``; float32 on the CPU is computed by compiled code."""
    if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (maps, start, u, gaps)):
        from fsm.renderers.stereo.motion_cpu import aligned_on_cpu

        return aligned_on_cpu(maps, chosen, start, u, gaps, weights, iterations)
    return plain_aligned(maps, chosen, start, u, gaps, weights, iterations)


def plain_aligned(
    maps: Float[Tensor, "b n 3 hn wn"],
    chosen: Int[Tensor, "b v k"],
    start: Float[Tensor, "b v k 2 h w"],
    u: Float[Tensor, "b v 2 h w"],
    gaps: Float[Tensor, "b v k"],
    weights: Float[Tensor, "b v k"],
    iterations: int,
) -> Float[Tensor, "b v 2 h w"]:
    """Velocities after some steps from ``u`` on one level, in its pixels; ``weights`` are of the
    references.
    """
    gap = gaps[..., None, None, None]
    for _ in range(iterations):
        at = start + u[:, :, None] * gap
        samples, inside = sample_frames(maps, chosen, at.movedim(3, -1))
        u = averaged(
            u + _step(samples, weights[..., None, None, None] * (inside + EVERYWHERE), gap),
            SMOOTHED,
        )
    return u


def _step(
    samples: Float[Tensor, "b v k 3 h w"],
    weight: Float[Tensor, "b v k 1 h w"],
    gaps: Float[Tensor, "b v k 1 1 1"],
) -> Float[Tensor, "b v 2 h w"]:
    """One Gauss-Newton step towards samples that do not change along the path."""
    total = weight.sum(2)
    mean_gap = (weight * gaps).sum(2) / total
    mean = (weight * samples).sum(2) / total
    centred = gaps - mean_gap[:, :, None]
    variance = (weight * centred.square()).sum(2) / total
    slope = (weight * centred * samples).sum(2) / total / variance.clamp_min(LEAST_VARIANCE)
    present = mean - slope * mean_gap
    gy, gx = torch.gradient(present, dim=(-2, -1))
    sums = averaged(
        torch.stack([p.sum(2) for p in (gx * gx, gx * gy, gy * gy, gx * slope, gy * slope)], dim=2),
        WINDOW,
    )
    xx, xy, yy, xt, yt = (s[:, :, 0] for s in sums.split(1, dim=2))
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    step = torch.stack(
        [(xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant], dim=2
    )
    step = step * (variance > LEAST_VARIANCE)
    return step.clamp(-LARGEST_STEP, LARGEST_STEP)
