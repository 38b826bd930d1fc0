"""How a model is computed by the machines at hand. The model itself mentions none of this.

``parallelize`` wraps the steps of every block, one instance at a time: activations recomputed in
backward, compiled code, tokens shared out among processes. ``shard`` leaves every process its part
of the parameters (FSDP2). ``Parallel`` is a model wrapped as a training config says.

Tokens shared out: the gradient of a chunk is a sum over its tokens, so that the gradients of its
parts add up. What follows the sum (Newton-Schulz, elastic pull, norms, anchor) is computed alike by
all, from the same bits. One all-reduce of 3 d m values per head, layer and chunk, in float32:
rounding the sum to bfloat16 would move the final weights by per cents, since Newton-Schulz
amplifies what is small.

Parameters in parts: each block is gathered when a pass through the layers comes to it, and freed
after it: once for the inputs, once for the targets, and again for each of them in backward, where
its gradients are averaged and shared out. What lies outside of blocks (embedding and head) is
gathered once per step. Scalars stay whole in every process.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint

from fsm.blocks import Block, record_pull_ratio
from fsm.encoder import Encoder
from fsm.errors import InputError
from fsm.model import FSM
from fsm.train.config import TrainConfig
from fsm.train.team import Team
from fsm.views import Views

NEEDED = (2, 13)  # FSDP looks for tensors in the dataclasses that blocks take and return
STEPS = ("attend", "write", "read")  # of a block; each is one unit of compiling and recomputing
T = TypeVar("T")


class Parallel:
    """A model as this process computes it, with its part of the work of ``team``."""

    def __init__(self, model: FSM, config: TrainConfig, device: str, team: Team) -> None:
        self.model, self.device, self.team = model, device, team
        self.dtype = getattr(torch, config.precision)
        self.compiled = config.compile
        self.root: nn.Module | None = None
        parallelize(
            model.encoder,
            group=team.group,
            compile=config.compile,
            checkpointing=config.checkpointing,
        )

    def shard(self) -> None:
        """Leave this process its part of every parameter; all processes have the same weights."""
        self.root = shard(self.model, self.device)

    def call(self, work: Callable[..., T], *arguments: Any) -> T:
        """``work(*arguments)``, a function of the model, with the model's parameters at hand.

        All processes must call alike.
        """
        return work(*arguments) if self.root is None else self.root(work, *arguments)

    def autocast(self) -> torch.autocast:
        """Matrix products in the number format of the run."""
        # What is gathered is freed soon: no copy of it may stay until the end of the step.
        return torch.autocast(
            self.device.split(":")[0],
            self.dtype,
            enabled=self.dtype != torch.float32,
            cache_enabled=self.root is None,
        )

    @contextlib.contextmanager
    def observed(self) -> Iterator[list[Float[Tensor, " b"]]]:
        """Collect the pull ratios of the steps inside (``record_pull_ratio``).

        Blocks run eagerly: compiled code can be neither listened to nor counted.
        """
        with contextlib.ExitStack() as around:
            if self.compiled:
                around.enter_context(torch.compiler.set_stance("force_eager"))
            yield around.enter_context(record_pull_ratio(self.model))


def parallelize(
    encoder: Encoder,
    *,
    group: dist.ProcessGroup | None = None,
    compile: bool = False,
    checkpointing: bool = False,
) -> None:
    """Change, in place, how an encoder computes, and nothing about what.

    ``checkpointing`` recomputes activations chunk by chunk in backward. ``compile`` runs the blocks
    through ``torch.compile``: equal to rounding, faster after a minute or so of compilation per new
    shape. ``group`` shares out the views of every chunk among processes that are all given the same
    views: each embeds, attends and reads its own, and all end with the same memory. Requests are
    each process's own. Parameters get each process's part of their gradients, to be summed over the
    group.
    """
    if compile and group is not None:
        raise InputError("the encoder has both compile and a group of processes; choose one.")
    for block in encoder.blocks:
        for name in STEPS if compile else ():
            # Compiled code is kept per function and shape, and shared by all blocks.
            setattr(block, name, torch.compile(getattr(block, name)))
        for name in STEPS if checkpointing else ():
            setattr(block, name, _recomputed(getattr(block, name)))
    if group is not None:
        _share_tokens(encoder, group)


def _recomputed(step: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(step)
    def run(*arguments: Any) -> T:
        if torch.is_grad_enabled():
            return checkpoint(step, *arguments, use_reentrant=False)  # pyright: ignore[reportReturnType]
        return step(*arguments)

    return run


def _share_tokens(encoder: Encoder, group: dist.ProcessGroup) -> None:
    write = encoder.write
    encoder.write = lambda layers, chunks: write(layers, [own_views(c, group) for c in chunks])
    for block in encoder.blocks:
        block.ttt.gradient = _summed_gradient(block.ttt.gradient, group)


def _summed_gradient(
    gradient: Callable[..., Tensor], group: dist.ProcessGroup
) -> Callable[..., Tensor]:
    return lambda *arguments: summed(gradient(*arguments), group)


def own_views(chunk: Views, group: dist.ProcessGroup) -> Views:
    """This process's views of a chunk: whole ones, since attention is among the tokens of a view;
    possibly none.
    """
    rank, count = dist.get_rank(group), dist.get_world_size(group)
    return chunk[len(chunk) * rank // count : len(chunk) * (rank + 1) // count]


def summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum of ``x``, of any shape, over the processes of ``group``, the same bits in all.

    Its gradient is summed likewise, because each process's loss is a part of the whole: gradients
    of parameters then add up over the group to those of a single process. All processes must
    differentiate, in the same order.
    """
    total = _Summed.apply(x, group)
    assert isinstance(total, Tensor)
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0], ctx.group), None


def _all_reduced(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


class _Root(nn.Module):
    """Around the model, which keeps its class; whatever is called of it is called through here."""

    def __init__(self, model: FSM) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable, *arguments: Any) -> Any:
        return work(*arguments)


def shard(model: FSM, device: str) -> nn.Module:
    """Leave this process its part of ``model``, in place; the module to call the model's functions
    through from now on: ``root(function, *arguments)``.

    Parameters of blocks are there within that call only. All processes must have the same weights,
    and call alike. ``InputError`` for a torch that is too old.
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
    for block in model.encoder.blocks:
        # One call per pass through the layers, whatever the number of chunks.
        for name in (Block.update.__name__, Block.query.__name__):
            register_fsdp_forward_method(block, name)
    return root
