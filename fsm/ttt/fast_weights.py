"""SwiGLU fast weights, written by one Muon step per chunk of tokens: pure functions on values.

    f_W(x) = W_down [ SiLU(W_gate x) ∘ (W_up x) ]          inner loss per token  L = -⟨f_W(k), v⟩

The three matrices are kept stacked as [b heads 3 d m] in the order gate, up, downᵀ. They share one
shape, so that Newton-Schulz, the elastic step and the norms are single batched calls, and so that
the three gradients are one product each of tokens and hidden values: kᵀP₀, kᵀP₂, vᵀP₁.

Shape suffixes: b batch, heads, n tokens of a chunk, d head width, m hidden width. Sources: LaCT
(arXiv 2505.23884) and FSM (arXiv 2604.07350); ``fsm.ttt.reference`` is the plain twin, tested equal
in values and gradients.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.ttt.elastic import (
    ElasticConfig,
    Stacked,
    Target,
    consolidate,
    next_anchor,
    next_importance,
)

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
TILE = 1024  # tokens
UNSAID = 1e-5  # a prediction shorter than this has no direction
Tokens = Float[Tensor, "b heads n d"]


@dataclass(frozen=True)
class FastWeightState:
    """Everything one layer remembers of one sequence. A value: writing returns a new one."""

    weights: Stacked
    """Current fast weights, float32."""
    gate_up_norms: Float[Tensor, "b heads 2 1 m"]
    """Column norms the gate and up matrices are restored to: those of the initial weights."""
    down_norms: Float[Tensor, "b heads d 1"]
    """Likewise for downᵀ, whose input axis is m."""
    anchor: Stacked | None
    """Where the elastic prior pulls to; None without it."""
    importance: Stacked | None
    """How hard it pulls, entry by entry; None without it."""
    step: int
    """Chunks written so far."""

    def detached(self) -> "FastWeightState":
        """The same values without autograd history."""
        return replace(self, weights=self.weights.detach())


def initial_state(
    initial: Float[Tensor, "heads 3 d m"], batch: int, elastic: ElasticConfig | None
) -> FastWeightState:
    """State before the first chunk: every sample starts from the learnt initial weights, which are
    also the anchor.
    """
    weights = initial.to(_at_least_float32(initial)).expand(batch, *initial.shape)
    gate_up_norms, down_norms = _norms(weights.detach())
    anchor = weights.detach() if elastic else None
    importance = torch.full_like(weights, elastic.initial_importance).detach() if elastic else None
    return FastWeightState(weights, gate_up_norms, down_norms, anchor, importance, step=0)


def write_chunk(
    state: FastWeightState,
    k: Tokens,
    v: Tokens,
    rates: Float[Tensor, "b heads n 3"],
    *,
    elastic: ElasticConfig | None,
    ns_steps: int,
    ns_dtype: torch.dtype,
    pull_ratios: list[Float[Tensor, " b"]] | None = None,
) -> FastWeightState:
    """Write one chunk: its gradient at the current weights, then ``fast_weight_step``."""
    target = "value" if elastic is None else elastic.target
    return fast_weight_step(
        state,
        fast_weight_gradient(state.weights, k, v, rates, target),
        elastic=elastic,
        ns_steps=ns_steps,
        ns_dtype=ns_dtype,
        pull_ratios=pull_ratios,
    )


def fast_weight_step(
    state: FastWeightState,
    gradient: Stacked,
    *,
    elastic: ElasticConfig | None,
    ns_steps: int,
    ns_dtype: torch.dtype,
    pull_ratios: list[Float[Tensor, " b"]] | None = None,
) -> FastWeightState:
    """The state after a chunk of this gradient: Newton-Schulz, add, elastic pull, norm restoration,
    anchor.

    ``pull_ratios`` collects ‖pull‖ / ‖update‖ [b], where there is an elastic pull.
    """
    with torch.autocast(gradient.device.type, enabled=False):
        update = orthogonalise(gradient, ns_steps, ns_dtype)
        if elastic is not None and elastic.step_decay > 0.0:
            update = update * (state.step + 1) ** -elastic.step_decay
        weights = state.weights + update
        anchor, importance = state.anchor, state.importance
        if elastic is not None and anchor is not None and importance is not None:
            fresh = next_importance(importance, update, weights, anchor, elastic)
            if elastic.lam > 0.0:
                in_force = fresh if elastic.timing == "updated" else importance
                weights = consolidate(weights, update, anchor, in_force, elastic, pull_ratios)
            importance = fresh
        weights = restore_norms(weights, state.gate_up_norms, state.down_norms)
        if elastic is not None and anchor is not None:
            anchor = next_anchor(anchor, weights, elastic)
    return replace(
        state, weights=weights, anchor=anchor, importance=importance, step=state.step + 1
    )


def fast_weight_gradient(
    weights: Stacked,
    k: Tokens,
    v: Tokens,
    rates: Float[Tensor, "b heads n 3"],
    target: Target = "value",
) -> Stacked:
    """Descent direction of Σ -⟨f_W(k), target⟩ in closed form, the target held fixed, tokens
    weighted by their rates (gate, down, up).

    A sum over tiles of the chunk, kept in float32 whatever the products run in.
    """
    tiles = zip(_tiles(k), _tiles(v), _tiles(rates), strict=True)
    total = _tile_gradient(weights, *next(tiles), target).to(_at_least_float32(weights))
    for tile in tiles:
        total = total + _tile_gradient(weights, *tile, target)
    return total


def _tile_gradient(
    weights: Stacked, k: Tokens, v: Tokens, rates: Float[Tensor, "b heads n 3"], target: Target
) -> Stacked:
    gate, up, down_t = weights.unbind(2)
    a = k @ gate
    u = k @ up
    sigma = torch.sigmoid(a)
    silu = a * sigma
    p_down = silu * u
    if target == "novelty":
        v = _novelty(v, p_down @ down_t.transpose(-1, -2))
    delta = v @ down_t
    p_gate = delta * u * torch.addcmul(sigma, silu, 1.0 - sigma)
    p_up = delta * silu
    # The rates weigh the tokens, not the hidden values: that is the narrower side of the product.
    rate_gate, rate_down, rate_up = rates.to(k.dtype)[..., None, :].unbind(-1)
    sides = ((k * rate_gate, p_gate), (k * rate_up, p_up), (v * rate_down, p_down))
    return torch.stack([x.transpose(-1, -2) @ p for x, p in sides], dim=2)


def _novelty(v: Tokens, said: Tokens) -> Tokens:
    """What v adds to what the memory says: v without its part along ``said``, where they agree; all
    of v where they do not.
    """
    wide, said = v.to(_at_least_float32(v)), said.to(_at_least_float32(said))
    unit = said * torch.rsqrt((said * said).sum(-1, keepdim=True) + UNSAID**2)
    return (wide - (wide * unit).sum(-1, keepdim=True).clamp_min(0.0) * unit).to(v.dtype)


def fast_weight_apply(weights: Stacked, q: Tokens) -> Tokens:
    """Read: f_W(q). Changes nothing."""
    gate, up, down_t = weights.unbind(2)
    parts = [(F.silu(x @ gate) * (x @ up)) @ down_t.transpose(-1, -2) for x in _tiles(q)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _tiles(tokens: Float[Tensor, "b heads n _"]) -> tuple[Tensor, ...]:
    """Cuts along n: on a CPU a tile's hidden values stay in cache; a GPU wants the whole chunk in
    one product.
    """
    return tokens.split(TILE if tokens.device.type == "cpu" else max(1, tokens.shape[2]), dim=2)


def orthogonalise(gradient: Stacked, steps: int, dtype: torch.dtype) -> Stacked:
    """Muon's Newton-Schulz: singular values of every matrix to about one; the three matrices in one
    batched call.

    The quintic iteration runs in ``dtype`` on the shorter side; the result is float32 (float64 if
    the gradient is). A zero gradient stays zero.
    """
    flat = gradient.flatten(0, 2).to(_at_least_float32(gradient))
    x = (flat / (torch.linalg.matrix_norm(flat, keepdim=True) + 1e-7)).to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    c1, c3, c5 = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.transpose(-1, -2)
        poly = torch.baddbmm(gram, gram, gram, beta=c3, alpha=c5)
        x = torch.baddbmm(x, poly, x, beta=c1)
    if tall:
        x = x.transpose(-1, -2)
    return x.to(flat.dtype).unflatten(0, gradient.shape[:3])


def restore_norms(
    weights: Stacked,
    gate_up_norms: Float[Tensor, "b heads 2 1 m"],
    down_norms: Float[Tensor, "b heads d 1"],
) -> Stacked:
    """Rescale every column (norm over the input axis) to the norm it had in the initial weights."""
    gate_up_now, down_now = _norms(weights)
    scale = torch.cat(
        [
            (gate_up_norms / (gate_up_now + 1e-5)).expand_as(weights[:, :, :2]),
            (down_norms / (down_now + 1e-5)).expand_as(weights[:, :, 2])[:, :, None],
        ],
        dim=2,
    )
    return weights * scale


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _norms(weights: Stacked) -> tuple[Float[Tensor, "b heads 2 1 m"], Float[Tensor, "b heads d 1"]]:
    gate_up, down = weights[:, :, :2], weights[:, :, 2]
    # Written out: several times faster than a norm over a strided axis. The floor keeps the
    # gradient of zero finite.
    gate_up = (gate_up * gate_up).sum(-2, keepdim=True).clamp_min(1e-30).sqrt()
    return gate_up, torch.linalg.vector_norm(down, dim=-1, keepdim=True)
