"""The Film tab from the wire: what is set up is what arrives."""

import json
import math
import threading

import numpy as np
import pytest

from tests.viewer.fakes import FakeBrowser, until
from tests.viewer.film.steps import add, lines, path_of, places, two, value, visible

LEVEL = 3 / 255


def test_an_empty_film_says_what_to_do(one: FakeBrowser) -> None:
    until(lambda: one.says("choose **Add keyframe**"))
    for action in ("Save path", "Render film", "Play film"):  # as a browser that lags behind might
        one.use(action, True)
        until(lambda: one.says("**Not done:** the film has no keyframes"))
        one.use("Edit", "Undo")
        until(lambda: not one.says("Not done"))
    one.use("Keyframe", "Delete")
    one.use("Move", "Later")
    add(one, 0.0, 0.0)
    until(lambda: not one.says("choose **Add keyframe**") and not one.says("Not done"))


def test_keyframes_are_edited_and_steps_taken_back(one: FakeBrowser) -> None:
    for i in range(3):
        add(one, 0.1 * i, 0.3 * i)
    assert lines(one) == ["1 0.000 2.00", "2 0.300 2.00", "3 0.600 end"]
    one.use("Move", "Earlier")
    until(lambda: lines(one) == ["1 0.000 2.00", "2 0.600 2.00", "3 0.300 end"])
    assert value(one, "Selected") == "2"
    one.use("Until next (s)", 1.5)
    one.use("Until next (s)", 1.25)
    one.use("Moment (s)", 0.7)
    until(lambda: lines(one)[1] == "2 0.700 1.25")
    one.look(x=0.9)
    one.use("Time (s)", 1.0)
    one.use("Keyframe", "Replace")
    until(lambda: lines(one)[1] == "2 1.000 1.25")
    one.use("Field of view (°)", 30.0)
    keys = path_of(one)["keyframes"]
    assert keys[1]["fov"] == pytest.approx(30)
    assert [k["matrix"][3] for k in keys] == pytest.approx([0.0, 0.9, 0.1])
    one.use("Keyframe", "Delete")
    until(lambda: lines(one) == ["1 0.000 2.00", "2 0.300 end"])
    for _ in range(3):
        one.use("Edit", "Undo")
    until(lambda: lines(one) == ["1 0.000 2.00", "2 0.700 1.25", "3 0.300 end"])
    one.use("Edit", "Undo")
    one.use("Edit", "Undo")  # what was typed at once is taken back at once
    until(lambda: lines(one) == ["1 0.000 2.00", "2 0.600 2.00", "3 0.300 end"])
    for _ in range(9):
        one.use("Edit", "Redo")
    until(lambda: lines(one) == ["1 0.000 2.00", "2 0.300 end"])
    one.use("Edit", "Clear")
    until(lambda: one.says("choose **Add keyframe**"))
    one.use("Edit", "Undo")
    until(lambda: not one.says("choose **Add keyframe**"))


def test_what_is_added_comes_after_the_selected_one(one: FakeBrowser) -> None:
    add(one, 0.0, 0.0)
    add(one, 0.2, 0.2)
    one.use("Selected", "1")
    add(one, 0.1, 0.1)
    until(lambda: [line.split()[1] for line in lines(one)] == ["0.000", "0.100", "0.200"])


def test_numbers_out_of_bounds_change_nothing(one: FakeBrowser) -> None:
    two(one)
    for label, bad, sentence in (
        ("Until next (s)", 0, "until next is 0; type a number from 0.001 to 600."),
        ("Field of view (°)", 500, "field of view is 500; type a number from 1 to 170."),
        ("Rate (fps)", math.nan, "frame rate is nan"),
        ("Tension", 2, "tension is 2; type a number from 0 to 1."),
        ("Film time (s)", -1, "film time is -1"),
        ("Size (px)", (64, 9), "height is 9; type a number from 16 to 4096."),
    ):
        one.use(label, bad)
        until(lambda s=sentence: one.says(f"**Not done:** {s}"))
    assert lines(one) == ["1 0.000 0.50", "2 0.500 end"]


def test_what_a_field_shows_may_be_said_back_and_rounds_nothing(one: FakeBrowser) -> None:
    two(one)
    before = path_of(one)
    before["keyframes"][1].update(time=1 / 3, fov=49.123456)
    before["keyframes"][0]["override_transition_sec"] = 2 / 3
    before["fps"] = 29.97002997
    one.upload("Load path", "exact.json", json.dumps(before).encode())
    until(lambda: one.says("exact.json: 2 keyframes."))
    one.use("Selected", "2")
    until(lambda: value(one, "Moment (s)") == 0.333)
    one.use("Closed loop", True)
    until(lambda: visible(one, "Until next (s)"))
    for label in ("Moment (s)", "Field of view (°)", "Until next (s)", "Rate (fps)"):
        one.use(label, value(one, label))
    after = path_of(one)
    assert after["keyframes"][1]["time"] == 1 / 3
    assert after["keyframes"][1]["fov"] == pytest.approx(49.123456, rel=1e-14)
    assert after["keyframes"][0]["override_transition_sec"] == 2 / 3
    assert after["fps"] == 29.97002997


def test_going_to_a_keyframe_brings_view_and_moment(one: FakeBrowser) -> None:
    two(one)
    one.look(x=5.0)
    one.use("Time (s)", 0.9)
    one.use("Freeze time", True)
    one.moves.clear()
    one.use("Keyframe", "Go to")
    until(lambda: places(one) and places(one)[-1] == pytest.approx((0.2, 0, 0)))
    # frozen at another moment now
    until(lambda: one.colour[:2] == pytest.approx([0.0, 0.2], abs=LEVEL))
    one.click("/film/keyframe_2")
    until(lambda: places(one)[-1] == pytest.approx((0.6, 0, 0)))
    until(lambda: one.colour[:2] == pytest.approx([0.5, 0.6], abs=LEVEL))
    until(lambda: value(one, "Selected") == "2")


def test_path_and_keyframes_are_seen_in_the_scene(one: FakeBrowser) -> None:
    add(one, 0.0, 0.0)
    add(one, 1.0, 1.0)
    until(lambda: {"/film/keyframe_1", "/film/keyframe_2", "/film/path"} <= set(one.nodes))
    colours = np.asarray(one.nodes["/film/path"]["colors"]).reshape(-1, 3)
    assert colours[0].tolist() == [68, 1, 84]
    assert colours[-1].tolist() == [253, 231, 37]
    points = np.asarray(one.nodes["/film/path"]["points"]).reshape(-1, 2, 3)
    assert points[0, 0] == pytest.approx([0, 0, 0])
    assert points[-1, 1] == pytest.approx([1, 0, 0])
    assert points[1:, 0] == pytest.approx(points[:-1, 1])
    until(lambda: one.nodes["/film/keyframe_2"].get("visible") is False)  # around the eye
    assert tuple(one.nodes["/film/keyframe_2"]["color"]) == (255, 140, 0)
    one.look(x=0.5)
    until(lambda: one.nodes["/film/keyframe_2"].get("visible") is True)
    one.use("Show path", False)
    until(
        lambda: (
            not any(
                one.nodes[n]["visible"]
                for n in ("/film/path", "/film/keyframe_1", "/film/keyframe_2")
            )
        )
    )
    one.use("Edit", "Undo")
    until(lambda: "/film/path" not in one.nodes and "/film/keyframe_2" not in one.nodes)


def test_the_slider_and_playing_move_camera_and_clock(one: FakeBrowser) -> None:
    two(one)
    one.use("Freeze view", False)
    one.use("Film time (s)", 0.25)
    until(lambda: one.colour[:2] == pytest.approx([0.25, 0.4], abs=LEVEL))
    until(lambda: value(one, "Time (s)") == 0.25)
    one.use("Film time (s)", 0.5)
    seen = len(one.pictures)
    one.use("Play film", True)  # from the start again, and to the very end
    until(lambda: one.find("Pause film"))
    assert one.nodes["/film/path"]["visible"] is False
    until(lambda: one.find("Play film"), seconds=20)
    until(lambda: one.colour[:2] == pytest.approx([0.5, 0.6], abs=LEVEL))
    colours = [p.mean((0, 1)) / 255 for p in one.pictures[seen:]]
    assert min(c[0] for c in colours) < 0.45
    # view and time together
    assert all(c[1] - 0.2 == pytest.approx(0.8 * c[0], abs=3 * LEVEL) for c in colours)
    assert value(one, "Film time (s)") == 0.5
    assert one.nodes["/film/path"]["visible"] is True


def test_a_closed_film_plays_until_paused_or_the_clip_is_played(one: FakeBrowser) -> None:
    two(one)
    one.use("Closed loop", True)
    until(lambda: lines(one)[1] == "2 0.500 2.00")
    one.use("Play film", True)
    until(lambda: one.find("Pause film"))
    one.use("Pause film", True)
    until(lambda: one.find("Play film"))
    one.use("Play film", True)
    until(lambda: one.find("Pause film"))
    one.use("Play", True)
    until(lambda: one.find("Play film"))
    assert not [t for t in threading.enumerate() if t.name == "fsm-viewer-film-clock"]
