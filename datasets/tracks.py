"""Points followed through a clip in 3D: what Stereo4D carries beside its cameras."""

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError


@dataclass(frozen=True)
class Tracks:
    """n points of the scene at t moments."""

    points: Float[Tensor, "n t 3"]
    """In the clip's space and unit; NaN where a point was not seen."""
    times: Float[Tensor, " t"]
    """Seconds, on the clip's clock, ascending."""

    def __post_init__(self) -> None:
        if bool((self.times.diff() <= 0).any()):
            raise InputError("the times of tracks do not increase; sort them and drop repeats.")

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    def some(self, most: int) -> "Tracks":
        """An even choice of at most ``most``: of those seen longest among neighbours in the file's
        order.
        """
        if len(self) <= most:
            return self
        seen = (~self.points.isnan().any(-1)).sum(1)
        edges = torch.linspace(0, len(self), most + 1).round().long().tolist()
        chosen = [a + int(seen[a:b].argmax()) for a, b in itertools.pairwise(edges)]
        return dataclasses.replace(self, points=self.points[chosen])

    def at(self, seconds: Float[Tensor, " k"]) -> Float[Tensor, "n k 3"]:
        """Where the points are at other moments, ``seconds``: straight from one of their own to the
        next.

        NaN before the first and after the last of their own moments, and between two where a point
        is unseen at either.
        """
        seconds = seconds.to(self.times)
        high = torch.searchsorted(self.times, seconds)  # times[high - 1] < seconds <= times[high]
        inside = high < len(self.times)
        high = high.clamp_max(len(self.times) - 1)
        exact = self.times[high] == seconds
        low = torch.where(exact, high, (high - 1).clamp_min(0))
        inside &= exact | (high > 0)
        share = (seconds - self.times[low]) / (self.times[high] - self.times[low]).clamp_min(1e-12)
        found = torch.lerp(self.points[:, low], self.points[:, high], share[:, None])
        return torch.where(inside[:, None], found, torch.nan)
