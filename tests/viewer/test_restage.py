"""The scene is replaced while browsers look at it: what they chose stays, what they see is of the new one."""

import dataclasses

import torch

from fsm.viewer.inputs import InputCameras, InputNodes, observed
from fsm.viewer.time_controls import Playback
from tests.viewer.fakes import FakeScene, cameras


# --- values ---


def test_the_clock_keeps_its_place_over_other_frames() -> None:
    short = Playback.over([0.0, 0.1]).sought(0.1).at_speed(2.0).looping(False).freezing_time(True).sought(0.05)
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
        self.read += indices.tolist()
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


def test_frustums_that_stay_are_left_alone() -> None:
    views = cameras(6, rgb=True)
    shown, picked = _Nodes(), []
    nodes = InputNodes(shown, InputCameras.of(views[:4]), picked.append)
    nodes.highlight(1)
    kept = shown.nodes["/inputs/camera_2"]
    before = tuple(kept.color)  # pyright: ignore
    shown.done.clear()
    nodes.restage(InputCameras.of(views))
    assert shown.done == [("add", "/inputs/camera_4"), ("add", "/inputs/camera_5"), ("add", "/inputs/trail")]
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
    nodes.seen_from((0.55, 0.0, 0.0))  # those within 0.2 are before the eye
    nodes.restage(InputCameras.of(views))
    visible = [shown.nodes[f"/inputs/camera_{i}"].visible for i in range(6)]  # pyright: ignore
    assert visible == [True, True, True, True, False, False]
    nodes.show(False, False)
    nodes.restage(InputCameras.of(cameras(8)))
    assert not any(node.visible for node in shown.nodes.values())  # pyright: ignore
