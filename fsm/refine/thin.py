"""Fewer Gaussians: those that make up most of the pictures stay, and cover what all did."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.refine.adam import Adam
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.views import Views


def thin(adam: Adam, shares: Float[Tensor, " n"], most: int, generator: torch.Generator) -> None:
    """Keep ``most`` Gaussians, sampled by ``shares``, and enlarge them until they cover what all
    did.
    """
    shares = shares.clamp_min(1e-6)
    # The first of exponential waiting times: samples without replacement, of any number
    # (Efraimidis and Spirakis 2006).
    waiting = -torch.rand(len(shares), generator=generator).log().to(shares.device) / shares
    kept = waiting.argsort(stable=True)[:most].sort().values
    larger = 0.5 * torch.log(shares.sum() / shares[kept].sum())
    adam.replace(kept, adam.values[:0], kept[:0])
    adam.free.log_scales.add_(larger)


def shares_of_pictures(
    adam: Adam,
    views: Views,
    at: Callable[[Tensor, Tensor], Gaussians3D],
    picture: Callable[[Gaussians3D, Views], Tensor],
) -> Float[Tensor, " n"]:
    """How much of all pixels of ``views`` [v] is each Gaussian's: its weights, summed over pixels.
    ``at`` gives the Gaussians of these rows at a moment.

    With all colours alike, the gradient of the sum of a ``picture`` by a Gaussian's colour is the
    sum of its weights.
    """
    shares = torch.zeros_like(adam.age)
    for i in range(len(views)):
        rows = adam.there(views.time[i : i + 1])
        now = at(rows, views.time[i])
        grey = torch.zeros_like(now.sh[:, :1]).requires_grad_()
        shown = picture(dataclasses.replace(now, sh=grey), views[i])
        (share,) = torch.autograd.grad(shown.sum(), grey)
        shares[rows] += share.sum((1, 2))
    return shares
