"""Adam over those Gaussians that are there, and the Gaussians of a moment with gradients: what
every step runs through.

On a processor both are compiled (``fsm.refine.kernels``); elsewhere the same is done by torch.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.kernels.compiled import on_threads, workers
from fsm.refine import kernels
from fsm.refine.config import Rates
from fsm.refine.kernels import BETA1, BETA2, EPSILON, MOVING, SH
from fsm.refine.parameters import WIDTHS, FreeGaussians
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.types import Gaussians3D

# in standard deviations: how far in time a Gaussian is there
REACH = math.sqrt(-2.0 * math.log(MIN_WEIGHT))
LENGTHS = 6  # columns that are lengths: centres and velocities
TIMED = ("means", "velocities", "times", "log_time_scales")


class Adam:
    """Adam (arXiv 1412.6980) over rows: Gaussians that took no part in a step keep values, moments
    and age.

    A Gaussian that is there for a moment would otherwise drift on old momentum during all the steps
    that look elsewhere.
    """

    FIELDS = ("values", "first", "second", "age", "shares")

    def __init__(self, free: FreeGaussians, shares: Float[Tensor, "n g"] | None = None) -> None:
        self.values = free.packed().detach().clone()
        """Parameters, one row a Gaussian; see ``FreeGaussians.packed``."""
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.age = torch.zeros_like(free.times)
        """Steps that each Gaussian took part in."""
        self.shares = self.values.new_zeros(len(self.values), 0) if shares is None else shares
        """Of g motions in each Gaussian's, 0 where it follows none; no step changes them."""

    @property
    def free(self) -> FreeGaussians:
        """The parameters as they are (views, not copies)."""
        return FreeGaussians.unpacked(self.values)

    def there(self, times: Float[Tensor, " v"]) -> Int[Tensor, " m"]:
        """Which are there at one of ``times``, by the rule of ``MovingGaussians.at``."""
        reach = REACH * self.free.log_time_scales.exp()
        return ((times[:, None] - self.free.times).abs() <= reach).any(0).nonzero()[:, 0]

    @torch.no_grad()
    def step(
        self,
        rows: Int[Tensor, " m"],
        gradient: Float[Tensor, "m p"],
        rates: Float[Tensor, " p"],
        units: Float[Tensor, " n"],
    ) -> None:
        """One step of the distinct Gaussians ``rows``; each moves in its own unit of length,
        ``units``.

        A Gaussian whose gradient is not finite sits it out; one that is always there does not start
        to move.
        """
        if self.values.device.type == "cpu":
            own = (t.numpy() for t in (self.values, self.first, self.second, self.age))
            n, given = workers(), (t.contiguous().numpy() for t in (rows, gradient, rates, units))
            on_threads(kernels.adam_step, n, n, *own, *given)
        else:
            self._step_in_torch(rows, gradient, rates, units)

    def _step_in_torch(self, rows: Tensor, gradient: Tensor, rates: Tensor, units: Tensor) -> None:
        still = torch.isinf(self.values[rows, 7])
        gradient = gradient.clone()
        gradient[still, 3:MOVING] = 0.0
        sound = torch.isfinite(gradient).all(1)
        rows, gradient = rows[sound], gradient[sound]
        self.age[rows] += 1.0
        one, two = (1.0 - beta ** self.age[rows, None] for beta in (BETA1, BETA2))
        m = torch.lerp(gradient, self.first[rows], BETA1)
        v = torch.lerp(gradient.square(), self.second[rows], BETA2)
        self.first[rows], self.second[rows] = m, v
        length = torch.arange(len(rates), device=rates.device) < LENGTHS
        steps = rates * torch.where(length, units[rows, None], torch.ones_like(rates))
        self.values[rows] -= steps * (m / one) / ((v / two).sqrt() + EPSILON)

    @torch.no_grad()
    def replace(
        self, kept: Int[Tensor, " m"], added: Float[Tensor, "a p"], parents: Int[Tensor, " a"]
    ) -> None:
        """Keep the Gaussians ``kept`` with their moments, and append new ones without any, which
        follow what ``parents`` do.
        """
        zeros = torch.zeros_like(added)
        for name, more in (
            ("values", added),
            ("first", zeros),
            ("second", zeros),
            ("age", zeros[:, 0]),
            ("shares", self.shares[parents]),
        ):
            setattr(self, name, torch.cat([getattr(self, name)[kept], more]))

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue."""
        return {name: getattr(self, name) for name in self.FIELDS}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        for name in self.FIELDS:
            setattr(self, name, state[name])


def rate_columns(rates: Rates, p: int, share: float, others: float) -> Float[Tensor, " p"]:
    """Learning rates of the columns of ``FreeGaussians.packed``.

    ``share`` multiplies those of centres, velocities, times and durations, ``others`` the rest.
    """
    columns = []
    for name, width in WIDTHS.items():
        columns += [getattr(rates, name) * (share if name in TIMED else others)] * width
    columns += [rates.sh * others * (1.0 if i < 3 else 0.05) for i in range(p - len(columns))]
    return torch.tensor(columns)


def at_moment(columns: Float[Tensor, "m p"], time: Float[Tensor, ""]) -> Gaussians3D:
    """The Gaussians ``columns``, all of them, as they are at ``time``. Differentiable in
    ``columns``.
    """
    if columns.device.type != "cpu":
        return FreeGaussians.unpacked(columns).moving().at(time, 0.0)
    return Gaussians3D(*_AtMoment.apply(columns, float(time)))  # pyright: ignore[reportArgumentType]


class _AtMoment(torch.autograd.Function):
    @staticmethod
    def forward(ctx, columns, time):  # pyright: ignore[reportIncompatibleMethodOverride]
        m, n, kept = len(columns), workers(), columns.detach().contiguous()
        out = columns.new_empty(m, 3), columns.new_empty(m, 6), columns.new_empty(m)
        on_threads(kernels.at_moment, n, n, kept.numpy(), time, *(t.numpy() for t in out))
        ctx.save_for_backward(kept)
        ctx.time = time
        return (*out, kept[:, SH:].unflatten(1, (-1, 3)))

    @staticmethod
    @once_differentiable
    def backward(ctx, means, covariances, opacities, sh):  # pyright: ignore[reportIncompatibleMethodOverride]
        (columns,) = ctx.saved_tensors
        n, gradient = workers(), torch.empty_like(columns)
        gradient[:, SH:] = sh.flatten(1)
        given = (t.contiguous().numpy() for t in (means, covariances, opacities))
        on_threads(
            kernels.at_moment_backward, n, n, columns.numpy(), ctx.time, *given, gradient.numpy()
        )
        return gradient, None
