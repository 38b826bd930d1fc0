"""Uniform random numbers of several seeds, given out in a fixed order."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_NUMBERS = 2048  # per seed
_FIRST_SEED = 1_000_064  # of the generators; the world of every seed depends on it


class SeededSampler:
    """Random numbers of b seeds, from one generator per seed.

    The numbers of a seed do not depend on the other seeds of the batch. All values are float64 on
    the CPU.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        generators = [torch.Generator().manual_seed(_FIRST_SEED + int(seed)) for seed in seeds]
        rows = [torch.rand(_NUMBERS, generator=g, dtype=torch.float64) for g in generators]
        self.numbers, self.taken = torch.stack(rows), 0

    def unit(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), shape [b, *shape]."""
        count = math.prod(shape)
        part = self.numbers[:, self.taken : self.taken + count]
        self.taken += count
        assert self.taken <= _NUMBERS, "raise _NUMBERS"
        return part.reshape(-1, *shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), of shape [b *shape]."""
        return low + (high - low) * self.unit(*shape)

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1, of shape [b *shape]."""
        return torch.where(self.unit(*shape) < 0.5, -1.0, 1.0).double()

    def pick(self, choices: list[int], *shape: int) -> Tensor:
        """One of the choices, of shape [b *shape]."""
        return torch.tensor(choices)[(self.unit(*shape) * len(choices)).long()]
