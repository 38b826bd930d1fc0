"""Gradients through many target views with the memory of one: deferred back-propagation (ARF, arXiv
2206.06360; FSM-LRM).

Each view is rendered from a copy of the Gaussians that has no history. Its loss is differentiated
at once and its graph dropped. The gradients that pile up on the copies are passed on to the network
once, at the end. Equal to summing the losses and calling backward.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians


def backward_view_by_view(
    gaussians: Sequence[Gaussians4D],
    views: int,
    loss: Callable[[MovingGaussians, int, int], Tensor],
) -> Tensor:
    """Back-propagate the sum of ``loss(gaussians[b], b, i)`` over batch entries b and ``views`` i;
    returns the detached sum.

    ``loss`` renders view i of entry b from the Gaussians it is given (conditioned on time) and
    compares.
    """
    names = MovingGaussians.names()
    moving = [g.condition() for g in gaussians]
    copies = [
        MovingGaussians(*(getattr(m, name).detach().requires_grad_() for name in names))
        for m in moving
    ]
    total = torch.zeros((), device=moving[0].means.device)
    for b, copy in enumerate(copies):
        for i in range(views):
            part = loss(copy, b, i)
            part.backward()
            total += part.detach()
    pairs = [
        (getattr(m, name), getattr(c, name).grad)
        for m, c in zip(moving, copies, strict=True)
        for name in names
    ]
    pairs = [(values, grad) for values, grad in pairs if grad is not None and values.requires_grad]
    torch.autograd.backward([values for values, _ in pairs], [grad for _, grad in pairs])
    return total
