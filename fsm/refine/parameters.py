"""What refinement optimises: Gaussians by centre, velocity, duration and shape.

The two quaternions of ``Gaussians4D`` couple velocity, duration and shape: a step in one moves the
others. Refinement works on the conditional form (``MovingGaussians``), which says the same, and
goes back by an eigendecomposition.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.factorise import rotations_and_scales
from fsm.renderers.gaussians.four_dimensional import LONGEST, four_dimensional, rotation
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians

WIDTHS = {
    "means": 3,
    "velocities": 3,
    "times": 1,
    "log_time_scales": 1,
    "log_scales": 3,
    "quats": 4,
}
WIDTHS |= {"logit_opacities": 1}


@dataclass(frozen=True)
class FreeGaussians:
    """n Gaussians by unconstrained parameters. An infinite ``log_time_scales`` means: always there,
    and still.
    """

    means: Float[Tensor, "n 3"]
    """Centres at ``times``, model space."""
    velocities: Float[Tensor, "n 3"]
    """Per unit of model time."""
    times: Float[Tensor, " n"]
    """When each is fully there, model time."""
    log_time_scales: Float[Tensor, " n"]
    """Of the standard deviation of the weight over time."""
    log_scales: Float[Tensor, "n 3"]
    """Of the standard deviations in space, at one moment."""
    quats: Float[Tensor, "n 4"]
    """Their axes, wxyz, any length."""
    logit_opacities: Float[Tensor, " n"]
    """At ``times``."""
    sh: Float[Tensor, "n k 3"]
    """As in ``Gaussians4D``."""

    def __len__(self) -> int:
        """Number of Gaussians n."""
        return len(self.means)

    @staticmethod
    @torch.no_grad()
    def from_gaussians(gaussians: Gaussians4D) -> "FreeGaussians":
        """The parameters of Gaussians. Opacities are held to [1e-4, 0.9999], where logits are
        finite.
        """
        moving = gaussians.condition()
        quats, scales = rotations_and_scales(moving.covariances)
        always = torch.isinf(gaussians.time_scales)
        log_time_scales = 0.5 * moving.time_variances.log().clamp_max(2.0 * math.log(LONGEST))
        return FreeGaussians(
            gaussians.means,
            torch.where(always[:, None], torch.zeros_like(moving.velocities), moving.velocities),
            gaussians.times,
            torch.where(always, torch.full_like(log_time_scales, math.inf), log_time_scales),
            scales.log(),
            quats,
            torch.logit(gaussians.opacities.clamp(1e-4, 0.9999)),
            gaussians.sh,
        )

    @staticmethod
    def unpacked(columns: Float[Tensor, "n p"]) -> "FreeGaussians":
        """Inverse of ``packed``: views of the columns."""
        parts = columns.split([*WIDTHS.values(), columns.shape[1] - sum(WIDTHS.values())], dim=1)
        fields = [part[:, 0] if part.shape[1] == 1 else part for part in parts[:-1]]
        return FreeGaussians(*fields, sh=parts[-1].unflatten(1, (-1, 3)))

    def packed(self) -> Float[Tensor, "n p"]:
        """All parameters of a Gaussian in one row, in the order of the fields."""
        return torch.cat(
            [getattr(self, f.name).reshape(len(self), -1) for f in dataclasses.fields(self)], dim=1
        )

    @full_precision
    def moving(self) -> MovingGaussians:
        """As rasterisers want them. Differentiable."""
        x, y, z = (rotation(self.quats) * self.log_scales.exp()[:, None]).unbind(1)
        covariances = torch.stack(
            [(a * b).sum(-1) for a, b in ((x, x), (x, y), (x, z), (y, y), (y, z), (z, z))], -1
        )
        opacities = torch.sigmoid(self.logit_opacities)
        variances = (2.0 * self.log_time_scales).exp()
        return MovingGaussians(
            self.means, self.velocities, self.times, variances, covariances, opacities, self.sh
        )

    @torch.no_grad()
    def standing(self, time: float) -> "FreeGaussians":
        """Those there at model ``time``, as they are then, for ever and still."""
        offset = time - self.times
        weight = torch.exp(-0.5 * offset.square() * (-2.0 * self.log_time_scales).exp())
        there = weight >= MIN_WEIGHT
        opacities = torch.sigmoid(self.logit_opacities) * weight
        all_of_them = dataclasses.replace(
            self,
            means=self.means + self.velocities * offset[:, None],
            velocities=torch.zeros_like(self.velocities),
            times=torch.full_like(self.times, time),
            log_time_scales=torch.full_like(self.log_time_scales, math.inf),
            logit_opacities=torch.logit(opacities.clamp(1e-4, 0.9999)),
        )
        return FreeGaussians.unpacked(all_of_them.packed()[there])

    @torch.no_grad()
    def gaussians(self) -> Gaussians4D:
        """The same as ``Gaussians4D``: its ``condition()`` is ``moving()``, to rounding."""
        always = torch.isinf(self.log_time_scales)[:, None]
        free = (self.velocities, self.moving().time_variances, self.quats, self.log_scales)
        left, right, scales = four_dimensional(*free)
        return Gaussians4D(
            self.means.clone(),
            self.times.clone(),
            torch.where(always, self.log_scales.exp(), scales[:, :3]),
            torch.where(always[:, 0], torch.full_like(self.times, math.inf), scales[:, 3]),
            torch.where(always, self.quats, left),
            torch.where(always, self.quats, right),
            torch.sigmoid(self.logit_opacities),
            self.sh.clone(),
        )
