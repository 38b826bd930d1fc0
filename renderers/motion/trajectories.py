"""Rigid motions over time, by knots between which they are smooth.

Between knots a motion is a cubic Hermite curve. The slope at a knot is that of the parabola through
it and its neighbours (at an end, through the three knots there). Rotations take the same curve on
quaternions and are normalised. Before the first knot and after the last one a motion rests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.motion.quaternions import (
    conjugate,
    matrices,
    multiply,
    of_matrices,
    unit,
)


@dataclass(frozen=True)
class Trajectories:
    """g rigid motions at k moments. Differentiable in the knots."""

    times: Float[Tensor, " k"]
    """Model time, increasing."""
    quats: Float[Tensor, "k g 4"]
    """Rotations, wxyz, of any length; either sign."""
    translations: Float[Tensor, "k g 3"]
    """Model units, added after the rotation."""
    centres: Float[Tensor, "g 3"] | None = None
    """Points about which they turn; None: the origin. A point p goes to R (p - c) + c + T."""

    def __len__(self) -> int:
        """Number of motions g."""
        return self.quats.shape[1]

    @staticmethod
    def at_rest(count: int, times: Float[Tensor, " k"]) -> "Trajectories":
        """``count`` motions that leave everything where it is."""
        quats = times.new_zeros(len(times), count, 4)
        quats[..., 0] = 1.0
        return Trajectories(times, quats, times.new_zeros(len(times), count, 3))

    def to(self, device: torch.device | str) -> "Trajectories":
        """All tensors on ``device``."""
        return self._mapped(lambda t: t.to(device))

    def detach(self) -> "Trajectories":
        """The same values without a graph."""
        return self._mapped(lambda t: t.detach())

    def _mapped(self, fn: Callable[[Tensor], Tensor]) -> "Trajectories":
        centres = None if self.centres is None else fn(self.centres)
        return Trajectories(fn(self.times), fn(self.quats), fn(self.translations), centres)

    def check(self, where: str) -> "Trajectories":
        """Itself; ``InputError`` naming ``where`` if order or values are impossible."""
        values = (self.times, self.quats, self.translations, self.centres)
        if not all(bool(t.isfinite().all()) for t in values if t is not None):
            raise InputError(f"{where}: knots hold NaN or infinite values; make the scene again.")
        if bool((self.times.diff() <= 0).any()):
            raise InputError(f"{where}: times of knots do not increase; sort them.")
        return self

    def poses(
        self, times: Float[Tensor, " m"]
    ) -> tuple[Float[Tensor, "m g 4"], Float[Tensor, "m g 3"]]:
        """Unit quaternions and translations, about the origin, at m moments."""
        basis = _basis(self.times, times)
        quats = unit(torch.einsum("mk,kgc->mgc", basis, one_sided(unit(self.quats))))
        translations = torch.einsum("mk,kgc->mgc", basis, self.translations)
        if self.centres is not None:
            turned = (matrices(quats) @ self.centres[..., None])[..., 0]
            translations = translations + (self.centres - turned)
        return quats, translations

    def at(
        self, time: float | Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "g 3 3"], Float[Tensor, "g 3"]]:
        """Rotations and translations at one moment."""
        moment = torch.as_tensor(time, dtype=self.times.dtype, device=self.times.device)
        quats, translations = self.poses(moment.reshape(1))
        return matrices(quats[0]), translations[0]

    def relative(
        self, time_from: float | Float[Tensor, ""], time_to: float | Float[Tensor, ""]
    ) -> tuple[Float[Tensor, "g 3 3"], Float[Tensor, "g 3"]]:
        """Rotations and translations that carry points of ``time_from`` to ``time_to``."""
        (start, origin), (end, target) = self.at(time_from), self.at(time_to)
        turn = end @ start.mT
        return turn, target - (turn @ origin[..., None])[..., 0]

    def transformed(
        self, rotation: Float[Tensor, "3 3"], shift: Float[Tensor, " 3"], scale: float | Tensor
    ) -> "Trajectories":
        """The same motions where p has become ``rotation`` p · ``scale`` [] + ``shift``."""
        turn = of_matrices(rotation).to(self.quats).expand_as(self.quats)
        quats = multiply(multiply(turn, unit(self.quats)), conjugate(turn))
        linear = rotation.double() * scale
        centres = self.translations.new_zeros(len(self), 3)
        centres = (centres if self.centres is None else self.centres).double() @ linear.T
        moved = (self.translations.double() @ linear.T).to(self.translations)
        return Trajectories(self.times, quats, moved, (centres + shift).to(moved))


def one_sided(quats: Float[Tensor, "k g 4"]) -> Float[Tensor, "k g 4"]:
    """The same rotations with signs so that neighbours in time are near each other."""
    flips = (quats[1:] * quats[:-1]).sum(-1, keepdim=True) < 0
    signs = torch.where(flips, -1.0, 1.0).to(quats).cumprod(0)
    return quats * torch.cat([torch.ones_like(quats[:1, :, :1]), signs])


def _basis(knots: Float[Tensor, " k"], times: Float[Tensor, " m"]) -> Float[Tensor, "m k"]:
    """Weights of k knots in the curves' values at m moments. Differentiable in ``times``."""
    k = len(knots)
    if k == 1:
        return torch.ones_like(times)[:, None]
    held = times.clamp(knots[0], knots[-1])
    i = (torch.searchsorted(knots, held.detach(), right=True) - 1).clamp(0, k - 2)
    span = knots[i + 1] - knots[i]
    u = ((held - knots[i]) / span)[:, None]
    value = torch.nn.functional.one_hot(torch.arange(k, device=times.device), k).to(times)
    slope = _slopes(knots)
    return (
        value[i] * (1 + 2 * u) * (1 - u).square()
        + value[i + 1] * u.square() * (3 - 2 * u)
        + slope[i] * span[:, None] * u * (1 - u).square()
        - slope[i + 1] * span[:, None] * u.square() * (1 - u)
    )


def _slopes(knots: Float[Tensor, " k"]) -> Float[Tensor, "k k"]:
    """Matrix from values at the knots to slopes there; of parabolas through three knots."""
    k, gap = len(knots), knots.diff()
    between = torch.zeros(k - 1, k, dtype=knots.dtype, device=knots.device)
    row = torch.arange(k - 1, device=knots.device)
    between[row, row], between[row, row + 1] = -1.0 / gap, 1.0 / gap
    before, after = gap[:-1, None], gap[1:, None]
    if k == 2:
        return between.expand(2, 2)
    middle = (between[:-1] * after + between[1:] * before) / (before + after)
    # of the parabola through the three knots at either end
    return torch.cat([2 * between[:1] - middle[:1], middle, 2 * between[-1:] - middle[-1:]])
