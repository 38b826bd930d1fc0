"""The loss of a stage that learns depth from the frames alone, before the memory: a tenth of the cost of a whole step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.plane_sweep import FARTHEST, REACH
from fsm.renderers.reference_sampling import averaged, nearest_references, sample_frames, warped_pixels
from fsm.train.data import depth_loss
from fsm.views import Views

WINDOW = 3  # side over which colours are compared
WITNESSES = 4  # frames of which the one that fits best counts
OUTSIDE = 0.5  # what a sample outside its frame costs, in colours from 0 to 1
DEPTH_WEIGHT, COARSE, UNKNOWN = (
    0.3,
    0.5,
    2.0,
)  # of depth beside colours; of answers before the last; of colours where depth is unknown
NEARLY_INFINITE = 1e-3  # inverse depth


def stereo_loss(
    answers: Sequence[Float[Tensor, "b v 1 h w"]],
    views: Views,
    others: Views,
    truth: Float[Tensor, "b v 1 h w"],
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Error of the inverse depth of ``views`` where ``truth`` (z-depth, NaN where unknown) is given, and of the colours that the
    last answer fetches from ``others``, which hold none of the views.

    Everything in model space. Also returns its parts: colour and depth.
    """
    colour = photometric(answers[-1], views, others)
    known = torch.isfinite(truth).flatten(1).any(1)
    within = [truth, *(_within_reach(truth, rho) for rho in answers[:-1])]
    off = [depth_loss(_depth(rho), t, slack=FARTHEST) for rho, t in zip(answers, within, strict=True)]
    loss = (colour * torch.where(known, 1.0, UNKNOWN)).mean() + DEPTH_WEIGHT * (off[-1] + COARSE * sum(off[:-1]))
    return loss, {"colour": colour.mean().item(), "depth": off[-1].item()}


def photometric(rho: Float[Tensor, "b v 1 h w"], views: Views, others: Views) -> Float[Tensor, "b"]:
    """Mean distance of the views' colours from those that the best of the nearest others shows at inverse depth ``rho``.

    The best one (Godard et al. 2019): what is hidden from one frame is often seen by another.
    """
    assert others.rgb is not None
    assert views.rgb is not None
    chosen, _ = nearest_references(views, others, WITNESSES)
    still = rho.new_zeros(1).expand(*rho.shape[:2], 3, *rho.shape[3:])
    pixels = warped_pixels(views, others, chosen, rho, still)
    samples, inside = sample_frames(others.rgb, chosen, pixels)
    if others.mask is not None:  # what does not count shows nothing
        inside = inside * sample_frames(others.mask.to(rho.dtype), chosen, pixels)[0]
    distance = averaged((samples - views.rgb[:, :, None]).abs().mean(3), WINDOW)
    least = (distance + OUTSIDE * (1.0 - inside[:, :, :, 0])).amin(2, keepdim=True)
    counted = torch.ones_like(least) if views.mask is None else views.mask.to(least.dtype)
    return (least * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1.0)


def _within_reach(truth: Float[Tensor, "b v 1 h w"], about: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, "b v 1 h w"]:
    """NaN, too, where a sweep about an answer cannot find the truth: it would learn to point to the edge of what it tries."""
    off = (1.0 / truth - about.detach()).abs()
    return torch.where(off <= REACH * (about.detach() + FARTHEST), truth, torch.nan)


def _depth(rho: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, "b v 1 h w"]:
    """z-depth, finite, with a gradient beyond infinity, too."""
    rho = rho.float()
    return 1.0 / (rho + (rho.clamp_min(NEARLY_INFINITE) - rho).detach())
