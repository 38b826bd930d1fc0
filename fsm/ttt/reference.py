"""The plain twin of ``fsm.ttt.fast_weights``: one matrix at a time, gradients by autograd, float32,
written for reading.

Slow on purpose. Tests compare the fast path with it in values and in gradients.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.ttt.elastic import ElasticConfig

Matrices = dict[str, Float[Tensor, "_ _"]]
"""gate [d m], up [d m], down [m d]: the row convention, f(x) = (SiLU(x gate) ∘ (x up)) down."""


def f(w: Matrices, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The fast-weight function of one head."""
    return (F.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]


def target(
    said: Float[Tensor, "n d"], v: Float[Tensor, "n d"], elastic: ElasticConfig | None
) -> Float[Tensor, "n d"]:
    """What every token writes: v, or its novelty: v less its projection on what the memory says,
    where the two agree.
    """
    if elastic is None or elastic.target == "value":
        return v
    agreement = (said * v).sum(-1, keepdim=True)
    projection = agreement / (said.square().sum(-1, keepdim=True) + 1e-10) * said
    return torch.where(agreement > 0, v - projection, v)


def newton_schulz(g: Float[Tensor, "rows columns"], steps: int) -> Float[Tensor, "rows columns"]:
    """X ← aX + (bA + cA²)X with A = XXᵀ, from X = G / ‖G‖, transposed first if there are more rows
    than columns.
    """
    if g.shape[0] > g.shape[1]:
        return newton_schulz(g.T, steps).T
    x = g / (g.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def write_sequence(
    initial: Matrices,
    chunks: list[tuple[Float[Tensor, "_ d"], Float[Tensor, "_ d"], dict[str, Float[Tensor, " _"]]]],
    elastic: ElasticConfig | None,
    ns_steps: int = 5,
) -> Matrices:
    """Fast weights of one head of one sample after all chunks (k, v, rates by matrix name)."""
    w = dict(initial)
    initial_norms = {name: m.detach().norm(dim=0, keepdim=True) for name, m in initial.items()}
    anchor = {name: m.detach() for name, m in initial.items()}
    start = elastic.initial_importance if elastic else 0.0
    importance = {name: torch.full_like(m, start).detach() for name, m in initial.items()}
    for c, (k, v, rates) in enumerate(chunks, start=1):
        new: Matrices = {}
        for name, matrix in w.items():
            said = f(w, k)
            # Ascent on Σ rate ⟨f(k), target⟩ is descent on the loss; the target is held, yet outer
            # gradients pass through it.
            weighted = rates[name][:, None] * target(said, v, elastic)
            (gradient,) = torch.autograd.grad(said, matrix, weighted, create_graph=True)
            update = newton_schulz(gradient, ns_steps)
            if elastic is not None:
                update = update * c**-elastic.step_decay
            theta = matrix + update
            if elastic is not None:
                drift = theta - anchor[name]
                s = {"ewc": update.square(), "mas": update.abs(), "si": (update * drift).abs()}[
                    elastic.importance
                ]
                fresh = (elastic.alpha * importance[name] + (1 - elastic.alpha) * s).detach()
                pull = fresh if elastic.timing == "updated" else importance[name]
                if elastic.importance_scale == "mean":
                    pull = (pull / pull.mean()).clamp(max=1 / elastic.lam)
                theta = theta - elastic.lam * pull * drift
                importance[name] = fresh
            theta = theta / (theta.norm(dim=0, keepdim=True) + 1e-5) * initial_norms[name]
            if elastic is not None and elastic.anchor != "global":
                keep = elastic.beta if elastic.anchor == "streaming-ema" else 0.0
                anchor[name] = (keep * anchor[name] + (1 - keep) * theta).detach()
            new[name] = theta
        w = new
    return w
