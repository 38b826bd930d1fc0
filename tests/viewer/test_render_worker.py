"""What is drawn when, under a clock that we turn; and the thread around it."""

import threading
import time
from collections.abc import Callable

import pytest

from fsm.viewer.render_worker import (
    BUDGETS,
    MIN_PIXELS,
    RenderWorker,
    Resolution,
    Schedule,
    Turns,
    Work,
)
from tests.viewer.fakes import until

BUDGET = BUDGETS["Fluent"]


def test_the_newest_request_wins() -> None:
    schedule = Schedule[str](settle=0.2)
    for name in "abc":
        schedule.submit(name, now=0.0)
    assert schedule.wait(0.0) == 0.0
    assert schedule.take(0.0) == Work("c", full=False)
    assert schedule.take(0.1) is None


def test_full_when_nothing_was_asked_for_a_while() -> None:
    schedule = Schedule[str](settle=0.2)
    assert schedule.wait(0.0) is None
    schedule.submit("a", now=0.0)
    schedule.take(0.05)
    assert schedule.wait(0.05) == pytest.approx(0.15)
    schedule.submit("b", now=0.15)
    assert schedule.take(0.21) == Work("b", full=False)
    assert schedule.take(0.34) is None
    assert schedule.take(0.36) == Work("b", full=True)
    assert schedule.take(9.0) is None
    assert schedule.wait(9.0) is None


def test_a_picture_that_was_full_already_is_not_drawn_again() -> None:
    schedule = Schedule[str](settle=0.2)
    schedule.submit("a", now=0.0)
    schedule.take(0.0)
    schedule.done("a")
    assert schedule.wait(0.0) is None
    schedule.submit("b", now=0.0)
    schedule.take(0.0)
    schedule.done("a")  # late news about an old one
    assert schedule.take(1.0) == Work("b", full=True)


def _settled(seconds_of: Callable[[int], float], hw: tuple[int, int]) -> float:
    resolution = Resolution(BUDGET)
    w_over_h = hw[1] / hw[0]
    for _ in range(30):
        height = resolution.height(hw)
        pixels = round(height * height * w_over_h)
        resolution.observe(pixels, seconds_of(pixels))
    return seconds_of(round(resolution.height(hw) ** 2 * w_over_h))


@pytest.mark.parametrize("overhead", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("per_pixel", [1e-6, 4e-6])
def test_resolution_settles_at_the_budget(overhead: float, per_pixel: float) -> None:
    seconds = _settled(lambda p: overhead + per_pixel * p, (1080, 1920))
    # steps of 16 lines are a quarter of the smallest pictures here
    assert 0.75 * BUDGET < seconds < 1.25 * BUDGET


def test_pictures_are_not_made_tiny_where_that_saves_nothing() -> None:
    resolution, hw = Resolution(BUDGET), (128, 192)
    heights = []
    for _ in range(60):
        heights.append(resolution.height(hw))
        resolution.observe(
            heights[-1] * round(heights[-1] * 1.5), 10 * BUDGET + 1e-6 * heights[-1] ** 2 * 1.5
        )
    tried = [h for h in heights[20:] if h < 128]  # now and then, to learn whether that has changed
    assert 1 <= len(tried) <= 8
    assert set(tried) == {96}


def test_what_a_busy_machine_taught_is_corrected() -> None:
    resolution, hw = Resolution(BUDGET), (256, 256)
    for pixels, seconds in ((96 * 96, 0.9), (256 * 256, 0.8), (128 * 128, 0.9)):
        resolution.observe(pixels, seconds)
    assert resolution.height(hw) == 256  # as if smaller pictures saved nothing
    heights = []
    for _ in range(24):
        heights.append(resolution.height(hw))
        resolution.observe(heights[-1] ** 2, 0.01 + 4e-6 * heights[-1] ** 2)
    assert heights[-8:] == [128] * 8  # sqrt((1/12 - 0.01) / 4e-6) = 135, to 16 lines


def test_a_slow_first_picture_is_forgotten() -> None:
    resolution, hw = Resolution(BUDGET), (256, 256)
    resolution.observe(128 * 128, 8.0)  # something was compiled
    for _ in range(12):
        height = resolution.height(hw)
        resolution.observe(height * height, 1e-6 * height * height)
    assert resolution.height(hw) == 256


def test_resolution_is_full_where_that_is_fast_enough_and_never_below_the_least() -> None:
    assert _settled(lambda p: 1e-8 * p, (128, 192)) == pytest.approx(1e-8 * 128 * 192)
    resolution = Resolution()
    for _ in range(20):
        pixels = int(resolution.pixels)
        resolution.observe(pixels, 60.0 * pixels)
    assert resolution.pixels == MIN_PIXELS
    assert resolution.height((256, 256)) == 48
    assert resolution.height((20, 2000)) == 16
    assert resolution.height((12, 12)) == 12


class Recorder:
    def __init__(self) -> None:
        self.drawn: list[tuple[int, bool]] = []
        self.delivered: list[int] = []
        self.failed: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.bad: set[int] = set()
        self.ready = True

    def draw(self, job: int, full: bool) -> tuple[int, bool]:
        assert self.go.wait(10)
        self.drawn.append((job, full))
        if job in self.bad:
            raise RuntimeError(f"no {job}")
        return job, full

    def worker(self, **options) -> RenderWorker[int, int]:
        fail = lambda error: self.failed.append(str(error))  # noqa: E731
        deliver = lambda job, picture: self.delivered.append(picture)  # noqa: E731
        options.setdefault("schedule", Schedule[int](settle=0.05))
        return RenderWorker[int, int](self.draw, deliver, fail, ready=lambda: self.ready, **options)


def test_requests_that_come_while_drawing_leave_no_queue() -> None:
    record = Recorder()
    record.go.clear()
    worker = record.worker()
    try:
        worker.submit(0)
        until(lambda: worker._schedule.wait(time.monotonic()) != 0.0)  # 0 is being drawn
        for job in range(1, 500):
            worker.submit(job)
        record.go.set()
        until(lambda: (499, True) in record.drawn)
        assert record.drawn == [(0, False), (499, False), (499, True)]
        assert record.delivered == [0, 499, 499]
    finally:
        worker.close()
    assert not worker.alive


def test_an_error_is_reported_once_and_the_next_request_is_drawn() -> None:
    record = Recorder()
    record.bad = {1}
    worker = record.worker()
    try:
        worker.submit(1)
        until(lambda: record.failed)
        time.sleep(0.15)  # no second try in full
        assert record.failed == ["no 1"]
        worker.submit(2)
        until(lambda: record.delivered)
        assert record.delivered[0] == 2
    finally:
        worker.close()


def test_nothing_is_drawn_for_a_browser_that_takes_nothing() -> None:
    record = Recorder()
    record.ready = False
    worker = record.worker()
    try:
        for job in range(100):
            worker.submit(job)
            time.sleep(0.001)
        assert record.drawn == []
        record.ready = True
        until(lambda: record.drawn)
        assert record.drawn[0] == (99, False)
    finally:
        worker.close()


def test_a_picture_that_is_ready_after_closing_is_dropped() -> None:
    record = Recorder()
    record.go.clear()
    worker = record.worker()
    worker.submit(1)
    until(lambda: worker._schedule.wait(time.monotonic()) != 0.0)
    worker.close(timeout=0.01)
    record.go.set()
    until(lambda: not worker.alive)
    assert (record.drawn, record.delivered) == ([(1, False)], [])
    worker.submit(2)
    worker.close()
    assert record.drawn == [(1, False)]


def test_workers_take_turns_and_draw_what_is_newest_then() -> None:
    turn, record = Turns(), Recorder()
    with turn:
        worker = record.worker(turn=turn)
        worker.submit(1)
        time.sleep(0.05)  # it waits for its turn
        worker.submit(2)
    try:
        until(lambda: record.drawn)
        assert record.drawn[0] == (2, False)
    finally:
        worker.close()


def test_nobody_starves_while_another_asks_without_end() -> None:
    turn, order, done = Turns(), [], threading.Event()

    def busy(name: str) -> None:
        while not done.is_set():
            with turn:
                order.append(name)
                time.sleep(0.001)

    threads = [threading.Thread(target=busy, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    until(lambda: all(order.count(name) > 10 for name in "abc"))
    done.set()
    for thread in threads:
        thread.join()
    begun = max(order.index(name) for name in "abc")
    for start in range(begun, begun + 20):  # once all have come, they go in a circle
        assert set(order[start : start + 3]) == {"a", "b", "c"}


def test_a_budget_without_end_is_full_size_and_one_changed_later_counts_at_once() -> None:
    resolution, hw = Resolution(BUDGETS["Full size"]), (512, 512)
    assert resolution.height(hw) == 512
    for side in (512, 256):
        resolution.observe(side * side, 1e-6 * side * side)
    assert resolution.height(hw) == 512
    resolution.budget = BUDGET
    assert resolution.height(hw) == 288  # sqrt(1/12 s / 1e-6 s), to 16 lines
    resolution.budget = BUDGETS["Balanced"]
    assert resolution.height(hw) == 416
