"""Renders for one browser, off its thread: the newest request wins, coarse at once and full when
nothing changes.

``Schedule`` and ``Resolution`` decide what is drawn when and how large; they know no threads and
are told the time. ``RenderWorker`` is the thread around them. It holds at most one waiting request,
so nothing can queue up.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Job = TypeVar("Job")
Picture = TypeVar("Picture")

SETTLE = 0.2
"""Seconds without a request after which the full picture is drawn."""
BUDGETS = {"Fluent": 1 / 12, "Balanced": 1 / 6, "Sharp": 1 / 3, "Full size": float("inf")}
"""Seconds that a picture may take while things move, by what the control calls it; the first is the
default.
"""
MIN_PIXELS = 48 * 48
FIRST_PIXELS = 128 * 128
"""Size of the first picture: nothing is known yet about the speed."""
MEMORY = 0.7
"""Weight of older pictures with every new one, in learning the speed."""
OVER = 1.5
"""Times the budget that pictures of one size may take before a smaller one is tried."""
POLL = 0.02
"""Seconds between looks whether a slow browser has taken the last picture."""


@dataclass(frozen=True)
class Work(Generic[Job]):
    """What to draw now."""

    job: Job
    full: bool
    """At full size whatever it takes; otherwise as large as the budget allows."""


class Schedule(Generic[Job]):
    """Which request is drawn when. Times are seconds of any monotonic clock."""

    def __init__(self, settle: float = SETTLE) -> None:
        self.settle = settle
        self._newest: Job | None = None
        self._unfinished: Job | None = None
        self._due = 0.0

    def submit(self, job: Job, now: float) -> None:
        """Replace whatever waits."""
        self._newest, self._unfinished, self._due = job, None, now + self.settle

    def take(self, now: float) -> Work[Job] | None:
        """What to draw at ``now``, if anything: a new request within the budget, or the last one in
        full.
        """
        if self._newest is not None:
            job, self._newest = self._newest, None
            self._unfinished = job
            return Work(job, full=False)
        if self._unfinished is not None and now >= self._due:
            job, self._unfinished = self._unfinished, None
            return Work(job, full=True)
        return None

    def forget(self) -> None:
        """Nothing is wanted any more."""
        self._newest = self._unfinished = None

    def done(self, job: Job) -> None:
        """``job`` needs no full picture any more: it was rendered at full size at once, or
        cannot be drawn.
        """
        if self._unfinished is job:
            self._unfinished = None

    def wait(self, now: float) -> float | None:
        """Seconds until there is something to take; None: not before the next request."""
        if self._newest is not None:
            return 0.0
        return None if self._unfinished is None else max(0.0, self._due - now)


class Resolution:
    """How many pixels fit the budget, learnt from the time that pictures took.

    A picture of p pixels takes a + b p seconds; a and b are fitted to the last pictures (least
    squares, older ones forgotten). Wanted is the p that takes just the budget; but where a alone
    takes most of it, or more, no fewer than take half of a again: making pictures still smaller
    would cost much and save little. Pictures of one size do not tell a from b: where they take too
    long, one of half the pixels is tried now and then.
    """

    def __init__(self, budget: float = BUDGETS["Fluent"]) -> None:
        self.budget = budget
        """Seconds; may be changed at any time."""
        self._sums = (0.0,) * 5
        self._fit: tuple[float, float] | None = None
        self._alike = 0.0

    def observe(self, pixels: int, seconds: float) -> None:
        """A picture of ``pixels`` took ``seconds``."""
        p, t = float(pixels), max(seconds, 1e-4)
        a, b = self._fit or (0.0, 0.0)
        if t < (a + b * p) / 4:
            # what was learnt is wrong: the first picture compiles, machines become free
            self._sums = (0.0,) * 5
        added = (1.0, p, t, p * p, p * t)
        self._sums = tuple(MEMORY * old + new for old, new in zip(self._sums, added, strict=True))
        n, mean_p, mean_t, pp, pt = self._sums[0], *(x / self._sums[0] for x in self._sums[1:])
        spread, together = pp - mean_p**2, pt - mean_p * mean_t
        self._alike = 0.0
        if spread > (0.1 * mean_p) ** 2:
            b = max(together / spread, 0.0)
            a = mean_t - b * mean_p
            a, b = (a, b) if a > 0 else (0.0, mean_t / mean_p)
        elif n > 1 and a + b > 0:
            pace = mean_t / (a + b * mean_p)
            a, b = a * pace, b * pace
            self._alike = mean_p
        else:
            a, b = 0.0, mean_t / mean_p
        self._fit = (a, b)

    @property
    def pixels(self) -> float:
        """How many fit."""
        if self.budget == float("inf"):
            return self.budget
        if self._fit is None:
            return float(FIRST_PIXELS)
        a, b = self._fit
        if self._alike and a + b * self._alike > OVER * self.budget:
            return max(float(MIN_PIXELS), self._alike / 2)
        return max(float(MIN_PIXELS), max(self.budget - a, a / 2) / max(b, 1e-12))

    def height(self, full_hw: tuple[int, int]) -> int:
        """Height of the largest picture within the budget, of the aspect of ``full_hw`` and at most
        as large.
        """
        h, w = full_hw
        share = (self.pixels / (h * w)) ** 0.5
        # Steps of 16 pixels: a size that changes with every picture flickers and is a new size to
        # every cache.
        return h if share >= 0.95 else min(h, max(16, round(h * share / 16) * 16))


class Turns:
    """A lock whose waiters get it in the order in which they came: a busy browser must not starve
    another.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        """Wait for one's turn."""
        with self._mutex:
            if not self._held:
                self._held = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        """Hand it to whoever has waited longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False


class RenderWorker(Generic[Job, Picture]):
    """One thread that draws what is asked for last and hands it over."""

    def __init__(
        self,
        draw: Callable[[Job, bool], tuple[Picture, bool]],
        deliver: Callable[[Job, Picture], None],
        fail: Callable[[Exception], None],
        *,
        ready: Callable[[], bool] = lambda: True,
        turn: Turns | None = None,
        schedule: Schedule[Job] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``draw(job, full)`` returns a picture and whether it is of full size; what it raises goes
        to ``fail``.

        ``ready`` says whether the browser has taken the last picture; until then nothing is drawn.
        ``turn`` is held while drawing: workers that share a scene take turns.
        """
        self._draw, self._deliver, self._fail, self._ready = draw, deliver, fail, ready
        self._turn = Turns() if turn is None else turn
        self._schedule = Schedule[Job]() if schedule is None else schedule
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fsm-viewer-render", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Ask for a picture in place of any that waits; never blocks for drawing."""
        with self._changed:
            self._schedule.submit(job, self._clock())
            self._changed.notify()

    def forget(self) -> None:
        """Drop what waits; a picture in work is still delivered."""
        with self._changed:
            self._schedule.forget()

    def close(self, timeout: float = 5.0) -> None:
        """Stop after the picture in work, whose delivery is dropped; called twice, or by the worker
        itself, it is harmless.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while self._wait():
            # first one's turn, then the newest request: it may have changed while waiting
            with self._turn:
                self._one()

    def _wait(self) -> bool:
        """Sleep until there is something to draw and someone to take it; False when closed."""
        with self._changed:
            while not self._closed:
                seconds = self._schedule.wait(self._clock())
                if seconds == 0.0 and self._ready():
                    return True
                self._changed.wait(POLL if seconds == 0.0 else seconds)
            return False

    def _one(self) -> None:
        with self._changed:
            work = None if self._closed else self._schedule.take(self._clock())
        if work is None:
            return
        try:
            picture, full = self._draw(work.job, work.full)
            if full:
                with self._changed:
                    self._schedule.done(work.job)
            if not self._closed:
                self._deliver(work.job, picture)
        except Exception as error:  # whatever a scene may raise: the viewer outlives it
            with self._changed:
                self._schedule.done(work.job)  # the same error again is no news
            if not self._closed:
                self._fail(error)
