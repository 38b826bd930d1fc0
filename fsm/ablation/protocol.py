"""Which frames are shown and which are asked for. Plans follow from the length of a clip alone; the
two never meet.

``spread`` and ``consecutive`` inputs are the paper's sparse and continuous ones (its Figure 5).
``Stream`` is ours: it asks what a memory still knows of its first inputs once many more have been
written.
"""

import itertools
from dataclasses import dataclass

from fsm.datasets.base import IndexPlan

WINDOW = 136
"""Frames about the middle of a clip that samples are taken from."""
TARGETS = 8
"""Targets of a sample."""
INPUT_COUNTS = (4, 8, 16, 32, 64)
"""Numbers of test inputs."""


def fits(frames: int, inputs: int) -> bool:
    """Whether a clip is long enough for this many inputs."""
    return frames >= inputs + TARGETS


def spread(frames: int, inputs: int) -> IndexPlan:
    """Inputs over the whole window. The targets are the same frames for every number of inputs."""
    length = min(frames, WINDOW)
    targets = [(2 * i + 1) * length // (2 * TARGETS) for i in range(TARGETS)]
    free = [i for i in range(length) if i not in targets]
    return _placed(frames, length, [free[i] for i in _even(len(free), inputs)], targets)


def consecutive(frames: int, inputs: int) -> IndexPlan:
    """As many frames in a row as inputs and targets need, the targets evenly among them."""
    length = inputs + TARGETS
    targets = [(2 * i + 1) * length // (2 * TARGETS) for i in range(TARGETS)]
    return _placed(frames, length, [i for i in range(length) if i not in targets], targets)


@dataclass(frozen=True)
class Stream:
    """A long stream in its order, and targets between its inputs."""

    inputs: tuple[int, ...]
    """Frames written."""
    early: int
    """How many of them come before the rest: the part whose retention is measured."""
    targets: tuple[int, ...]
    """Frames asked for, in order; each lies half-way between two inputs."""
    early_targets: int
    """How many of the targets lie between early inputs."""


def stream(frames: int, inputs: int = 64, early: int = 16) -> Stream | None:
    """``inputs`` even frames of a whole clip, and the frame in the middle of every other gap; None
    where gaps have no middle.
    """
    chosen = _even(frames, inputs)
    gaps = [(a, b) for a, b in itertools.pairwise(chosen)][::2]
    if any(b - a < 2 for a, b in gaps):
        return None
    targets = tuple((a + b) // 2 for a, b in gaps)
    return Stream(tuple(chosen), early, targets, sum(t < chosen[early - 1] for t in targets))


def _even(frames: int, count: int) -> list[int]:
    """``count`` different positions from first to last."""
    return [(2 * i * (frames - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def _placed(frames: int, length: int, inputs: list[int], targets: list[int]) -> IndexPlan:
    start = (frames - length) // 2
    return IndexPlan(tuple(start + i for i in inputs), tuple(start + i for i in targets))
