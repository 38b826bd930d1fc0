"""What one process computes of a sequence, and what each of several computes of its part: outputs
and gradients.

``python -m tests.ttt.parallel_cases FOLDER`` runs the parts (RANK of WORLD_SIZE) and leaves each
process's results there.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from fsm.blocks import BlockConfig
from fsm.encoder import Encoder, EncoderConfig
from fsm.train.parallelize import parallelize, summed
from fsm.ttt import (
    ElasticConfig,
    fast_weight_apply,
    fast_weight_gradient,
    fast_weight_step,
    initial_state,
)
from fsm.views import Views

CHUNKS = (9, 9, 4, 1)  # the last is so short that a process has none of it
VIEWS, HW = 5, (32, 48)  # chunks of two views, and one of one
Results = dict[str, Tensor]


def part(n: int, group: dist.ProcessGroup | None) -> slice:
    rank, count = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    return slice(n * rank // count, n * (rank + 1) // count)


def fast_weights(
    group: dist.ProcessGroup | None,
    elastic: ElasticConfig | None,
    dtype: torch.dtype,
    chunks: tuple[int, ...],
) -> Results:
    """Final weights, this process's outputs (and the axis they join along), and its part of the
    gradients.
    """
    g = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    initial = (random(2, 3, 6, 10) * 0.4).requires_grad_()
    # by column: one factor for all would change nothing
    scale = torch.ones(6, dtype=dtype, requires_grad=True)
    state = initial_state(initial, 2, elastic)
    for n in chunks:
        own = part(n, group)
        k, v, rates = (random(2, 2, n, width)[:, :, own] for width in (6, 6, 3))
        k, rates = torch.nn.functional.normalize(k, dim=-1), rates.abs() * 0.02
        target = "value" if elastic is None else elastic.target
        gradient = fast_weight_gradient(state.weights, k, v * scale, rates, target)
        gradient = gradient if group is None else summed(gradient, group)
        state = fast_weight_step(state, gradient, elastic=elastic, ns_steps=5, ns_dtype=dtype)
    queries, wanted = random(2, 2, 7, 6), random(2, 2, 7, 6)
    own = part(7, group)
    seen = fast_weight_apply(state.weights, queries[:, :, own])
    (seen * wanted[:, :, own]).sum().backward()
    assert initial.grad is not None
    assert scale.grad is not None
    return {
        "weights": state.weights.detach(),
        "out2": seen.detach(),
        "grad0": initial.grad,
        "grad1": scale.grad,
    }


def views(n: int, seed: int) -> Views:
    g = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4, dtype=torch.float64).repeat(1, n, 1, 1)
    c2w[..., :3, 3] = torch.randn(1, n, 3, generator=g, dtype=torch.float64) * 0.3
    intrinsics = torch.tensor([40.0, 40.0, 24.0, 16.0], dtype=torch.float64).repeat(1, n, 1)
    rgb = torch.rand(1, n, 3, *HW, generator=g, dtype=torch.float64)
    return Views(c2w, intrinsics, torch.linspace(-1, 1, n, dtype=torch.float64)[None], HW, rgb)


def encoder(
    group: dist.ProcessGroup | None,
    schedule: Literal["update-all-then-apply", "causal"],
    checkpointing: bool,
) -> Results:
    """The same of a small encoder in float64: memory, tokens of this process's requests, gradients
    of all parameters.
    """
    torch.manual_seed(0)
    block = BlockConfig(
        dim=16, attention_head_dim=8, ns_dtype="float32", elastic=ElasticConfig("mas")
    )
    model = Encoder(EncoderConfig(block, layers=2, chunk_tokens=48, schedule=schedule)).double()
    for layer in model.blocks:
        layer.ttt.ns_dtype = torch.float64
    parallelize(model, group=group, checkpointing=checkpointing)
    memory = model.finish(model.update(model.empty(1), views(VIEWS, seed=0)))
    own = part(3, group)
    tokens = model.query(memory, views(3, seed=1)[own].without_rgb())
    wanted = torch.randn(
        1, 3, *tokens.shape[2:], generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    (tokens * wanted[:, own]).sum().backward()
    found = {f"memory {i}": s.weights.detach() for i, s in enumerate(memory.layers)} | {
        "out1": tokens.detach()
    }
    return found | {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}


SI = ElasticConfig("si", lam=0.9, initial_importance=0.2)
EWC = ElasticConfig("ewc", "streaming", lam=0.9, importance_scale="mean")
OURS = ElasticConfig("mas", lam=0.9, step_decay=0.5, target="novelty")
CASES: dict[str, Callable[[dist.ProcessGroup | None], Results]] = {
    "plain": partial(fast_weights, elastic=None, dtype=torch.float64, chunks=CHUNKS),
    "si": partial(fast_weights, elastic=SI, dtype=torch.float64, chunks=CHUNKS),
    "ewc": partial(fast_weights, elastic=EWC, dtype=torch.float64, chunks=CHUNKS),
    "ours": partial(fast_weights, elastic=OURS, dtype=torch.float64, chunks=CHUNKS),
    # One chunk that spans all directions: each Newton-Schulz amplifies the rounding of a sum in
    # another order.
    "float32": partial(fast_weights, elastic=SI, dtype=torch.float32, chunks=(200,)),
    "encoder": partial(encoder, schedule="update-all-then-apply", checkpointing=False),
    "recomputed": partial(encoder, schedule="update-all-then-apply", checkpointing=True),
    "causal": partial(encoder, schedule="causal", checkpointing=False),
    "causal, recomputed": partial(encoder, schedule="causal", checkpointing=True),
}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    world = dist.group.WORLD
    torch.save(
        {name: case(world) for name, case in CASES.items()},
        Path(sys.argv[1]) / f"{dist.get_rank()}.pt",
    )
    dist.destroy_process_group()
