"""3D tracks over the picture: where they are, in what colours, and when they are sent."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fsm.datasets.base import MemoryClip
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from fsm.viewer import Viewer
from fsm.viewer.parts.tracks_nodes import MAX_STEPS, OLD, Palette, moments, point_size, turbo
from fsm.viewer.stage import Stage
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

NAN = float("nan")


def walks(count: int = 6, frames: int = 9) -> Tracks:
    """Track i stands at y = i, z = 2 and moves along x with i + 1 metres a second; the last is
    first seen at 0.2 s.
    """
    times = torch.arange(frames) / 20
    points = torch.zeros(count, frames, 3)
    points[..., 0] = torch.arange(1, count + 1)[:, None] * times
    points[..., 1] = torch.arange(count)[:, None]
    points[..., 2] = 2.0
    points[-1, times < 0.2 - 1e-6] = NAN
    return Tracks(points, times)


class _Clip(MemoryClip):
    def __init__(self, shift: float = 0.0, aside: float = 0.0, found: Tracks | None = None) -> None:
        views = cameras(9)  # 0, 0.05 ... 0.4 s along x; the scene has 0, 0.1 ... 0.4 s
        c2w = views.c2w.clone()
        c2w[:, 0, 3] = c2w[:, 0, 3] / 2 + aside
        views = dataclasses.replace(views, c2w=c2w, time=views.time / 2 + shift)
        super().__init__("clip", "clip.json", views, torch.zeros(9, 3, 32, 48, dtype=torch.uint8))
        self._found = found

    def tracks(self) -> Tracks | None:
        return self._found


def test_points_are_where_the_tracks_are_and_tails_where_they_were() -> None:
    drawing = Palette.of(walks(), "Track").draw(0.125, 0.1)
    # the sixth is not there yet
    assert drawing.points[:, 0] == pytest.approx(0.125 * np.arange(1, 6))
    assert drawing.points[:, 1].tolist() == [0, 1, 2, 3, 4]
    # from 0.025 by 0.05 and 0.1 to 0.125 s, at 3 m/s
    along = drawing.pieces.reshape(5, -1, 2, 3)[2]
    assert along[:, 0, 0] == pytest.approx([0.075, 0.15, 0.3])
    assert along[:, 1, 0] == pytest.approx([0.15, 0.3, 0.375])
    assert len(Palette.of(walks(), "Track").draw(0.4, 0.0).pieces) == 0
    assert len(Palette.of(walks(), "Track").draw(0.0, 0.5).pieces) == 0


def test_what_appeared_a_while_ago_has_a_tail_as_long_as_it_was_seen() -> None:
    drawing = Palette.of(walks(), "Track").draw(0.3, 0.2)
    assert len(drawing.points) == 6
    xs = drawing.pieces[drawing.pieces[:, 0, 1] == 5][:, 0, 0]
    assert xs == pytest.approx([1.2, 1.5])  # at 6 m/s from 0.2 s on


def test_before_and_after_the_clip_there_is_nothing() -> None:
    for seconds in (-0.1, 0.5):
        drawing = Palette.of(walks(), "Speed").draw(seconds, 0.2)
        assert len(drawing.points) == len(drawing.pieces) == 0


def test_colours_tell_tracks_or_speeds_apart_and_the_old_end_is_dark() -> None:
    drawing = Palette.of(walks(), "Track").draw(0.4, 0.1)
    assert len({tuple(c) for c in drawing.colours.tolist()}) == 6
    new = drawing.piece_colours.reshape(6, 2, 2, 3)[:, -1, 1]
    old = drawing.piece_colours.reshape(6, 2, 2, 3)[:, 0, 0]
    assert np.array_equal(new, drawing.colours)
    assert np.abs(old - OLD * new).max() <= 0.5
    palette = Palette.of(walks(), "Speed")
    assert palette.fastest == pytest.approx(5.9, abs=0.2)  # 95 % of speeds are slower
    speeds = np.arange(1, 7) / palette.fastest
    assert np.abs(palette.draw(0.4, 0.1).colours.astype(int) - turbo(speeds.clip(0, 1))).max() <= 4


def test_long_tails_have_longer_pieces_not_more() -> None:
    times = torch.arange(200) / 50
    when = moments(times, 3.0, 2.0)
    assert len(when) == MAX_STEPS + 1
    assert (float(when[0]), float(when[-1])) == (1.0, 3.0)
    assert bool((when.diff() > 0).all())


def test_points_are_a_share_of_their_distance() -> None:
    centres = torch.zeros(3, 3)
    near, far = (Tracks(walks().points * s, walks().times) for s in (1.0, 100.0))
    assert point_size(far, centres) == pytest.approx(100 * point_size(near, centres), rel=1e-4)


def test_only_tracks_of_the_clip_that_the_scene_was_made_from_are_known() -> None:
    tracks = walks()
    assert Stage(FakeScene(), _Clip(found=tracks)).tracks is tracks
    assert Stage(FakeScene(), _Clip()).tracks is None
    assert Stage(FakeScene()).tracks is None
    assert Stage(FakeScene(), _Clip(shift=0.02, found=tracks)).tracks is None
    assert Stage(FakeScene(), _Clip(aside=0.5, found=tracks)).tracks is None


def test_a_damaged_file_is_heard_of_at_once() -> None:
    clip = _Clip()
    clip.tracks = lambda: (_ for _ in ()).throw(InputError("t.npz is damaged."))  # pyright: ignore
    with pytest.raises(InputError, match=r"t\.npz is damaged"):
        Viewer(FakeScene(), clip=clip, port=0)


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    with Viewer(FakeScene(), clip=_Clip(found=walks()), port=0) as running:
        yield running


@pytest.fixture
def one(viewer: Viewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look()
        until(lambda: connected.pictures and connected.find("Tracks"))
        yield connected


def xs(one: FakeBrowser) -> list[float]:
    """Of the points that the browser has."""
    points = one.nodes.get("/tracks/points", {}).get("points")
    return [] if points is None else points.reshape(-1, 3)[:, 0].tolist()


def test_they_are_shown_when_asked_for_and_follow_the_clock(one: FakeBrowser) -> None:
    assert xs(one) == []
    assert one.find("Tail (s)")["visible"] is False  # pyright: ignore
    one.use("Tracks", True)
    until(lambda: len(xs(one)) == 5)
    until(lambda: one.find("Tail (s)")["visible"])  # pyright: ignore
    one.use("Time (s)", 0.3)
    until(lambda: xs(one) == pytest.approx([0.3, 0.6, 0.9, 1.2, 1.5, 1.8]))
    until(lambda: "/tracks/tails" in one.nodes)
    one.use("Tracks shown", 2)
    until(lambda: len(xs(one)) == 2)


def test_nothing_is_sent_while_only_the_camera_moves(one: FakeBrowser, viewer: Viewer) -> None:
    one.use("Tracks", True)
    until(lambda: xs(one))
    until(lambda: one.find("Tail (s)")["visible"])  # pyright: ignore
    node = one.nodes["/tracks/points"]
    del node["points"]
    seen = len(one.pictures)
    one.look(x=0.4)
    until(lambda: len(one.pictures) > seen and abs(one.colour[1] - 0.4) < 0.02)
    # what is sent in order arrives in order: had it been sent before, it would be there
    one.use("Time (s)", 0.2)
    until(lambda: xs(one))
    assert xs(one)[0] == pytest.approx(0.2)


def test_switched_off_they_are_taken_away(one: FakeBrowser) -> None:
    one.use("Tracks", True)
    until(lambda: xs(one))
    one.use("Tracks", False)
    until(lambda: not {"/tracks/points", "/tracks/tails"} & set(one.nodes))


def test_another_scene_has_its_own_or_none(one: FakeBrowser, viewer: Viewer) -> None:
    one.use("Tracks", True)
    until(lambda: xs(one))
    viewer.show(FakeScene(), _Clip(found=walks(3)))
    until(lambda: len(xs(one)) == 2)
    viewer.show(FakeScene())
    until(lambda: "/tracks/points" not in one.nodes)


def test_a_scene_without_tracks_has_no_such_folder() -> None:
    with Viewer(FakeScene(), port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures and one.find("3D tracks"))
        assert one.find("3D tracks")["visible"] is False  # pyright: ignore
