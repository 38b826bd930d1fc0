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

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsm.blocks import Block, BlockConfig, ViewTokens
from fsm.errors import InputError
from fsm.rays import pixel_rays, plucker
from fsm.ttt import FastWeightState, Group, recording
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


UNREAD = SceneMemory((), None, 0, finished=False)
"""``Encoder.empty`` for any number of samples: every layer takes up its initial weights when its
first chunk is written.
"""


class Encoder(nn.Module):
    """Tokenizer and trunk.

    ``checkpointing`` recomputes activations chunk by chunk in backward; it changes no result.
    ``compiled`` runs the blocks through ``torch.compile``: equal to rounding, faster after a minute
    or so of compilation per new shape.

    ``group`` shares out the views of every chunk among processes that are all given the same views:
    each embeds, attends and reads its own, and all end with the same memory. Requests are each
    process's own. Parameters get each process's part of their gradients, to be summed over the
    group.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        self.compiled = False
        self.group: Group | None = None
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

    def views_per_chunk(self, views: Views) -> int:
        """How many views of this size are written per step; all of them where ``chunk_tokens`` is
        0.
        """
        if self.config.chunk_tokens == 0:
            return max(1, len(views))
        return max(
            1, self.config.chunk_tokens * self.config.patch**2 // (views.hw[0] * views.hw[1])
        )

    def with_chunks(self, tokens: int) -> "Encoder":
        """The same encoder, parameters shared, that writes ``tokens`` per fast-weight step (0: all
        inputs at once).
        """
        other = copy.copy(self)
        other.config = replace(self.config, chunk_tokens=tokens)
        return other

    def update(self, memory: SceneMemory, views: Views) -> SceneMemory:
        """Push observed views [b v] in model space. How a stream is split into pushes changes
        nothing.
        """
        if memory.finished:
            raise InputError(
                "this memory is finished; keep the unfinished one to push further views."
            )
        if views.rgb is None:
            raise InputError("update needs observed views, found requests without rgb.")
        self._check_size(views)
        if self.compiled and self.group is not None:
            raise InputError("the encoder has both compiled and a group of processes; choose one.")
        pending = views if memory.pending is None else Views.cat([memory.pending, views])
        memory = replace(memory, pending=pending, views_seen=memory.views_seen + len(views))
        if self.config.schedule == "causal":
            size = self.views_per_chunk(views)
            while memory.pending is not None and len(memory.pending) >= size:
                memory = self._write_causal(memory, size)
        return memory

    def finish(self, memory: SceneMemory) -> SceneMemory:
        """Write what is pending (the last chunk may be short); afterwards the memory is only
        read.
        """
        if memory.finished:
            return memory
        if memory.pending is not None:
            if self.config.schedule == "causal":
                memory = self._write_causal(memory, len(memory.pending))
            else:
                memory = self._write_layer_by_layer(memory)
        return replace(memory, finished=True)

    def query(self, memory: SceneMemory, requests: Views) -> ViewTokens:
        """Tokens of the requested views [b v] in model space: the same cost whatever the memory has
        seen.
        """
        memory = self.finish(memory)
        x = self.tokenize(requests)
        for block, state in zip(self.blocks, memory.layers, strict=True):
            x = block(self._query_layer, state, x)
        return x

    def _check_size(self, views: Views) -> None:
        h, w = views.hw
        if h % self.config.patch or w % self.config.patch:
            raise InputError(
                f"image size {h}x{w} is not a multiple of the patch size "
                f"{self.config.patch}; resize the views."
            )

    def _write_causal(self, memory: SceneMemory, size: int) -> SceneMemory:
        assert memory.pending is not None
        chunks, rest = [self.tokenize(self._own(memory.pending[:size]))], memory.pending[size:]
        return replace(
            memory, layers=self._write(memory.layers, chunks), pending=rest if len(rest) else None
        )

    def _write_layer_by_layer(self, memory: SceneMemory) -> SceneMemory:
        assert memory.pending is not None
        size = self.views_per_chunk(memory.pending)
        chunks = [
            self.tokenize(self._own(memory.pending[i : i + size]))
            for i in range(0, len(memory.pending), size)
        ]
        return replace(memory, layers=self._write(memory.layers, chunks), pending=None)

    def _write(
        self, layers: tuple[FastWeightState, ...], chunks: list[Tensor]
    ) -> tuple[FastWeightState, ...]:
        written = []
        for i, block in enumerate(self.blocks):
            # Nobody reads the inputs' own tokens after the last layer.
            chunks, state = block(
                self._write_layer, layers[i] if layers else None, chunks, i + 1 < len(self.blocks)
            )
            written.append(state)
        return tuple(written)

    def _write_layer(
        self, block: Block, before: FastWeightState | None, chunks: list[Tensor], read: bool
    ) -> tuple[list[Tensor], FastWeightState]:
        """Write all chunks, then, with ``read``, let all of them read the result."""
        state = block.ttt.initial_state(len(chunks[0])) if before is None else before
        # One list, replaced entry by entry: two copies of the residual stream never exist in
        # inference.
        for c, x in enumerate(chunks):
            chunks[c] = self._run(block.attend, x)
            state = self._run(block.write, state, chunks[c], self.group)
        if read:
            for c, x in enumerate(chunks):
                chunks[c] = self._run(block.read, state, x)
        return chunks, state

    def _query_layer(self, block: Block, state: FastWeightState, x: ViewTokens) -> ViewTokens:
        return self._run(block.read, state, self._run(block.attend, x))

    def _own(self, chunk: Views) -> Views:
        """This process's views of a chunk: whole ones, since attention is among the tokens of a
        view; possibly none.
        """
        if self.group is None:
            return chunk
        rank, count = dist.get_rank(self.group), dist.get_world_size(self.group)
        return chunk[len(chunk) * rank // count : len(chunk) * (rank + 1) // count]

    def _run(self, function: Callable, *arguments):
        if self.compiled and not recording():
            # compiled code is kept per function and shape, and shared by all blocks
            function = torch.compile(function)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)


def unpatchify(
    patches: Float[Tensor, "b v t ppc"], hw: tuple[int, int], patch: int
) -> Float[Tensor, "b v c h w"]:
    """Per-token values (row in patch, column in patch, channel) back to images."""
    return rearrange(
        patches, "b v (y x) (p q c) -> b v c (y p) (x q)", y=hw[0] // patch, p=patch, q=patch
    )
