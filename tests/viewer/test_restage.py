"""The scene is replaced while browsers look at it: what they chose stays, what they see is of the
new one.
"""

import dataclasses
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch

from fsm.viewer import Viewer
from fsm.viewer.input_cameras import InputCameras, InputNodes, observed
from fsm.viewer.time_controls import Playback
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

LEVEL = 3 / 255  # JPEG


# --- values ---


def test_the_clock_keeps_its_place_over_other_frames() -> None:
    short = (
        Playback.over([0.0, 0.1])
        .sought(0.1)
        .at_speed(2.0)
        .looping(False)
        .freezing_time(True)
        .sought(0.05)
    )
    long = short.over_frames([0.3, 0.0, 0.1, 0.2])
    assert long.frames == (0.0, 0.1, 0.2, 0.3)
    assert (long.cursor, long.frozen, long.speed, long.loop) == (0.05, 0.1, 2.0, False)
    other = long.over_frames([5.0, 6.0])
    assert (other.cursor, other.frozen) == (5.0, 5.0)
    playing = Playback.over([0.0, 1.0]).played()
    assert playing.over_frames([0.0, 2.0]).playing
    assert not playing.over_frames([0.5]).playing
    assert Playback.over([0.0]).over_frames([0.0, 1.0]).frozen is None


class _Reading:
    """A clip that counts which of its frames are read."""

    def __init__(self, count: int = 6) -> None:
        self.cameras = cameras(count, rgb=True)
        self.read: list[int] = []

    def views(self, indices, hw):
        self.read += [int(i) for i in indices]
        return self.cameras[indices].resized(hw)


def test_frames_that_are_known_are_not_read_again() -> None:
    clip = _Reading()
    first = observed(FakeScene(clip.cameras[:2].without_rgb()), clip)
    grown = observed(FakeScene(clip.cameras[[3, 1, 0]].without_rgb()), clip, first)
    assert clip.read == [0, 1, 3]
    assert torch.equal(grown.rgb, clip.cameras[[3, 1, 0]].rgb)  # pyright: ignore
    other = dataclasses.replace(first, hw=(8, 8), rgb=torch.zeros(2, 3, 8, 8))
    again = observed(FakeScene(clip.cameras[:2].without_rgb()), clip, other)
    assert torch.equal(again.rgb, clip.cameras[:2].rgb)  # pyright: ignore


class _Nodes:
    """A browser's scene: nodes by name, and what was done to them."""

    def __init__(self) -> None:
        self.scene = self
        self.nodes: dict[str, _Node] = {}
        self.done: list[tuple[str, str]] = []

    def add_camera_frustum(self, name: str, **properties):
        self.done.append(("add", name))
        self.nodes[name] = _Node(self, name, properties)
        return self.nodes[name]

    add_line_segments = add_camera_frustum


class _Node:
    def __init__(self, owner: _Nodes, name: str, properties: dict) -> None:
        self.__dict__.update(properties, _owner=owner, _name=name)

    def on_click(self, act) -> None:
        self.__dict__["click"] = act

    def remove(self) -> None:
        self._owner.done.append(("remove", self._name))  # pyright: ignore
        del self._owner.nodes[self._name]  # pyright: ignore


def test_inputs_of_one_moment_have_their_own_pictures() -> None:
    clip = _Reading()
    clip.cameras = dataclasses.replace(clip.cameras, time=torch.zeros(6))
    seen = observed(FakeScene(clip.cameras[[4, 1]].without_rgb()), clip)
    assert torch.equal(seen.rgb, clip.cameras[[4, 1]].rgb)  # pyright: ignore


def test_frustums_that_stay_are_left_alone() -> None:
    views = cameras(6, rgb=True)
    shown, picked = _Nodes(), []
    nodes = InputNodes(shown, InputCameras.of(views[:4]), picked.append)
    nodes.highlight(1)
    kept = shown.nodes["/inputs/camera_2"]
    before = tuple(kept.color)  # pyright: ignore
    shown.done.clear()
    nodes.restage(InputCameras.of(views))
    assert shown.done == [
        ("add", "/inputs/camera_4"),
        ("add", "/inputs/camera_5"),
        ("add", "/inputs/trail"),
    ]
    assert shown.nodes["/inputs/camera_2"] is kept
    assert tuple(kept.color) != before  # pyright: ignore  # colours go by time, which goes on
    assert shown.nodes["/inputs/camera_1"].color == (255, 140, 0)  # pyright: ignore
    shown.nodes["/inputs/camera_5"].click(None)  # pyright: ignore
    assert picked == [5]
    shown.done.clear()
    changed = dataclasses.replace(views[:3], rgb=torch.zeros(3, 3, *views.hw))
    nodes.restage(InputCameras.of(changed))
    removed = [name for act, name in shown.done if act == "remove"]
    assert sorted(removed) == [f"/inputs/camera_{i}" for i in (3, 4, 5)]
    assert ("add", "/inputs/camera_0") in shown.done  # another picture
    nodes.restage(InputCameras.of(views[:1]))
    assert set(shown.nodes) == {"/inputs/camera_0"}


def test_what_is_hidden_stays_hidden() -> None:
    views = cameras(6)
    shown = _Nodes()
    nodes = InputNodes(shown, InputCameras.of(views[:4]), lambda _: None)
    assert not any(node.visible for node in shown.nodes.values())  # pyright: ignore
    nodes.show(True, True)
    nodes.seen_from((0.55, 0.0, 0.0))  # those within 0.2 are before the eye
    nodes.restage(InputCameras.of(views))
    visible = [shown.nodes[f"/inputs/camera_{i}"].visible for i in range(6)]  # pyright: ignore
    assert visible == [True, True, True, True, False, False]
    nodes.show(False, False)
    nodes.restage(InputCameras.of(cameras(8)))
    assert not any(node.visible for node in shown.nodes.values())  # pyright: ignore


# --- a running viewer ---


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    with Viewer(FakeScene(cameras(3)), port=0) as running:
        yield running


@pytest.fixture
def one(viewer: Viewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look(x=0.25, y=0.5)
        until(lambda: connected.pictures and connected.find("Show"))
        yield connected


def shows(one: FakeBrowser, *colour: float) -> None:
    until(lambda: one.pictures and one.colour == pytest.approx(colour, abs=LEVEL))


def bounds(one: FakeBrowser) -> tuple[float, float]:
    slider = one.find("Time (s)")
    assert slider is not None
    return slider["min"], slider["max"]


class Green(FakeScene):
    """Another picture: all green."""

    def render(self, views):
        rendering = super().render(views)
        green = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
        return dataclasses.replace(rendering, rgb=green.expand_as(rendering.rgb))


def test_what_the_user_chose_stays(viewer: Viewer, one: FakeBrowser) -> None:
    one.use("Time (s)", 0.15)
    one.use("Speed", 2.0)
    one.use("Loop", False)
    one.use("Show", "Opacity")
    one.use("Height (px)", "96")
    until(lambda: one.pictures[-1].shape[0] == 96)
    one.moves.clear()
    viewer.show(FakeScene(cameras(7)))
    until(lambda: bounds(one) == pytest.approx((0, 0.6)))
    until(lambda: "/inputs/camera_6" in one.nodes)
    (session,) = viewer._sessions.values()
    clock = session.playback
    assert (clock.cursor, clock.speed, clock.loop) == (pytest.approx(0.15), 2.0, False)
    assert all(m.get("initial") for m in one.moves)  # the camera is where it was
    one.use("Show", "Colour")
    shows(one, 0.15, 0.25, 0.5)
    assert one.pictures[-1].shape[0] == 96


def test_the_new_scene_is_seen_at_once(viewer: Viewer, one: FakeBrowser) -> None:
    shows(one, 0, 0.25, 0.5)
    viewer.show(Green(cameras(3)))
    shows(one, 0, 1, 0)


def test_another_clock_is_taken_over(viewer: Viewer, one: FakeBrowser) -> None:
    later = cameras(4)
    later = dataclasses.replace(later, time=later.time + 0.5)
    viewer.show(FakeScene(later))
    shows(one, 0.5, 0.25, 0.5)
    until(lambda: bounds(one) == pytest.approx((0.5, 0.8)))
    viewer.show(FakeScene(cameras(1)))
    until(lambda: one.says("This scene does not move."))
    shows(one, 0, 0.25, 0.5)
    assert not one.find("Time (s)")["visible"]  # pyright: ignore
    viewer.show(FakeScene(cameras(2)))
    until(lambda: one.find("Time (s)")["visible"])  # pyright: ignore
    assert not one.says("This scene does not move.")
    assert not one.nodes.get("/inputs/trail", {}).get("visible")


def test_modes_come_and_go(viewer: Viewer, one: FakeBrowser) -> None:
    offered = lambda: one.find("Show")["options"]  # noqa: E731  # pyright: ignore
    assert "Difference" not in offered()
    with_pictures = _Clip(cameras(3, rgb=True))
    viewer.show(FakeScene(with_pictures.cameras.without_rgb()), with_pictures)
    until(lambda: "Difference" in offered())
    one.use("Show", "Difference")
    until(
        lambda: (
            one.pictures and next(iter(viewer._sessions.values()))._panel.mode.value == "Difference"
        )
    )
    viewer.show(FakeScene(cameras(3)))
    until(lambda: "Difference" not in offered())
    one.look(x=0.25, y=0.5)  # the difference was seen from an input
    shows(one, 0, 0.25, 0.5)  # back to colour, and no error is left
    until(lambda: not one.says("Not drawn"))


class _Clip:
    def __init__(self, frames) -> None:
        self.cameras = frames

    def views(self, indices, hw):
        return self.cameras[indices].resized(hw)


def test_new_browsers_start_at_the_new_scene(viewer: Viewer) -> None:
    moved = cameras(3)
    moved.c2w[:, 1, 3] = 2.0
    viewer.show(FakeScene(moved))
    with browser(viewer.url) as late:
        late.look()
        until(lambda: late.pictures)
        places = [
            m["position"]
            for m in late.moves
            if m.get("initial") and m["type"] == "SetCameraPositionMessage"
        ]
        assert places[-1] == pytest.approx((0, 2, 0))


def test_replacing_while_drawing_and_playing(viewer: Viewer, one: FakeBrowser) -> None:
    """More and fewer inputs in turn: a request for one stage must not break on the next."""
    one.use("Play", True)
    until(lambda: one.find("Pause"))
    scenes = [FakeScene(cameras(n), seconds=0.005) for n in (2, 9, 3)]
    for scene in itertools.islice(itertools.cycle(scenes), 40):
        viewer.show(scene)
        one.look(x=0.3)
    viewer.show(FakeScene(cameras(5)))
    drawn = len(one.pictures)
    until(lambda: len(one.pictures) > drawn + 2)
    assert not one.says("Not drawn")
    assert all(scene.together <= 1 for scene in scenes)


def test_clients_come_and_go_while_scenes_are_replaced(viewer: Viewer) -> None:
    ended, failed = threading.Event(), []

    def replace() -> None:
        try:
            for count in itertools.cycle((2, 6, 3, 5)):
                if ended.is_set():
                    return
                viewer.show(FakeScene(cameras(count)))
        except Exception as error:
            failed.append(error)

    replacing = threading.Thread(target=replace)
    replacing.start()
    try:
        for _ in range(6):
            with browser(viewer.url) as one:
                one.look(x=0.5)
                until(lambda one=one: one.pictures)
    finally:
        ended.set()
        replacing.join(10)
    assert not failed
    with browser(viewer.url) as last:
        last.look(x=0.5)
        until(lambda: last.find("Time (s)") is not None and last.pictures)
        (session,) = until(lambda: viewer.clients == 1 and list(viewer._sessions.values()))
        # who joins in the middle of a replacement gets the newest
        assert session.stage is viewer._stage


@pytest.mark.parametrize("times", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_replacements_leave_nothing_behind(viewer: Viewer, one: FakeBrowser, times: int) -> None:
    (session,) = viewer._sessions.values()
    queue = session.client._websock_connection.get_message_buffer()

    def messages() -> int:
        with queue.buffer_lock:
            return len(queue.message_from_id)

    stages, sizes = [], []
    for count in itertools.islice(itertools.cycle((2, 5, 3)), times):
        viewer.show(FakeScene(cameras(count, rgb=True)))
        stages.append(weakref.ref(viewer._stage))
        if count == 5:
            until(lambda: "/inputs/camera_4" in one.nodes)
            sizes.append(
                (
                    messages(),
                    len(session.client.scene._handle_from_node_name),
                    threading.active_count(),
                )
            )
    until(lambda: gc.collect() is not None and sum(ref() is not None for ref in stages) <= 2)
    assert sizes[-1][1] == sizes[5][1]
    assert sizes[-1][0] <= sizes[5][0] + 20
    assert sizes[-1][2] <= sizes[5][2] + 2
    shows(one, 0, 0.25, 0.5)
