"""Posed images to a scene memory, and ray queries against it: tokenizer, trunk, and the two
functions update and query.

    memory = encoder.empty(batch)
    memory = encoder.update(memory, views)       # as often as wanted, any number of views at a time
    tokens = encoder.query(memory, requests)     # reads only

A chunk is a whole number of views: the largest whose tokens fit ``chunk_tokens``, at least one. Two
schedules exist and a checkpoint records which one it was trained with (FSM, arXiv 2604.07350, §3.2;
tttLRM for the causal one):

* ``update-all-then-apply``: in every layer all chunks are written, then all tokens read the final
  weights. Needs every input token of a layer before the next layer starts, so views are held until
  ``finish``.
* ``causal``: a chunk is written to and reads each layer before the next chunk is looked at. Memory
  does not grow with the length of the stream.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fsm.blocks import Block, BlockConfig, ViewTokens
from fsm.errors import InputError
from fsm.rays import pixel_rays, plucker
from fsm.ttt import FastWeightState
from fsm.views import Views

CHANNELS = {"fsm13": 13, "paper10": 10, "lact12": 12, "lrm10": 10}


@dataclass(frozen=True)
class EncoderConfig:
    """Shape and schedule of the encoder."""

    block: BlockConfig = BlockConfig()
    """Sizes and rules of every block."""
    layers: int = 24
    """Number of blocks."""
    patch: int = 8
    """Side of a square patch in pixels; one token each."""
    input_layout: Literal["fsm13", "paper10", "lact12", "lrm10"] = "fsm13"
    """Channels per pixel: o, d, o×d, rgb, time (released FSM); rgb, d, o×d, time (paper); o, d,
    o×d, rgb (LaCT, static); the ray's point nearest to the origin, d, rgb, time (released
    FSM-LRM)."""
    chunk_tokens: int = 2048
    """Tokens written per fast-weight step, rounded down to whole views; 0 writes all inputs as one
    chunk.
    """
    schedule: Literal["update-all-then-apply", "causal"] = "update-all-then-apply"
    """Order of writing and reading; see the module's text."""

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("patch", 1), ("chunk_tokens", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least {least}."
                )
        if self.schedule == "causal" and self.chunk_tokens == 0:
            raise InputError(
                "model config: the causal schedule needs chunk_tokens > 0, a stream has no "
                "last view."
            )


@dataclass(frozen=True)
class SceneMemory:
    """What the encoder has kept of the views pushed so far. A value: ``update`` returns a new
    one.
    """

    layers: tuple[FastWeightState, ...]
    """Fast weights, one state per block; none before the first chunk of ``UNREAD``."""
    pending: Views | None
    """Views that do not fill a chunk yet (causal), or all of them (update-all-then-apply)."""
    views_seen: int
    """Views pushed so far."""
    finished: bool
    """All views are written; nothing more may be pushed."""
    chunk_tokens: int | None = None
    """Tokens per fast-weight step, as the last ``update`` said; None: the config's."""


UNREAD = SceneMemory((), None, 0, finished=False)
"""``Encoder.empty`` for any number of samples: every layer takes up its initial weights when its
first chunk is written.
"""


class Encoder(nn.Module):
    """Tokenizer and trunk."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.block.dim
        self.embed = nn.Linear(CHANNELS[config.input_layout] * config.patch**2, dim, bias=False)
        self.embed_norm = nn.LayerNorm(dim, bias=False)
        self.blocks: list[Block] = nn.ModuleList(Block(config.block) for _ in range(config.layers))  # pyright: ignore[reportAttributeAccessIssue]
        self._initialise()

    def _initialise(self) -> None:
        # Output projections start smaller, so that the residual stream keeps its scale with depth.
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                output = name.endswith("out.weight")
                nn.init.normal_(
                    parameter, std=0.02 / (3 * self.config.layers) ** 0.5 if output else 0.02
                )
            elif name.endswith("to_rates.bias"):
                nn.init.zeros_(parameter)

    def tokenize(self, views: Views) -> ViewTokens:
        """Embedded patches of views [b v] in model space; without rgb the image channels are zero
        (a query).
        """
        self._check_size(views)
        patch, (h, w) = self.config.patch, views.hw
        origin, direction = pixel_rays(views)
        moment = plucker(origin, direction)[..., 3:, :, :]
        rgb = torch.zeros_like(direction) if views.rgb is None else views.rgb * 2.0 - 1.0
        time = views.time[..., None, None, None].expand(*views.time.shape, 1, h, w)
        channels = {
            "fsm13": [origin, direction, moment, rgb, time],
            "paper10": [rgb, direction, moment, time],
            "lact12": [origin, direction, moment, rgb],
            "lrm10": [
                origin - (origin * direction).sum(-3, keepdim=True) * direction,
                direction,
                rgb,
                time,
            ],
        }[self.config.input_layout]
        patches = rearrange(
            torch.cat(channels, -3), "b v c (y p) (x q) -> b v (y x) (p q c)", p=patch, q=patch
        )
        return self.embed_norm(self.embed(patches))

    def empty(self, batch: int) -> SceneMemory:
        """The memory of a scene nobody has looked at yet."""
        return SceneMemory(
            tuple(b.ttt.initial_state(batch) for b in self.blocks), None, 0, finished=False
        )

    def views_per_chunk(self, views: Views, chunk_tokens: int | None = None) -> int:
        """How many views of this size are written per step, at ``chunk_tokens`` or the config's
        number of tokens; all of them where that is 0.
        """
        config = self.config
        if chunk_tokens is not None:
            config = replace(config, chunk_tokens=chunk_tokens)
        if config.chunk_tokens == 0:
            return max(1, len(views))
        return max(1, config.chunk_tokens * config.patch**2 // (views.hw[0] * views.hw[1]))

    def update(
        self, memory: SceneMemory, views: Views, chunk_tokens: int | None = None
    ) -> SceneMemory:
        """Push observed views [b v] in model space. How a stream is split into pushes changes
        nothing.

        Views that wait are written in chunks of ``chunk_tokens`` (0: all at once; None: the
        config's number).
        """
        if memory.finished:
            raise InputError(
                "this memory is finished; keep the unfinished one to push further views."
            )
        if views.rgb is None:
            raise InputError("update needs observed views, found requests without rgb.")
        self._check_size(views)
        size = self.views_per_chunk(views, chunk_tokens)
        pending = views if memory.pending is None else Views.cat([memory.pending, views])
        memory = replace(
            memory,
            pending=pending,
            views_seen=memory.views_seen + len(views),
            chunk_tokens=chunk_tokens,
        )
        if self.config.schedule == "causal":
            while memory.pending is not None and len(memory.pending) >= size:
                memory = self._write_pending(memory, size)
        return memory

    def finish(self, memory: SceneMemory) -> SceneMemory:
        """Write what is pending (the last chunk may be short); afterwards the memory is only
        read.
        """
        if memory.pending is not None:
            memory = self._write_pending(memory, len(memory.pending))
        return replace(memory, finished=True)

    def query(self, memory: SceneMemory, requests: Views) -> ViewTokens:
        """Tokens of the requested views [b v] in model space: the same cost whatever the memory has
        seen.
        """
        memory = self.finish(memory)
        x = self.tokenize(requests)
        for block, state in zip(self.blocks, memory.layers, strict=True):
            x = block.query(state, x)
        return x

    def write(
        self, layers: tuple[FastWeightState, ...], chunks: list[Views]
    ) -> tuple[FastWeightState, ...]:
        """Fast weights after some chunks of observed views [b v]: layer by layer all chunks are
        written, then all read what they have written.

        ``layers`` may be empty: every layer then starts from its initial weights.
        """
        tokens = [self.tokenize(chunk) for chunk in chunks]
        written = []
        for i, block in enumerate(self.blocks):
            # Nobody reads the inputs' own tokens after the last layer.
            state, tokens = block.update(
                layers[i] if layers else None, tokens, read=i + 1 < len(self.blocks)
            )
            written.append(state)
        return tuple(written)

    def _write_pending(self, memory: SceneMemory, count: int) -> SceneMemory:
        """Write the first ``count`` of the views that wait, chunk by chunk."""
        assert memory.pending is not None
        views, rest = memory.pending[:count], memory.pending[count:]
        size = self.views_per_chunk(memory.pending, memory.chunk_tokens)
        chunks = [views[i : i + size] for i in range(0, count, size)]
        return replace(
            memory,
            layers=self.write(memory.layers, chunks),
            pending=rest if len(rest) else None,
        )

    def _check_size(self, views: Views) -> None:
        h, w = views.hw
        if h % self.config.patch or w % self.config.patch:
            raise InputError(
                f"image size {h}x{w} is not a multiple of the patch size "
                f"{self.config.patch}; resize the views."
            )


def unpatchify(
    patches: Float[Tensor, "b v t ppc"], hw: tuple[int, int], patch: int
) -> Float[Tensor, "b v c h w"]:
    """Per-token values (row in patch, column in patch, channel) back to images."""
    return rearrange(
        patches, "b v (y x) (p q c) -> b v c (y p) (x q)", y=hw[0] // patch, p=patch, q=patch
    )
