"""The processes of one training: each differentiates its part of every batch, and all take the same
step.

Groups of processes may share samples: each group has the same ones, shares out the inputs' tokens
(``fsm.train.parallelize``) and the targets, and differentiates its mean over its own targets.

Gradients are averaged in float32 whatever they were computed in, and everything that decides (the
norm they are clipped by, whether a step is skipped, whether to stop) is computed from what all have
received, so that the copies of the model stay equal.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fsm.errors import InputError
from fsm.shards import WHOLE, Shard, torchrun_process

BUCKET = 1 << 24  # values sent at once: 64 MiB beside the gradients
LOST = re.compile("gloo|connection", re.IGNORECASE)  # gloo's errors have no class of their own


@dataclass(frozen=True)
class Team:
    """This process among all of a training."""

    part: Shard = WHOLE
    device: str = "cpu"
    """Where what is exchanged lies."""
    group: dist.ProcessGroup | None = None
    """Processes that share samples with this one, itself included."""
    group_size: int = 1
    """How many they are: consecutive ones of all."""

    @property
    def leads(self) -> bool:
        """The one process that writes checkpoints and logs."""
        return self.part.index == 0

    @property
    def samples(self) -> Shard:
        """Which samples of a step are its group's."""
        return Shard(self.part.index // self.group_size, self.part.count // self.group_size)

    def own(self, targets: int) -> slice:
        """Which of the targets of its group's samples are its own; all groups of a size share
        evenly.
        """
        each, place = targets // self.group_size, self.part.index % self.group_size
        return slice(each * place, each * (place + 1))

    def agree(self, **values: int) -> None:
        """Refuse to start where processes differ in one of ``values`` (below 2**62)."""
        ends = torch.tensor(
            [[v, -v] for v in values.values()], dtype=torch.int64, device=self.device
        )
        _exchange(ends, dist.ReduceOp.MAX)
        for name, (most, least) in zip(values, ends.tolist(), strict=True):
            if most != -least:
                raise InputError(
                    f"the processes of this training differ in {name}; give all the same "
                    "command, software and run folder."
                )

    def average(
        self, parameters: Iterable[nn.Parameter], numbers: Mapping[str, float]
    ) -> dict[str, float]:
        """Replace gradients by their means over all processes; the means of ``numbers``.

        A parameter that has a gradient in no process keeps none, so that its optimiser state stays
        untouched. Parameters that lie in parts (``fsm.train.parallelize``) have theirs averaged in
        backward.
        """
        if self.part.count == 1:
            return dict(numbers)
        learnt = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
        small = [*numbers.values(), *(float(p.grad is not None) for p in learnt)]
        shared = torch.tensor(small, dtype=torch.float64, device=self.device)
        _exchange(shared, dist.ReduceOp.SUM)
        means = (shared / self.part.count).tolist()
        used = [p for p, share in zip(learnt, means[len(numbers) :], strict=True) if share > 0]
        for bucket in _buckets(used):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([g.flatten().float() for g in grads])
            _exchange(flat, dist.ReduceOp.SUM)
            flat /= self.part.count
            for p, g in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                p.grad = g.view_as(p).to(p.dtype)
        return dict(zip(numbers, means, strict=False))


ALONE = Team()


@contextlib.contextmanager
def joined(device: str, group_size: int = 1) -> Iterator[Team]:
    """Meet the other processes that torchrun started, if any, and part from them at the end.

    Every ``group_size`` consecutive ones share samples.
    """
    part = torchrun_process()
    count = 1 if part is None else part.count
    if count % group_size:
        raise InputError(
            f"train config: token_parallel is {group_size}, but there are {count} "
            "processes; start a multiple of "
            f"{group_size} with torchrun, or --set token_parallel=1."
        )
    if part is None or count == 1:
        yield Team(device=device)
        return
    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            "RANK and WORLD_SIZE are set, but MASTER_ADDR is not; start several processes "
            "with torchrun."
        )
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        group = None
        if group_size > 1:
            group, _ = dist.new_subgroups(group_size)
            assert isinstance(group, dist.ProcessGroup)
        yield Team(part, device, group, group_size)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """The end of another process, wherever an exchange with it fails, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or LOST.search(str(error))):
            raise
        raise InputError(
            "another process of this training has ended; its own message says why, the "
            "last checkpoint is whole, and the same "
            "command resumes from it."
        ) from error


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for p in parameters:
        if bucket and sum(q.numel() for q in bucket) + p.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket


def _exchange(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    with noticing_losses():
        dist.all_reduce(tensor, operation)
