"""One block of the trunk: window attention inside each image, a LaCET layer across all of them, an
MLP.

Each is a pre-norm residual. Linear layers have no bias (but the learning-rate head), norms have
scale only. FSM (arXiv 2604.07350) §2-3 and appendix A.2. Shapes: b batch, v views, t tokens of a
view, d width.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.errors import InputError
from fsm.ttt import (
    ElasticConfig,
    FastWeightState,
    fast_weight_apply,
    fast_weight_gradient,
    fast_weight_step,
    initial_state,
)
from fsm.ttt.elastic import Stacked

ViewTokens = Float[Tensor, "b v t d"]
Chunks = list[Float[Tensor, "b _ t d"]]

# Windows of at most so many tokens are attended in float32 on a CPU: gradients of the fused kernel
# take up to five times as long in bfloat16, a whole layer of 16, 64, 256 tokens 2.1, 1.5, 1.15
# times.
SMALL_WINDOW = 256


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and rules of a block."""

    dim: int = 768
    """Token width."""
    attention_head_dim: int = 64
    """Width of an attention head."""
    ttt_heads: int = 1
    """Fast-weight networks per layer; each is dim / ttt_heads wide."""
    expansion: int = 2
    """Hidden width of a fast-weight network in units of its input width."""
    mlp_ratio: int = 4
    """Hidden width of the MLP in units of dim."""
    base_lr: float = 0.01
    """Learning rate of the fast weights where the learnt head outputs zero."""
    ns_steps: int = 5
    """Newton-Schulz iterations."""
    ns_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Number format of Newton-Schulz; released weights were trained with bfloat16."""
    elastic: ElasticConfig | None = ElasticConfig()
    """The elastic prior; null is plain LaCT."""

    def __post_init__(self) -> None:
        for name, least in (("dim", 1), ("expansion", 1), ("mlp_ratio", 1), ("ns_steps", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least {least}."
                )
        if not 0.0 < self.base_lr < math.inf:
            raise InputError(f"model config: base_lr is {self.base_lr}, must be above 0.")
        for name in ("attention_head_dim", "ttt_heads"):
            value = getattr(self, name)
            if value < 1 or self.dim % value:
                raise InputError(
                    f"model config: {name} is {value}, which does not divide dim {self.dim}."
                )


class WindowAttention(nn.Module):
    """Bidirectional softmax attention among the tokens of one image, with RMS-normalised queries
    and keys.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.heads = config.dim // config.attention_head_dim
        self.to_qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.q_norm = nn.RMSNorm(config.attention_head_dim, eps=1e-5)
        self.k_norm = nn.RMSNorm(config.attention_head_dim, eps=1e-5)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: ViewTokens) -> ViewTokens:
        """Attend within each view."""
        b, v, t, d = x.shape
        q, k, value = (
            self.to_qkv(x).view(b * v, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )
        kind = _wide(value).dtype if x.device.type == "cpu" and t <= SMALL_WINDOW else value.dtype
        with torch.autocast(x.device.type, enabled=False):
            q, k = self.q_norm(_wide(q)).to(kind), self.k_norm(_wide(k)).to(kind)
            o = F.scaled_dot_product_attention(q, k, value.to(kind)).to(value.dtype)
        return self.out(o.transpose(1, 2).reshape(b, v, t, d))


class LaCETLayer(nn.Module):
    """Fast weights over all tokens of a sequence: ``write`` a chunk into the state, ``read`` the
    state with any tokens.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.config = config
        width = config.dim // config.ttt_heads
        hidden = width * config.expansion
        self.initial = nn.Parameter(torch.empty(config.ttt_heads, 3, width, hidden))
        nn.init.normal_(self.initial[:, :2], std=width**-0.5)
        nn.init.normal_(self.initial[:, 2], std=hidden**-0.5)
        self.to_qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.to_rates = nn.Linear(config.dim, 3 * config.ttt_heads)
        self.o_norm = nn.RMSNorm(width, eps=1e-5)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.rate_offset = math.log(math.expm1(config.base_lr))  # softplus⁻¹(base_lr)
        self.ns_dtype = getattr(torch, config.ns_dtype)

    def initial_state(self, batch: int) -> FastWeightState:
        """State before the first chunk."""
        return initial_state(self.initial, batch, self.config.elastic)

    def write(self, state: FastWeightState, x: Float[Tensor, "b n d"]) -> FastWeightState:
        """The state after this chunk of (normalised) tokens."""
        dim = self.config.dim
        k, v = F.silu(F.linear(x, self.to_qkv.weight[dim:])).chunk(2, dim=-1)
        k, v = self._heads(k), self._heads(v)
        return self.step(state, self.gradient(state, _unit(k), v, self._rates(x)))

    def gradient(
        self,
        state: FastWeightState,
        k: Float[Tensor, "b heads n width"],
        v: Float[Tensor, "b heads n width"],
        rates: Float[Tensor, "b heads n 3"],
    ) -> Stacked:
        """The gradient of a chunk: a sum over its tokens, so that those of its parts add up."""
        elastic = self.config.elastic
        target = "value" if elastic is None else elastic.target
        return fast_weight_gradient(state.weights, k, v, rates, target)

    def step(
        self,
        state: FastWeightState,
        gradient: Stacked,
        pull_ratios: list[Float[Tensor, " b"]] | None = None,
    ) -> FastWeightState:
        """The state after a chunk of this gradient."""
        return fast_weight_step(
            state,
            gradient,
            elastic=self.config.elastic,
            ns_steps=self.config.ns_steps,
            ns_dtype=self.ns_dtype,
            pull_ratios=pull_ratios,
        )

    def read(self, state: FastWeightState, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the memory answers to these (normalised) tokens."""
        q = _unit(self._heads(F.silu(F.linear(x, self.to_qkv.weight[: self.config.dim]))))
        o = self.o_norm(_wide(fast_weight_apply(state.weights, q)))
        return self.out(o.transpose(1, 2).flatten(2))

    def _heads(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n width"]:
        return x.unflatten(-1, (self.config.ttt_heads, -1)).transpose(1, 2)

    def _rates(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b heads n 3"]:
        with torch.autocast(x.device.type, enabled=False):
            raw = self.to_rates(_wide(x)) + self.rate_offset
            return F.softplus(raw).unflatten(-1, (3, self.config.ttt_heads)).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.mlp_ratio * config.dim, bias=False)
        self.out = nn.Linear(config.mlp_ratio * config.dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Per token."""
        return self.out(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attend within views, write to or read from the fast weights, then the MLP."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, bias=False)
        self.attention = WindowAttention(config)
        self.ttt_norm = nn.LayerNorm(config.dim, bias=False)
        self.ttt = LaCETLayer(config)
        self.mlp_norm = nn.LayerNorm(config.dim, bias=False)
        self.mlp = MLP(config)

    def update(
        self, state: FastWeightState | None, chunks: Chunks, *, read: bool
    ) -> tuple[FastWeightState, Chunks]:
        """One layer over the chunks of some views: all are written, then, with ``read``, all of
        them read the result.

        ``state`` None is the learnt initial one. Entries of ``chunks`` are replaced one by one, so
        that two copies of the residual stream never exist in inference.
        """
        state = self.ttt.initial_state(len(chunks[0])) if state is None else state
        for c, x in enumerate(chunks):
            chunks[c] = self.attend(x)
            state = self.write(state, chunks[c])
        if read:
            for c, x in enumerate(chunks):
                chunks[c] = self.read(state, x)
        return state, chunks

    def query(self, state: FastWeightState, x: ViewTokens) -> ViewTokens:
        """One layer over the tokens of requested views, which only read."""
        return self.read(state, self.attend(x))

    def attend(self, x: ViewTokens) -> ViewTokens:
        """First residual: within each view."""
        return x + self.attention(self.attention_norm(x))

    def write(self, state: FastWeightState, x: ViewTokens) -> FastWeightState:
        """Write the attended tokens of some views as one chunk."""
        return self.ttt.write(state, self.ttt_norm(x).flatten(1, 2))

    def read(self, state: FastWeightState, x: ViewTokens) -> ViewTokens:
        """Second and third residual: read the memory, then the MLP."""
        x = x + self.ttt.read(state, self.ttt_norm(x).flatten(1, 2)).view_as(x)
        return x + self.mlp(self.mlp_norm(x))


@contextlib.contextmanager
def record_pull_ratio(model: nn.Module) -> Iterator[list[Float[Tensor, " b"]]]:
    """Collect ‖pull‖ / ‖update‖ of every elastic step of ``model`` inside the block, one entry [b]
    per layer and chunk.

    Code that was compiled before does not notice; run it eagerly (``torch.compiler.set_stance``).
    """
    ratios: list[Float[Tensor, " b"]] = []
    layers = [module for module in model.modules() if isinstance(module, LaCETLayer)]
    for layer in layers:
        layer.step = partial(layer.step, pull_ratios=ratios)
    try:
        yield ratios
    finally:
        for layer in layers:
            del layer.step


def _unit(x: Tensor) -> Tensor:
    """x / (‖x‖ + 1e-5) along the last axis, the norm in float32."""
    return x / (_wide(x).norm(dim=-1, keepdim=True) + 1e-5).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """In float32; float64 stays, so that a whole encoder can be checked in it."""
    return x if x.dtype == torch.float64 else x.float()
