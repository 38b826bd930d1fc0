"""The loss of a stage that learns depth from the frames alone, before the memory: a tenth of the
cost of a whole step.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.stereo.cost_volume import FARTHEST, REACH, Swept
from fsm.renderers.stereo.sources import (
    averaged,
    nearest_references,
    sample_frames,
    warped_pixels,
)
from fsm.train.data import depth_loss
from fsm.views import Views

WINDOW = 3  # side over which colours are compared
WITNESSES = 4  # frames of which the one that fits best counts
OUTSIDE = 0.5  # what a sample outside its frame costs, in colours from 0 to 1
# Of the error of depth, of an answer before the last; of doubt about the right hypotheses.
DEPTH_WEIGHT, COARSE, DOUBT_WEIGHT = 0.5, 0.5, 0.05
# Of colours where depth is known and where it is not: they tell fractions of a pixel that the error
# of depth hardly feels.
KNOWN, UNKNOWN = 0.5, 2.0
NEARLY_INFINITE = 1e-3  # inverse depth


def stereo_loss(
    answers: Sequence[Swept],
    views: Views,
    others: Views,
    truth: Float[Tensor, "b v 1 h w"],
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Error of the inverse depth of ``views`` where ``truth`` (z-depth, NaN where unknown) is
    given, and of the colours that the last answer fetches from ``others``, which hold none of the
    views.

    Everything in model space. Also returns its parts: colour and depth.
    """
    colour = photometric(answers[-1].rho, views, others)
    known = torch.isfinite(truth).flatten(1).any(1)
    within = [truth, *(_within_reach(truth, answer.rho) for answer in answers[:-1])]
    off = [
        depth_loss(_depth(a.rho), t, slack=FARTHEST) for a, t in zip(answers, within, strict=True)
    ]
    unsure = sum(doubt(a, t) for a, t in zip(answers, within, strict=True))
    loss = (colour * torch.where(known, KNOWN, UNKNOWN)).mean()
    loss = loss + DEPTH_WEIGHT * (off[-1] + COARSE * sum(off[:-1])) + DOUBT_WEIGHT * unsure
    return loss, {"colour": colour.mean().item(), "depth": off[-1].item()}


def doubt(answer: Swept, truth: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, ""]:
    """Cross entropy of a sweep's weights and the two hypotheses about the truth (z-depth, NaN where
    unknown), in nats.

    The two share the truth by ratio, so that their mean is it; one beyond all hypotheses belongs to
    the nearest. The error of the mean alone would be as small for a guess between two surfaces as
    for a sharp one of the wrong surface.
    """
    size = answer.logits.shape[-2:]
    rho = 1.0 / F.interpolate(truth.flatten(0, 1), size=size, mode="nearest").view(
        *truth.shape[:3], *size
    )
    known = torch.isfinite(rho)
    tried = (answer.tried + FARTHEST).log().expand(*answer.logits.shape)
    at = (rho.nan_to_num().clamp_min(0.0) + FARTHEST).log()
    below = ((tried <= at).sum(2, keepdim=True) - 1).clamp(0, tried.shape[2] - 2)
    low, high = tried.gather(2, below), tried.gather(2, below + 1)
    share = ((at - low) / (high - low)).clamp(0.0, 1.0)
    surely = torch.log_softmax(answer.logits, 2)
    off = -(1.0 - share) * surely.gather(2, below) - share * surely.gather(2, below + 1)
    sums = torch.where(known, off, 0.0).flatten(1).sum(1)
    return (sums / known.flatten(1).sum(1).clamp_min(1)).mean()


def photometric(rho: Float[Tensor, "b v 1 h w"], views: Views, others: Views) -> Float[Tensor, "b"]:
    """Mean distance of the views' colours from those that the best of the nearest others shows at
    inverse depth ``rho``.

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


def _within_reach(
    truth: Float[Tensor, "b v 1 h w"], about: Float[Tensor, "b v 1 h w"]
) -> Float[Tensor, "b v 1 h w"]:
    """NaN, too, where a sweep about an answer cannot find the truth: it would learn to point to the
    edge of what it tries.
    """
    off = (1.0 / truth - about.detach()).abs()
    return torch.where(off <= REACH * (about.detach() + FARTHEST), truth, torch.nan)


def _depth(rho: Float[Tensor, "b v 1 h w"]) -> Float[Tensor, "b v 1 h w"]:
    """z-depth, finite, with a gradient beyond infinity, too."""
    rho = rho.float()
    return 1.0 / (rho + (rho.clamp_min(NEARLY_INFINITE) - rho).detach())
