"""A training whose parameters, gradients, optimiser state and average lie in parts, one per process
(FSDP2).

Each block is gathered when a pass through the layers comes to it, and freed after it: once for the
inputs, once for the targets, and again for each of them in backward, where its gradients are
averaged and shared out. What lies outside of blocks (embedding and head) is gathered once per step.
Scalars stay whole in every process.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from fsm.errors import InputError
from fsm.model import FSM

NEEDED = (2, 13)  # FSDP looks for tensors in the dataclasses that blocks take and return
T = TypeVar("T")


def call(work: Callable[..., T], *arguments: Any) -> T:
    """``work(*arguments)`` of a model that lies whole in every process."""
    return work(*arguments)


class _Root(nn.Module):
    """Around the model, and not the model itself, which keeps its class and may be copied
    (``FSM.with_chunks``).
    """

    def __init__(self, model: FSM) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable, *arguments: Any) -> Any:
        return work(*arguments)


def shard(model: FSM, device: str) -> Callable[..., Any]:
    """Leave this process its part of ``model``, in place; what to ``call`` the model's functions
    through from now on.

    Parameters of blocks are there within that call only. All processes must have the same weights,
    and call alike.
    """
    found = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if found < NEEDED:
        raise InputError(
            f"parallel: fsdp needs torch {NEEDED[0]}.{NEEDED[1]}, found "
            f"{torch.__version__}; train with ddp."
        )
    mesh = init_device_mesh(device.split(":")[0], (dist.get_world_size(),))

    def place(p: nn.Parameter) -> Shard | None:
        """The first axis that divides evenly: one fast-weight head would otherwise lie in one
        process.
        """
        return next((Shard(axis) for axis, n in enumerate(p.shape) if n % mesh.size() == 0), None)

    root = _Root(model)
    scalars = {p for p in model.parameters() if p.ndim == 0}
    for module in (*model.encoder.blocks, root):
        fully_shard(module, mesh=mesh, shard_placement_fn=place, ignored_params=scalars)
    return root


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
