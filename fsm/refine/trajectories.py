"""Trajectories under refinement: a turn and a shift of every knot; and Gaussians that follow."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.refine.frame_values import FrameValues
from fsm.renderers.gaussians.follow import Follow
from fsm.renderers.gaussians.rotations import covariance_matrix, upper_triangle
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.renderers.motion.quaternions import matrices, multiply, unit
from fsm.renderers.motion.trajectories import Trajectories, one_sided

WIDTH = 6  # of each motion at each knot: half a turn's axis and tangent, and a shift


class Motions:
    """The g motions that Gaussians follow, under refinement; a shift of 1 is ``unit`` long."""

    def __init__(self, follow: Follow | None, unit: float) -> None:
        none = Trajectories.at_rest(0, torch.zeros(1))
        self.start, self.unit = (follow.trajectories if follow else none).detach(), unit
        count, device = len(self.start.times), self.start.times.device
        self.knots = FrameValues(torch.arange(count), WIDTH * len(self.start), device)
        """What has been added at each knot."""

    @property
    def trajectories(self) -> Trajectories:
        """As they are. Differentiable in ``knots``."""
        return self.moved_by(self.knots.values)

    def moved_by(self, knots: Float[Tensor, "k c"]) -> Trajectories:
        """As they started, moved by ``knots``. Differentiable."""
        turn, shift = knots.unflatten(1, (len(self.start), WIDTH)).split(3, dim=-1)
        quats = torch.cat([torch.ones_like(turn[..., :1]), turn], -1)
        return dataclasses.replace(
            self.start,
            quats=multiply(unit(quats), unit(self.start.quats)),
            translations=self.start.translations + self.unit * shift,
        )

    @full_precision
    def carried(
        self,
        now: Gaussians3D,
        columns: Float[Tensor, "m p"],
        shares: Float[Tensor, "m g"],
        time: Float[Tensor, ""],
    ) -> Gaussians3D:
        """``now``, the Gaussians ``columns`` as they are at ``time`` without any trajectory, where
        those with ``shares`` have been carried. Differentiable.
        """
        index = shares.any(1).nonzero()[:, 0]
        if len(index) == 0:
            return now
        follow = Follow(self.trajectories, shares[index], index)
        places = columns[index, :3]
        moved, quats = follow.carried(places, columns[index, 6], time)
        turns = matrices(quats)
        turned = upper_triangle(turns @ covariance_matrix(now.covariances[index]) @ turns.mT)
        return dataclasses.replace(
            now,
            means=now.means.index_add(0, index, moved - places),
            covariances=now.covariances.index_copy(0, index, turned),
        )

    def follow(self, shares: Float[Tensor, "n g"], knots: Float[Tensor, "k c"]) -> Follow | None:
        """Inverse of ``shares_of``, of motions moved by ``knots``."""
        index = shares.any(1).nonzero()[:, 0]
        return None if len(index) == 0 else Follow(self.moved_by(knots), shares[index], index)

    def roughness(self) -> Float[Tensor, ""]:
        """Mean square of the second differences of knots, in the mean gap between them: of
        quaternions, and of translations in units of length.
        """
        found = self.trajectories
        times = found.times
        if len(found) == 0 or len(times) < 3:
            return times.new_zeros(())
        slopes = torch.cat([one_sided(unit(found.quats)), found.translations / self.unit], -1)
        gap = times.diff() / times.diff().mean()
        slopes = slopes.diff(dim=0) / gap[:, None, None]
        return slopes.diff(dim=0).square().sum(-1).mean()

    def step(self, rate: float) -> None:
        """One step by the gradients there are."""
        self.knots.step(rate, self.knots.camera[:0])

    def state(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {"unit": self.unit, **self.knots.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.unit = state["unit"]
        self.knots.load_state(state)


def shares_of(follow: Follow | None, n: int) -> Float[Tensor, "n g"]:
    """Shares of g motions in all n Gaussians, 0 where they follow nothing."""
    if follow is None:
        return torch.zeros(n, 0)
    shares = follow.weights.new_zeros(n, follow.weights.shape[1])
    shares[follow.index] = follow.weights
    return shares
