"""Random choices of a refinement: functions of its seed and of where it is, so that a run that goes
on makes the same ones.
"""

import torch

STREAMS = 4  # frames, redistribution, thinning, views beside


def generator(seed: int, stream: int, number: int) -> torch.Generator:
    """The random numbers of one choice: the ``number``-th of one of the ``STREAMS``."""
    return torch.Generator().manual_seed((seed * STREAMS + stream) * 1_000_003 + number)


def in_turn(v: int, turn: int, count: int, seed: int, stream: int) -> list[int]:
    """The ``count`` views of a turn among v: every one once, in random order, before any comes
    again.
    """
    out = []
    for position in range(turn * count, (turn + 1) * count):
        order = torch.randperm(v, generator=generator(seed, stream, position // v))
        out.append(int(order[position % v]))
    return out
