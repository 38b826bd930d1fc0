"""Moving Gaussians to where the error is: faint ones are taken away, those that cover error are
split in two.

Like 3DGS-MCMC (arXiv 2404.09591) the number of Gaussians follows a plan instead of thresholds.
Error is assigned as in Rota Bulò et al. 2024 (arXiv 2404.06109): a Gaussian is to blame for the
error of its pixels, by its share of their colour.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.refine.adam import Adam
from fsm.refine.config import Density
from fsm.refine.parameters import FreeGaussians, rotation

# of a standard deviation: halves lie this far from the middle, and are this large
APART, SHRUNK = 0.6, 0.7


def redistribute(
    adam: Adam,
    blame: Float[Tensor, " n"],
    density: Density,
    least_time: float,
    generator: torch.Generator,
) -> int:
    """One round: remove the faint, split those with blame (at random, in proportion). Returns how
    many were split.
    """
    free = adam.free
    stays = torch.sigmoid(free.logit_opacities) >= density.least_opacity
    weights = torch.where(stays, blame, torch.zeros_like(blame))
    alive = int(stays.sum())
    planned = len(free) - alive + math.ceil(density.growth * len(free))
    wanted = min(planned, density.most - alive, int((weights > 0).sum()))
    parents = stays.nonzero()[:0, 0]
    if wanted > 0:
        parents = torch.multinomial(weights, wanted, generator=generator)
        stays[parents] = False
    added = split(adam.values[parents], least_time, density.in_time, generator)
    adam.replace(stays.nonzero()[:, 0], added, parents.repeat(2))
    return max(0, wanted)


def split(
    columns: Float[Tensor, "m p"], least_time: float, in_time: float, generator: torch.Generator
) -> Float[Tensor, "2*m p"]:
    """Halves of Gaussians: apart along their longest axis in space, or (a share of ``in_time``)
    along time.

    Halves are as opaque as keeps the sum of the optical depth, -log(1 - opacity).
    """
    free = FreeGaussians.unpacked(columns)
    m = len(free)
    axis = free.log_scales.argmax(-1)
    direction = rotation(free.quats)[torch.arange(m), :, axis]
    duration = free.log_time_scales.exp()
    temporal = (
        (torch.rand(m, generator=generator) < in_time)
        & (SHRUNK * duration >= least_time)
        & ~duration.isinf()
    )
    shift = APART * free.log_scales.exp()[torch.arange(m), axis, None] * direction
    later = torch.where(temporal, APART * duration, torch.zeros_like(duration))
    shift = torch.where(temporal[:, None], later[:, None] * free.velocities, shift)
    halves = []
    for sign in (-1.0, 1.0):
        half = columns.clone()
        view = FreeGaussians.unpacked(half)
        view.means.add_(sign * shift)
        view.times.add_(sign * later)
        view.log_scales[torch.arange(m), axis] += torch.where(temporal, 0.0, math.log(SHRUNK))
        view.log_time_scales.add_(torch.where(temporal, math.log(SHRUNK), 0.0))
        # softplus(x) = -log(1 - sigmoid(x))
        depth = F.softplus(free.logit_opacities) / (2.0 * SHRUNK)
        view.logit_opacities.copy_(torch.log(torch.expm1(depth).clamp_min(1e-6)))
        halves.append(half)
    return torch.cat(halves)
