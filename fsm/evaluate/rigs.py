"""Which cameras of a rig are held out, and how a few of its frames are spread over cameras and
moments.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from fsm.datasets.base import Clip
from fsm.errors import InputError

T = TypeVar("T")


def held_out(cameras: Sequence[str], wanted: Sequence[str], every: int, source: str) -> list[str]:
    """The cameras held out: those ``wanted`` by name or by place from 0, else every ``every``-th
    from the second on.

    Raises ``InputError`` for a single camera, for an unknown one, and where none is left.
    """
    if len(cameras) < 2:
        raise InputError(
            f"{source} has one camera; cameras are held out of several, so hold out frames or use "
            "the protocol dense."
        )
    if not wanted:
        return list(cameras[1::every])
    held = []
    for name in wanted:
        place = int(name) if name.isascii() and name.isdecimal() else len(cameras)
        if name not in cameras and place >= len(cameras):
            shown = ", ".join(cameras[:8]) + ", ..." * (len(cameras) > 8)
            raise InputError(f"{source} has no camera {name!r} to hold out; it has {shown}.")
        held.append(name if name in cameras else cameras[place])
    if set(held) == set(cameras):
        raise InputError(f"{source}: all cameras are held out; leave at least one as input.")
    return held


def cameras_of(clip: Clip) -> tuple[str, ...]:
    """The camera of every frame; of a clip of one moment whose views have no names of their own,
    every view is one.
    """
    if clip.static and len(set(clip.camera_ids)) < len(clip):
        return tuple(str(i) for i in range(len(clip)))
    return clip.camera_ids


def named(text: str) -> tuple[str, ...]:
    """The cameras of a flag: names or places from 0, with commas between them."""
    return tuple(name.strip() for name in text.split(","))


def frames_of(clip: Clip, wanted: Sequence[str]) -> set[int]:
    """Numbers of all frames of the cameras ``wanted`` by name or by place from 0; see
    ``held_out``.
    """
    cameras = cameras_of(clip)
    held = held_out(list(dict.fromkeys(cameras)), wanted, 1, clip.source)
    return {i for i, camera in enumerate(cameras) if camera in held}


def spread(
    frames: Sequence[int], cameras: Sequence[str], moments: Sequence[float], count: int
) -> tuple[int, ...]:
    """At most ``count`` of ``frames`` in ascending order, spread evenly over cameras and moments.

    ``cameras`` and ``moments`` are those of all frames. Moments and cameras are gone through side
    by side, both in scattered order, so that any first few of a complete rig are even over both.
    """
    if len(frames) <= count:
        return tuple(sorted(frames))
    found = {(cameras[i], moments[i]): i for i in frames}
    names = _scattered(list(dict.fromkeys(cameras[i] for i in frames)))
    times = _scattered(sorted({moments[i] for i in frames}))
    c, m = len(names), len(times)
    both = math.lcm(c, m)
    # After every least common multiple the same pairs would return: one camera is skipped.
    order = ((names[(k + k // both) % c], times[k % m]) for k in range(c * m))
    return tuple(sorted([found[pair] for pair in order if pair in found][:count]))


def _scattered(values: list[T]) -> list[T]:
    """The same in steps of about the golden section: any first few are spread over all."""
    n = len(values)
    step = next(s for s in range(max(1, round(0.618 * n)), n + 1) if math.gcd(s, n) == 1)
    return [values[i * step % n] for i in range(n)]
