"""The choice of every function with a compiled twin: compiled code or plain torch."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def runs_compiled(*tensors: Tensor, constants: Iterable[Tensor] = ()) -> bool:
    """Whether the compiled form can do the work on these arguments, of any shape.

    It can if every tensor is float32 on the CPU and carries no forward-mode tangent, because
    compiled code knows reverse-mode gradients only. ``constants`` are arguments that the compiled
    form has no gradient for: plain torch does the work where autograd would ask for one.
    """
    constants = tuple(constants)
    if torch.is_grad_enabled() and any(t.requires_grad for t in constants):
        return False
    return all(
        t.device.type == "cpu"
        and t.dtype == torch.float32
        and forward_ad.unpack_dual(t).tangent is None
        for t in (*tensors, *constants)
    )
