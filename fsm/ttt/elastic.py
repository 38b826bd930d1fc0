"""The elastic prior of LaCET: fast weights are pulled back to an anchor, entry by entry, by
importance.

Paper: "Fast Spatial Memory with Elastic Test-Time Training" (arXiv 2604.07350), §3.2, Eq. 5-6.
``fsm.ttt.reference`` is the same written for reading. All arguments are stacked fast weights [b h 3
d m]; see ``fsm.ttt.fast_weights``.

The pull as published is a thousandth of an update. What keeps old chunks is how much a new one may
change: ``step_decay`` and ``target``, extensions of ours that work with or without the pull
(docs/method.md, benchmarks/retention.py).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError

Stacked = Float[Tensor, "b heads 3 d m"]
Target = Literal["value", "novelty"]


@dataclass(frozen=True)
class ElasticConfig:
    """How strongly, and to what, the fast weights are held."""

    importance: Literal["ewc", "mas", "si"] = "si"
    """Statistic of a chunk's update Δ: Δ² (ewc), |Δ| (mas) or |Δ ∘ (weights - anchor)| (si)."""
    anchor: Literal["global", "streaming", "streaming-ema"] = "streaming-ema"
    """Fixed at the start, moved to the current weights after every chunk, or moved part of the way.
    """
    lam: float = 0.5
    """λ, strength of the pull, any number from 0 on; 0 is LaCT bit for bit."""
    alpha: float = 0.5
    """α, decay of the importance."""
    beta: float = 0.5
    """β, decay of the streaming-ema anchor."""
    initial_importance: float = 0.0
    """Importance before the first chunk."""
    timing: Literal["updated", "previous"] = "updated"
    """Pull with the importance after this chunk (released weights) or before it (Eq. 5 as printed).
    """
    importance_scale: Literal["none", "mean"] = "none"
    """Extension of ours: 'mean' divides the importance by its mean per matrix, so that λ carries
    over between widths.
    """
    step_decay: float = 0.0
    """Extension of ours: the step of the c-th chunk is c^-step_decay times the first. At 0, as
    published, every chunk takes the same share of the weights' norm, and what earlier ones wrote
    fades exponentially; 0.5 shares the norm among all."""
    target: Target = "value"
    """What a token writes: v, as published, or, an extension of ours, 'novelty': v without its part
    along f(k), if f(k) agrees with v. Tokens then count by what they add, in directions; lengths do
    not matter, as they do not to the read-out."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.lam < math.inf:
            raise InputError(f"elastic.lam is {self.lam}; choose a finite value of at least 0.")
        for name in ("alpha", "beta", "step_decay"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"elastic.{name} is {value}; choose a value in [0, 1].")


def next_importance(
    importance: Stacked, update: Stacked, updated: Stacked, anchor: Stacked, config: ElasticConfig
) -> Stacked:
    """F ← αF + (1-α) φ(S), Eq. 6; a constant for autograd."""
    with torch.no_grad():
        update = update.to(importance.dtype)
        if config.importance == "ewc":
            return (update * update).lerp_(importance, config.alpha)
        if config.importance == "mas":
            return update.abs().lerp_(importance, config.alpha)
        return (updated - anchor).mul_(update).abs_().lerp_(importance, config.alpha)


def consolidate(
    updated: Stacked,
    update: Stacked,
    anchor: Stacked,
    importance: Stacked,
    config: ElasticConfig,
    pull_ratios: list[Float[Tensor, " b"]] | None = None,
) -> Stacked:
    """θ ← θ' - λ F ∘ (θ' - θ*), Eq. 5; one fused interpolation towards the anchor.

    ``pull_ratios`` collects ‖pull‖ / ‖update‖ of every sample [b].
    """
    with torch.no_grad():
        weight = importance * config.lam
        if config.importance_scale == "mean":
            weight /= importance.mean((-2, -1), keepdim=True).clamp_min(1e-30)
            weight.clamp_(max=1.0)
        if pull_ratios is not None:
            pull = (weight * (updated - anchor)).flatten(1).norm(dim=1)
            pull_ratios.append(pull / update.float().flatten(1).norm(dim=1).clamp_min(1e-30))
    return torch.lerp(updated, anchor, weight)


def next_anchor(anchor: Stacked, weights: Stacked, config: ElasticConfig) -> Stacked:
    """The anchor for the next chunk, from the weights this chunk ended with; a constant for
    autograd.
    """
    if config.anchor == "global":
        return anchor
    if config.anchor == "streaming":
        return weights.detach()
    return torch.lerp(anchor, weights.detach(), 1.0 - config.beta)
