"""The clock of a film that plays in the browser."""

import threading
import time
from collections.abc import Callable

TICK = 1 / 30
"""Seconds between moments; drawing keeps its own pace and skips."""


class FilmClock:
    """A thread that runs through a film once, or round and round, until it is stopped."""

    def __init__(
        self,
        start: float,
        duration: float,
        loop: bool,
        tick: Callable[[float], bool],
        ended: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``tick`` gets the seconds of the film, at last exactly ``duration``, and may end it by
        returning False.

        ``ended`` is called when it is over, but not when it was stopped.
        """
        self._start, self._duration, self._loop = start, duration, loop
        self._tick, self._ended, self._clock = tick, ended, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fsm-viewer-film-clock", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """No tick comes after this."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        began, going = self._clock(), True
        while going and not self._stop.is_set():
            now = self._start + self._clock() - began
            if now >= self._duration:
                now = now % self._duration if self._loop else self._duration
                going = self._loop
            going = self._tick(now) and going
            self._stop.wait(TICK)
        if not self._stop.is_set():
            self._ended()
