"""The loss of a stage that learns depth from the frames alone, before the memory: a tenth of the
cost of a whole step.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.stereo.config import SweepConfig
from fsm.renderers.stereo.plane_sweep import Swept
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.windows import window_mean
from fsm.views import Views

WINDOW = 3  # side over which colours are compared
SOURCES = 4  # source views of which the one that fits best counts
OUTSIDE = 0.5  # cost of a sample outside its frame, in colours from 0 to 1
# Weights: of the error of depth, of an answer before the last, of the cross entropy.
DEPTH_WEIGHT, COARSE, ENTROPY_WEIGHT = 0.5, 0.5, 0.05
# Weights of colours where depth is known and where it is not: they tell fractions of a pixel that
# the error of depth hardly feels.
KNOWN, UNKNOWN = 0.5, 2.0
# Weight of what moves beside what stands, less one; weight of telling them apart.
MOVING_WEIGHT, MOTION_WEIGHT = 4.0, 0.1
NEARLY_INFINITE = 1e-3  # inverse depth


def stereo_loss(
    answers: Sequence[Swept],
    views: Views,
    others: Views,
    truth: Float[Tensor, "b v 1 h w"],
    moving: Float[Tensor, "b v 1 h w"],
    config: SweepConfig,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Error of the inverse depth of ``views`` where ``truth`` (z-depth, NaN where unknown) is
    given, of what is said to move where ``moving`` (1, 0 or NaN) is, and of the colours that the
    last answer samples from ``others``, which hold none of the views.

    What moves shows its colours elsewhere: there only the truth teaches depth, with more weight.
    Everything in model space. Also returns its parts: colour, depth and motion.
    """
    moves = moving.nan_to_num()
    colour = photometric(answers[-1].rho, views, others, 1.0 - moves)
    known = torch.isfinite(truth).flatten(1).any(1)
    weights = 1.0 + MOVING_WEIGHT * moves
    within = [truth, *(_within_reach(truth, answer.rho, config) for answer in answers[:-1])]
    pairs = list(zip(answers, within, strict=True))
    off = [depth_error(answer.rho, t, config.farthest, weights) for answer, t in pairs]
    entropy = sum(plane_cross_entropy(answer, t, config.farthest, weights) for answer, t in pairs)
    loss = (colour * torch.where(known, KNOWN, UNKNOWN)).mean()
    loss = loss + DEPTH_WEIGHT * (off[-1] + COARSE * sum(off[:-1])) + ENTROPY_WEIGHT * entropy
    motion = motion_error(answers[0].moving, moving)
    parts = {"colour": colour.mean().item(), "depth": off[-1].item(), "motion": motion.item()}
    return loss + MOTION_WEIGHT * motion, parts


def motion_error(
    logits: Float[Tensor, "b v 1 h w"] | None, moving: Float[Tensor, "b v 1 h w"]
) -> Float[Tensor, ""]:
    """Cross entropy of ``logits`` and ``moving`` (1, 0 or NaN: unknown) in nats, its mean over
    samples.
    """
    assert logits is not None
    known = torch.isfinite(moving)
    off = F.binary_cross_entropy_with_logits(logits, moving.nan_to_num(), reduction="none")
    sums = torch.where(known, off, 0.0).flatten(1).sum(1)
    return (sums / known.flatten(1).sum(1).clamp_min(1)).mean()


def depth_error(
    rho: Float[Tensor, "b v 1 h w"],
    truth: Float[Tensor, "b v 1 h w"],
    slack: float,
    weights: Float[Tensor, "b v 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Mean |log (ρ + slack) / (ρ* + slack)| over a sample's pixels with a true z-depth (0 without
    any), by ``weights``; its mean over samples.
    """
    known = torch.isfinite(truth)
    rho = rho.float()
    # with a gradient beyond infinity, too
    rho = rho + (rho.clamp_min(NEARLY_INFINITE) - rho).detach()
    error = ((rho[known] + slack) / (1.0 / truth[known] + slack)).log().abs()
    counted = known.float() if weights is None else known * weights
    sums = error.new_zeros(len(rho)).index_add(0, known.nonzero()[:, 0], error * counted[known])
    return (sums / counted.flatten(1).sum(1).clamp_min(1)).mean()


def plane_cross_entropy(
    answer: Swept,
    truth: Float[Tensor, "b v 1 h w"],
    farthest: float,
    weights: Float[Tensor, "b v 1 h w"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of a sweep's weights and the two hypotheses about the truth (z-depth, NaN where
    unknown), in nats; pixels count by ``weights``.

    The two share the truth by ratio, so that their mean is the truth; one beyond all hypotheses
    belongs to the nearest. The error of the mean alone would be as small for a guess between two
    surfaces as for a sharp one of the wrong surface.
    """
    size = answer.logits.shape[-2:]
    rho = 1.0 / F.interpolate(truth.flatten(0, 1), size=size, mode="nearest").view(
        *truth.shape[:3], *size
    )
    known = torch.isfinite(rho)
    tried = (answer.tried + farthest).log().expand(*answer.logits.shape)
    at = (rho.nan_to_num().clamp_min(0.0) + farthest).log()
    below = ((tried <= at).sum(2, keepdim=True) - 1).clamp(0, tried.shape[2] - 2)
    low, high = tried.gather(2, below), tried.gather(2, below + 1)
    share = ((at - low) / (high - low)).clamp(0.0, 1.0)
    surely = torch.log_softmax(answer.logits, 2)
    off = -(1.0 - share) * surely.gather(2, below) - share * surely.gather(2, below + 1)
    counted = known.float()
    if weights is not None:
        small = F.interpolate(weights.flatten(0, 1), size=size, mode="nearest")
        counted = counted * small.view(known.shape)
    sums = torch.where(known, off * counted, 0.0).flatten(1).sum(1)
    return (sums / counted.flatten(1).sum(1).clamp_min(1)).mean()


def photometric(
    rho: Float[Tensor, "b v 1 h w"],
    views: Views,
    others: Views,
    weights: Float[Tensor, "b v 1 h w"] | None = None,
) -> Float[Tensor, "b"]:
    """Mean distance, by ``weights``, of the views' colours from those that the best of the nearest
    others shows at inverse depth ``rho``.

    The best one (Godard et al. 2019): a point hidden from one frame is often seen by another.
    """
    sources = SourceViews.of(views, others, nearest_views(views, others, SOURCES)[0])
    pixels = sources.project(rho).pixels
    samples, inside = sources.sample(sources.frames, pixels)
    if others.mask is not None:  # masked pixels show nothing
        inside = inside * sources.sample(others.mask.to(rho.dtype), pixels)[0]
    distance = window_mean((samples - sources.pictures[:, :, None]).abs().mean(3), WINDOW)
    least = (distance + OUTSIDE * (1.0 - inside[:, :, :, 0])).amin(2, keepdim=True)
    counted = torch.ones_like(least) if views.mask is None else views.mask.to(least.dtype)
    counted = counted if weights is None else counted * weights
    return (least * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1.0)


def _within_reach(
    truth: Float[Tensor, "b v 1 h w"], prior: Float[Tensor, "b v 1 h w"], config: SweepConfig
) -> Float[Tensor, "b v 1 h w"]:
    """NaN, too, where a sweep around ``prior`` cannot find the truth: it would learn to point to
    the edge of what it tries.
    """
    off = (1.0 / truth - prior.detach()).abs()
    return torch.where(off <= config.reach * (prior.detach() + config.farthest), truth, torch.nan)
