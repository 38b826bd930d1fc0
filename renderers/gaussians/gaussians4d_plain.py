"""``Gaussians4D.condition`` and ``MovingGaussians.at`` in torch: short, differentiable, any device
and precision.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.gaussians.constants import LEAST_VARIANCE, LONGEST, SHORTEST
from fsm.renderers.gaussians.rotations import rotation_4d
from fsm.renderers.gaussians.types import Gaussians3D


def condition(
    scales: Float[Tensor, "n 3"],
    time_scales: Float[Tensor, " n"],
    left: Float[Tensor, "n 4"],
    right: Float[Tensor, "n 4"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, "n 6"]]:
    """Velocity, variance over time and covariance given the time (upper triangle).

    The conditional covariance is Σxx - Σxt Σtx / Σtt. Written out as sums over pairs of axes
    (Cauchy-Binet) it has no difference left: with rows L of the scaled rotation,
    Σ|t = Σ_{k<l} w w^T / Σtt,  w = L_xk L_tl - L_xl L_tk. The formula with the difference loses all
    digits for thin Gaussians that move fast.
    """
    lasting = time_scales.abs().clamp(SHORTEST, LONGEST)
    four = torch.cat([scales, lasting[:, None]], dim=-1)
    rotation = rotation_4d(left, right)
    # [n 4 4], rows x y z t
    scaled = rotation * four[:, None]
    space, time = scaled[:, :3], scaled[:, 3]
    safe = time.square().sum(-1).clamp_min(LEAST_VARIANCE)
    velocities = (space * time[:, None]).sum(-1) / safe[:, None]
    k, l = torch.triu_indices(4, 4, 1, device=scales.device).unbind(0)
    # Scales are taken out of the minors and divided first: their product overflows where a time
    # scale is "always".
    minors = rotation[:, :3, k] * rotation[:, 3:, l] - rotation[:, :3, l] * rotation[:, 3:, k]
    w = minors * (four[:, k] * (four[:, l] / safe.sqrt()[:, None]))[:, None]
    x, y, z = w.unbind(1)
    covariances = torch.stack(
        [(a * b).sum(-1) for a, b in ((x, x), (x, y), (x, z), (y, y), (y, z), (z, z))], -1
    )
    return velocities, safe, covariances


def weights(
    times: Float[Tensor, " n"], variances: Float[Tensor, " n"], time: float | Float[Tensor, ""]
) -> Float[Tensor, " n"]:
    """How much each Gaussian is there at ``time``, in [0, 1]."""
    return torch.exp(-0.5 * (time - times).square() / variances)


def at(
    time: float | Float[Tensor, ""],
    min_weight: float,
    means: Float[Tensor, "n 3"],
    velocities: Float[Tensor, "n 3"],
    times: Float[Tensor, " n"],
    variances: Float[Tensor, " n"],
    covariances: Float[Tensor, "n 6"],
    opacities: Float[Tensor, " n"],
    sh: Float[Tensor, "n k 3"],
) -> Gaussians3D:
    """Those whose weight at ``time`` is at least ``min_weight``; see ``MovingGaussians.at``."""
    dt, weight = time - times, weights(times, variances, time)
    if min_weight > 0.0:
        # chosen first, so that no gradient passes the others; NaN is not there
        index = (weight >= min_weight).nonzero()[:, 0]
        means, velocities, covariances = means[index], velocities[index], covariances[index]
        opacities, sh, dt, weight = opacities[index], sh[index], dt[index], weight[index]
    return Gaussians3D(means + velocities * dt[:, None], covariances, opacities * weight, sh)
