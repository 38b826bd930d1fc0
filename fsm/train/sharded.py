"""Tensors that lie in parts, one per process (FSDP2): shared out, gathered, clipped by the norm of
all.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def part_like(whole: Tensor, example: Tensor) -> Tensor:
    """This process's part of a tensor that all have, shared out as ``example`` of the same shape
    is.
    """
    if not isinstance(example, DTensor) or whole.shape != example.shape:
        return whole
    return distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the whole state of an optimiser into one whose parameters lie in parts."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        i: {
            k: part_like(v, parameters[i]) if isinstance(v, Tensor) else v
            for k, v in values.items()
        }
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def gathered(values: Any, keep: bool) -> Any:
    """Nested dictionaries and lists with their tensors whole: on the CPU where ``keep``, None in
    the other processes.

    Only tensors that lie in parts are touched. Every process must ask for the same.
    """
    if isinstance(values, dict):
        return {k: gathered(v, keep) for k, v in values.items()}
    if isinstance(values, list):
        return [gathered(v, keep) for v in values]
    if isinstance(values, DTensor):
        whole = values.full_tensor()
        return whole.cpu() if keep else None
    return values


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scale gradients so that their norm over all processes' parts is at most ``most``; the norm
    before.
    """
    learnt = list(parameters)
    grads = [p.grad for p in learnt if p.grad is not None]
    parts = [g.to_local() for g in grads if isinstance(g, DTensor)]
    if not parts:
        return torch.nn.utils.clip_grad_norm_(learnt, most).item()
    whole = [g for g in grads if not isinstance(g, DTensor)]
    square = torch.nn.utils.get_total_norm(parts).double() ** 2
    dist.all_reduce(square)
    norm = (square + torch.nn.utils.get_total_norm(whole).to(square) ** 2).sqrt().float()
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for g in (*parts, *whole):
        g.mul_(factor)
    return norm.item()
