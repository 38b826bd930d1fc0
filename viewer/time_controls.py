"""The clock of a viewer: where it stands, how it moves, and what moves with it. Arithmetic only, no
threads.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fsm.errors import InputError

SPEEDS = (0.1, 4.0)
"""Slowest and fastest, in seconds of the clip per second."""


@dataclass(frozen=True)
class Playback:
    """A moment of playback; every method returns the next one.

    ``cursor`` is what the slider shows. ``moment`` is what is rendered: the cursor, or the moment
    that is frozen.
    """

    frames: tuple[float, ...]
    """Times of the input frames, in seconds, ascending, each once."""
    cursor: float
    """Seconds."""
    playing: bool = False
    speed: float = 1.0
    """Seconds of the clip per second of the wall clock."""
    loop: bool = True
    frozen: float | None = None
    """The moment shown while time is frozen; the cursor then moves nothing but the camera, if that
    follows.
    """
    follow: bool = False
    """The camera travels along the clip's own path with the cursor; otherwise the view is frozen,
    or the user's.
    """

    @staticmethod
    def over(times: Sequence[float]) -> "Playback":
        """Standing at the first of the input frames' ``times`` (seconds, any order, repeats
        allowed).
        """
        if not times:
            raise InputError("a viewer needs at least one input camera, found none.")
        frames = tuple(sorted(set(times)))
        return Playback(frames, frames[0])

    def over_frames(self, times: Sequence[float]) -> "Playback":
        """Over other input frames, everything else kept: the cursor, and a frozen moment, held to
        them.
        """
        frames = Playback.over(times).frames
        held = [
            None if t is None else min(max(t, frames[0]), frames[-1])
            for t in (self.cursor, self.frozen)
        ]
        playing = self.playing and len(frames) > 1
        return dataclasses.replace(
            self, frames=frames, cursor=held[0], frozen=held[1], playing=playing
        )

    @property
    def first(self) -> float:
        """Seconds of the first input frame."""
        return self.frames[0]

    @property
    def last(self) -> float:
        """Seconds of the last input frame."""
        return self.frames[-1]

    @property
    def duration(self) -> float:
        """Seconds from the first to the last input frame."""
        return self.last - self.first

    @property
    def moment(self) -> float:
        """Seconds to render."""
        return self.cursor if self.frozen is None else self.frozen

    @property
    def fraction(self) -> float:
        """The cursor's place in the clip, 0 to 1; 0 where the clip has no duration."""
        return 0.0 if self.duration == 0 else (self.cursor - self.first) / self.duration

    def sought(self, seconds: float) -> "Playback":
        """The cursor at ``seconds``, held to the clip; goes on playing if it was."""
        return dataclasses.replace(self, cursor=min(max(seconds, self.first), self.last))

    def put(self, seconds: float) -> "Playback":
        """Standing at ``seconds``, held to the clip, with time frozen there if it was frozen."""
        there = dataclasses.replace(self.sought(seconds), playing=False)
        return there if self.frozen is None else dataclasses.replace(there, frozen=there.cursor)

    def stepped(self, steps: int) -> "Playback":
        """Standing ``steps`` input frames further (negative: back); from between two frames the
        next one counts.

        At the ends a loop goes round, otherwise the cursor stays.
        """
        count = len(self.frames)
        if steps > 0:
            index = bisect.bisect_right(self.frames, self.cursor) - 1 + steps
        else:
            index = bisect.bisect_left(self.frames, self.cursor) + steps
        index = index % count if self.loop else min(max(index, 0), count - 1)
        return dataclasses.replace(self, cursor=self.frames[index], playing=False)

    def played(self) -> "Playback":
        """Playing; from the start again where it stands at the end and does not loop. A single
        moment never plays.
        """
        if self.duration == 0:
            return self
        ended = not self.loop and self.cursor >= self.last
        return dataclasses.replace(self, playing=True, cursor=self.first if ended else self.cursor)

    def paused(self) -> "Playback":
        """Standing where it is."""
        return dataclasses.replace(self, playing=False)

    def at_speed(self, speed: float) -> "Playback":
        """At another speed, held to ``SPEEDS``."""
        return dataclasses.replace(self, speed=min(max(speed, SPEEDS[0]), SPEEDS[1]))

    def looping(self, loop: bool) -> "Playback":
        """Starting over at the end, or stopping there."""
        return dataclasses.replace(self, loop=loop)

    def freezing_time(self, freeze: bool) -> "Playback":
        """Time held at the present moment, or released."""
        return dataclasses.replace(self, frozen=self.moment if freeze else None)

    def freezing_view(self, freeze: bool) -> "Playback":
        """The camera left alone, or carried along the clip's path by the cursor."""
        return dataclasses.replace(self, follow=not freeze)

    def advanced(self, elapsed: float) -> "Playback":
        """After ``elapsed`` seconds of the wall clock; frames that take long are skipped, not
        slowed down.
        """
        if not self.playing or elapsed <= 0:
            return self
        along = self.cursor - self.first + elapsed * self.speed
        if along < self.duration:
            return dataclasses.replace(self, cursor=self.first + along)
        if self.loop:
            return dataclasses.replace(self, cursor=self.first + along % self.duration)
        return dataclasses.replace(self, cursor=self.last, playing=False)


def nearest_frame(times: Sequence[float], seconds: float) -> int:
    """Index of the time nearest to ``seconds``; of equally near ones the first."""
    return min(range(len(times)), key=lambda i: (abs(times[i] - seconds), i))
