"""Gaussians that follow trajectories: each is carried by a blend of a few rigid motions.

A Gaussian is given at its own time s. At time t a motion g brings its centre p to
R_g(t) R_g(s)ᵀ (p - T_g(s)) + T_g(t). The centre is the mean of those, by the Gaussian's weights;
its covariance is turned by the normalised mean of the quaternions. Harmonics are left as they are.
"""

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.gaussians.rotations import covariance_matrix, upper_triangle
from fsm.renderers.gaussians.types import GaussianFields
from fsm.renderers.motion.quaternions import aligned, conjugate, matrices, multiply, unit
from fsm.renderers.motion.trajectories import Trajectories


@dataclass(frozen=True)
class Follow:
    """Which m of n Gaussians follow which of g motions."""

    trajectories: Trajectories
    weights: Float[Tensor, "m g"]
    """Share of each motion: not negative, 1 in all for each Gaussian."""
    index: Int[Tensor, " m"]
    """Which Gaussians they are, increasing."""

    def __len__(self) -> int:
        """Number of Gaussians m that follow."""
        return len(self.index)

    def to(self, device: torch.device | str) -> "Follow":
        """All tensors on ``device``."""
        return Follow(self.trajectories.to(device), self.weights.to(device), self.index.to(device))

    def detach(self) -> "Follow":
        """The same values without a graph."""
        return Follow(self.trajectories.detach(), self.weights.detach(), self.index)

    def check(self, n: int, where: str) -> "Follow":
        """Itself; ``InputError`` naming ``where`` if this cannot belong to n Gaussians."""
        self.trajectories.check(where)
        outside = (self.index < 0) | (self.index >= n)
        if bool(outside.any()) or bool((self.index.diff() <= 0).any()):
            raise InputError(
                f"{where}: the followers' index does not increase from 0 to {n - 1}; make the "
                "scene again."
            )
        if not bool(self.weights.isfinite().all()):
            raise InputError(f"{where}: weights hold NaN or infinite values; make the scene again.")
        return self

    def mask(self, n: int) -> Tensor:
        """[n] bool: which of n Gaussians follow."""
        follows = torch.zeros(n, dtype=torch.bool, device=self.index.device)
        follows[self.index] = True
        return follows

    def chosen(self, index: slice | Tensor, n: int) -> "Follow | None":
        """What is left where Gaussians are chosen from n by ``index`` (a slice, [m] or [n]); None
        where none of those follow.
        """
        place = torch.full((n,), -1, dtype=torch.long, device=self.index.device)
        place[self.index] = torch.arange(len(self), device=self.index.device)
        picked = place[index]
        there = (picked >= 0).nonzero()[:, 0]
        if len(there) == 0:
            return None
        return Follow(self.trajectories, self.weights[picked[there]], there)

    @staticmethod
    def cat(parts: "list[Follow | None]", lengths: list[int]) -> "Follow | None":
        """Join what belongs to consecutive ``lengths`` of Gaussians; trajectories must be shared.

        Raises ``ValueError`` where parts follow different trajectories.
        """
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        some = [(f, start) for f, start in zip(parts, starts, strict=True) if f is not None]
        if not some:
            return None
        trajectories = some[0][0].trajectories
        if any(f.trajectories is not trajectories for f, _ in some):
            raise ValueError("Gaussians that follow different trajectories cannot be joined")
        return Follow(
            trajectories,
            torch.cat([f.weights for f, _ in some]),
            torch.cat([f.index + start for f, start in some]),
        )

    @full_precision
    def carried(
        self,
        means: Float[Tensor, "m 3"],
        times: Float[Tensor, " m"],
        time: float | Float[Tensor, "*m"],
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 4"]]:
        """Centres of the followers at ``time``, and the unit quaternions that turn them.

        ``means`` are the followers' centres at their own ``times``. Differentiable.
        """
        target = torch.as_tensor(time, dtype=means.dtype, device=means.device)
        quats, shifts = self.trajectories.poses(times)
        to_quats, to_shifts = self.trajectories.poses(target.reshape(-1))
        turns = multiply(*torch.broadcast_tensors(to_quats, conjugate(quats)))
        moved = (matrices(turns) @ (means[:, None] - shifts)[..., None])[..., 0] + to_shifts
        heaviest = self.weights.argmax(-1)[:, None, None].expand(-1, 1, 4)
        blend = (self.weights[..., None] * aligned(turns, turns.gather(1, heaviest))).sum(1)
        return (self.weights[..., None] * moved).sum(1), unit(blend)

    @full_precision
    def velocities(
        self, means: Float[Tensor, "m 3"], times: Float[Tensor, " m"]
    ) -> Float[Tensor, "m 3"]:
        """Change of the followers' centres per unit of time, each at its own time. No gradient."""
        with torch.enable_grad():
            when = times.detach().clone().requires_grad_()
            centres, _ = self.detach().carried(means.detach(), times.detach(), when)
            # each centre depends on its own moment only, so that a sum's gradient is theirs
            along = [
                torch.autograd.grad(c.sum(), when, retain_graph=True, allow_unused=True)[0]
                for c in centres.unbind(-1)
            ]
        return torch.stack([torch.zeros_like(times) if a is None else a for a in along], -1)


@dataclass(frozen=True)
class FollowingFields(GaussianFields):
    """``GaussianFields`` of Gaussians some of which may follow trajectories."""

    follow: Follow | None = dataclasses.field(default=None, kw_only=True)
    """Which follow trajectories; None: none does."""

    def __getitem__(self, index: slice | Tensor):
        """Those chosen by a slice, indices or a mask."""
        chosen = super().__getitem__(index)
        if self.follow is None:
            return chosen
        return dataclasses.replace(chosen, follow=self.follow.chosen(index, len(self)))

    def to(self, device: torch.device | str):
        """All tensors on ``device``."""
        moved = super().to(device)
        if self.follow is None:
            return moved
        return dataclasses.replace(moved, follow=self.follow.to(device))

    def detach(self):
        """The same values without a graph."""
        detached = super().detach()
        if self.follow is None:
            return detached
        return dataclasses.replace(detached, follow=self.follow.detach())

    @property
    def follows(self) -> Tensor:
        """[n] bool: which follow trajectories."""
        n = len(self)
        if self.follow is None:
            return torch.zeros(n, dtype=torch.bool, device=self.tensors()[0].device)
        return self.follow.mask(n)


def carry(
    follow: Follow,
    means: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 6"],
    times: Float[Tensor, " n"],
    time: float | Float[Tensor, ""],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 6"]]:
    """Means and covariances of all n Gaussians where the followers have come to ``time``."""
    index = follow.index
    moved, quats = follow.carried(means[index], times[index], time)
    turns = matrices(quats)
    turned = upper_triangle(turns @ covariance_matrix(covariances[index]) @ turns.mT)
    return means.index_copy(0, index, moved), covariances.index_copy(0, index, turned)
