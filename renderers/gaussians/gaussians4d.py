"""Gaussians in space and time: what the Gaussian decoder predicts and files hold.

Three forms of one scene, each a value:

* ``Gaussians4D``: free parameters. A 4x4 rotation from two quaternions, four scales, a centre in
  space and in time.
* ``MovingGaussians``: the same as time passes. Conditioning a 4D Gaussian on time gives a centre
  that moves at constant velocity, a covariance that does not change, and a weight that is a
  Gaussian of time (4D-GS, arXiv 2310.10642, Eq. 4-5).
* ``Gaussians3D`` (``types.py``): those of one moment.

Axes of the 4x4 rotation are (x, y, z, t). A vector is the quaternion t + xi + yj + zk and is
rotated as  left · v · conj(right): with left = right this is the ordinary rotation of space and
time stays what it is. Quaternions are wxyz and need not be unit. ``gaussians4d_plain.py`` has the
formulas in torch, ``gaussians4d_cpu.py`` the compiled ones.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.errors import InputError
from fsm.kernels.dispatch import runs_compiled
from fsm.rays import full_precision
from fsm.renderers.gaussians import gaussians4d_plain as plain
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.follow import Follow, FollowingFields, carry
from fsm.renderers.gaussians.types import GaussianFields, Gaussians3D


@dataclass(frozen=True)
class MovingGaussians(FollowingFields):
    """n Gaussians as time passes: ``at`` is a shift and a weight."""

    means: Float[Tensor, "n 3"]
    """Centres at ``times``."""
    velocities: Float[Tensor, "n 3"]
    """Change of the centre per unit of time."""
    times: Float[Tensor, " n"]
    """When each is fully there."""
    time_variances: Float[Tensor, " n"]
    """Squared standard deviation of the weight over time."""
    covariances: Float[Tensor, "n 6"]
    """Spatial covariance given the time: xx, xy, xz, yy, yz, zz."""
    opacities: Float[Tensor, " n"]
    """At ``times``."""
    sh: Float[Tensor, "n k 3"]
    """As in ``Gaussians3D``."""

    def weights(self, time: float | Float[Tensor, ""]) -> Float[Tensor, " n"]:
        """How much each is there at ``time``, in [0, 1]."""
        return plain.weights(self.times, self.time_variances, time)

    def at(self, time: float | Float[Tensor, ""], min_weight: float = MIN_WEIGHT) -> Gaussians3D:
        """Those there at ``time``: temporal weight at least ``min_weight`` (0 keeps all n).
        Differentiable. Those that follow trajectories are carried there first; their velocity
        is what they do beside that.
        """
        if self.follow is not None:
            means, covariances = carry(self.follow, self.means, self.covariances, self.times, time)
            carried = dataclasses.replace(self, means=means, covariances=covariances, follow=None)
            return carried.at(time, min_weight)
        if runs_compiled(constants=_with_time(self, time)):
            from fsm.renderers.gaussians.gaussians4d_cpu import moving_at

            return moving_at(float(time), min_weight, *self.tensors())
        return plain.at(time, min_weight, *self.tensors())


@dataclass(frozen=True)
class Gaussians4D(FollowingFields):
    """n Gaussians in space and time by their free parameters."""

    means: Float[Tensor, "n 3"]
    """Spatial centres."""
    times: Float[Tensor, " n"]
    """Temporal centres."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the first three rotated axes, above 0."""
    time_scales: Float[Tensor, " n"]
    """Standard deviation along the rotated time axis. Infinite: there at all times. 0: at its
    instant only. The sign is ignored.
    """
    left: Float[Tensor, "n 4"]
    """Left quaternion of the rotation, wxyz."""
    right: Float[Tensor, "n 4"]
    """Right quaternion of the rotation, wxyz; equal to ``left`` where nothing moves."""
    opacities: Float[Tensor, " n"]
    """In [0, 1]."""
    sh: Float[Tensor, "n k 3"]
    """As in ``Gaussians3D``."""

    @staticmethod
    def static(
        means: Float[Tensor, "n 3"],
        quats: Float[Tensor, "n 4"],
        scales: Float[Tensor, "n 3"],
        opacities: Float[Tensor, " n"],
        sh: Float[Tensor, "n k 3"],
    ) -> "Gaussians4D":
        """Ordinary 3D Gaussians, there at all times."""
        always = torch.full_like(opacities, math.inf)
        return Gaussians4D(
            means, torch.zeros_like(opacities), scales, always, quats, quats, opacities, sh
        )

    @staticmethod
    def cat(parts: "list[Gaussians4D]") -> "Gaussians4D":
        """Join; all parts must have the same degree of spherical harmonics, and those that follow
        trajectories the same ones.
        """
        return Gaussians4D(
            *(torch.cat(fields) for fields in zip(*(p.tensors() for p in parts), strict=True)),
            follow=Follow.cat([p.follow for p in parts], [len(p) for p in parts]),
        )

    @property
    def is_static(self) -> Bool[Tensor, " n"]:
        """Which are plain 3D Gaussians, there at all times and still."""
        still = (self.left == self.right).all(-1) & ~self.follows
        return torch.isinf(self.time_scales) & still

    @property
    def stands(self) -> Bool[Tensor, " n"]:
        """Which are of the static layer: there at all times and following no trajectory."""
        return torch.isinf(self.time_scales) & ~self.follows

    @full_precision
    def condition(self) -> MovingGaussians:
        """Centre, velocity, covariance and weight as functions of time. Differentiable."""
        free = (self.scales, self.time_scales, self.left, self.right)
        if runs_compiled(*free):
            from fsm.renderers.gaussians.gaussians4d_cpu import condition
        else:
            condition = plain.condition
        velocities, variances, covariances = condition(*free)
        return MovingGaussians(
            self.means,
            velocities,
            self.times,
            variances,
            covariances,
            self.opacities,
            self.sh,
            follow=self.follow,
        )

    def at(self, time: float | Float[Tensor, ""], min_weight: float = MIN_WEIGHT) -> Gaussians3D:
        """Those there at ``time``; see ``MovingGaussians.at``. Condition once and keep the result
        to ask for many times.
        """
        if self.follow is None and runs_compiled(constants=_with_time(self, time)):
            from fsm.renderers.gaussians.gaussians4d_cpu import free_at

            return free_at(float(time), min_weight, *self.tensors())
        return self.condition().at(time, min_weight)


def _with_time(gaussians: GaussianFields, time: float | Tensor) -> list[Tensor]:
    """Every tensor that the Gaussians of a moment depend on."""
    return [*gaussians.tensors(), time] if torch.is_tensor(time) else gaussians.tensors()


def check_finite(gaussians: Gaussians4D, where: str) -> None:
    """Raise ``InputError`` naming the first field that holds NaN or (time scales excepted) infinite
    values.
    """
    for name, values in zip(gaussians.names(), gaussians.tensors(), strict=True):
        bad = ~torch.isfinite(values) if name != "time_scales" else torch.isnan(values)
        if bool(bad.any()):
            raise InputError(
                f"{where}: {int(bad.sum())} values of {name} are NaN or infinite; "
                "drop those Gaussians."
            )
