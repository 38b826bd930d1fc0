"""One chunk on several processes: the gradient of a chunk is a sum over its tokens, so parts of it
add up.

What follows the sum (Newton-Schulz, elastic pull, norms, anchor) is computed alike by all, from the
same bits. One all-reduce of 3 d m values per head, layer and chunk, in float32: rounding the sum to
bfloat16 would move the final weights by per cents, since Newton-Schulz amplifies what is small.
"""

from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

Group: TypeAlias = dist.ProcessGroup
"""Processes that share out the tokens of every chunk."""


def summed(x: Tensor, group: Group) -> Tensor:
    """Sum of ``x`` over the processes of ``group``, the same bits in all.

    Its gradient is summed likewise, because each process's loss is a part of the whole: gradients
    of parameters then add up over the group to those of a single process. All processes must
    differentiate, in the same order.
    """
    total = _Summed.apply(x, group)
    assert isinstance(total, Tensor)
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _all_reduced(gradients[0], ctx.group), None


def _all_reduced(x: Tensor, group: Group) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
