"""Playback is arithmetic: where the cursor is after so many seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import InputError
from fsm.viewer.time_controls import Playback, nearest_frame

TIMES = [0.5, 0.0, 1.0, 0.25, 1.0]


def over() -> Playback:
    return Playback.over(TIMES)


def test_starts_at_the_first_moment_of_times_in_any_order() -> None:
    playback = over()
    assert playback.frames == (0.0, 0.25, 0.5, 1.0)
    assert (playback.cursor, playback.moment, playback.duration, playback.playing) == (
        0.0,
        0.0,
        1.0,
        False,
    )
    with pytest.raises(InputError, match="at least one input"):
        Playback.over([])


def test_stands_still_unless_it_plays() -> None:
    assert over().advanced(3.0) == over()
    assert over().played().advanced(0.0) == over().played()
    assert over().played().paused().advanced(1.0).cursor == 0.0


@given(st.floats(0.1, 4.0), st.floats(0.0, 50.0))
def test_a_loop_is_where_a_line_modulo_the_duration_is(speed: float, elapsed: float) -> None:
    cursor = over().at_speed(speed).played().advanced(elapsed).cursor
    assert cursor == pytest.approx((speed * elapsed) % 1.0, abs=1e-9)


@given(st.lists(st.floats(0.001, 0.2), max_size=30), st.floats(0.1, 4.0))
def test_many_ticks_are_one_long_tick(ticks: list[float], speed: float) -> None:
    playback = over().at_speed(speed).played()
    once = playback.advanced(sum(ticks, 0.0)).cursor
    for tick in ticks:
        playback = playback.advanced(tick)
    apart = abs(playback.cursor - once)
    assert min(apart, 1.0 - apart) < 1e-9  # on the circle


def test_without_a_loop_it_stops_at_the_end_and_plays_again_from_the_start() -> None:
    playback = over().looping(False).sought(0.75).played()
    assert playback.advanced(0.2).cursor == pytest.approx(0.95)
    ended = playback.advanced(0.25)
    assert (ended.cursor, ended.playing) == (1.0, False)
    again = ended.played()
    assert (again.cursor, again.playing) == (0.0, True)
    assert ended.looping(True).played().cursor == 1.0


def test_speed_is_held_to_its_limits() -> None:
    assert over().at_speed(100.0).speed == 4.0
    assert over().at_speed(-1.0).speed == 0.1


def test_steps_go_from_frame_to_frame() -> None:
    stop = over().looping(False)
    assert stop.stepped(1).cursor == 0.25
    assert stop.sought(0.3).stepped(1).cursor == 0.5
    assert stop.sought(0.3).stepped(-1).cursor == 0.25
    assert stop.sought(0.5).stepped(-1).cursor == 0.25
    assert stop.stepped(-1).cursor == 0.0
    assert stop.sought(1.0).stepped(1).cursor == 1.0
    assert over().stepped(-1).cursor == 1.0
    assert over().sought(1.0).stepped(1).cursor == 0.0
    assert over().played().stepped(1).playing is False


def test_seeking_is_held_to_the_clip_and_does_not_stop_it() -> None:
    assert over().sought(9.0).cursor == 1.0
    assert over().sought(-9.0).cursor == 0.0
    assert over().played().sought(0.5).playing


def test_frozen_time_stays_while_the_cursor_moves_on() -> None:
    frozen = over().sought(0.25).freezing_time(True).freezing_view(False).played().advanced(0.5)
    assert (frozen.cursor, frozen.moment, frozen.follow, frozen.fraction) == (
        0.75,
        0.25,
        True,
        0.75,
    )
    assert frozen.freezing_time(True).moment == 0.25
    released = frozen.freezing_time(False)
    assert released.moment == 0.75


def test_a_single_moment_never_plays() -> None:
    playback = Playback.over([2.0, 2.0])
    assert playback.played() == playback
    assert (playback.fraction, playback.stepped(1).cursor, playback.sought(5.0).cursor) == (
        0.0,
        2.0,
        2.0,
    )


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.floats(-6, 6))
def test_nearest_frame_is_nearest(times: list[float], seconds: float) -> None:
    index = nearest_frame(times, seconds)
    assert abs(times[index] - seconds) == min(abs(t - seconds) for t in times)
    assert nearest_frame([0.0, 1.0], 0.5) == 0


def test_put_stands_there_even_where_time_is_frozen() -> None:
    playing = Playback.over([0.0, 1.0, 2.0]).played()
    assert (playing.put(0.7).moment, playing.put(0.7).playing) == (0.7, False)
    frozen = playing.sought(0.5).freezing_time(True)
    assert (frozen.put(1.5).moment, frozen.put(9.0).moment) == (1.5, 2.0)
    assert frozen.put(1.5).freezing_time(False).moment == 1.5
