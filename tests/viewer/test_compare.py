"""Two pictures under one line in the viewer: what is chosen is what stands on either side."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.viewer import Viewer
from fsm.viewer.cameras import Camera
from fsm.viewer.modes import UNSEEN, Mode
from fsm.viewer.stage import Job, Stage
from fsm.viewer.wipe import LINE, Wipe
from fsm.views import Rendering, Views
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

CAMERA = Camera((1.0, 0.0, 0.0, 0.0), (0.25, 0.5, 0.0), 0.8, 1.5)
LEVEL = 1 / 255


class OtherScene(FakeScene):
    """Like the first, but its colours are upside down; half as deep, less opaque."""

    def render(self, views: Views) -> Rendering:
        there = super().render(views)
        assert there.depth is not None
        return Rendering(1 - there.rgb, alpha=there.depth / 8, depth=there.depth / 2)


class ColourOnly(FakeScene):
    def render(self, views: Views) -> Rendering:
        return Rendering(super().render(views).rgb)


def with_frames(scene: FakeScene) -> Stage:
    """Input i is grey of level (i + 1) / 10."""
    stage = Stage(scene, compare={"other": OtherScene()})
    views = stage.inputs.views
    rgb = torch.linspace(0.1, 0.5, 5)[:, None, None, None].expand(5, 3, *views.hw)
    stage.inputs = dataclasses.replace(stage.inputs, views=dataclasses.replace(views, rgb=rgb))
    return stage


def drawn(stage: Stage, job: Job) -> np.ndarray:
    return stage.render(job, 40).picture / 255


def job(wipe: Wipe | None, mode: Mode = "Colour", camera: Camera = CAMERA) -> Job:
    return Job(camera, 0.4, 2, mode, 40, wipe)


@pytest.mark.parametrize("mode", ["Colour", "Depth", "Opacity"])
def test_both_sides_are_what_each_alone_shows(mode: Mode) -> None:
    stage = Stage(FakeScene(), compare={"other": OtherScene()})
    alone = drawn(stage, job(None, mode))
    swapped = Stage(OtherScene())
    swapped._depths = stage._depths  # the colours of depth are those of the first scene
    other = drawn(swapped, job(None, mode))
    both = drawn(stage, job(Wipe("other", 0.3), mode))
    assert np.array_equal(both[:, :18], alone[:, :18])
    assert np.array_equal(both[:, 19:], other[:, 19:])
    np.testing.assert_allclose(both[:, 18], np.broadcast_to(LINE, (40, 3)), atol=LEVEL)
    assert not np.array_equal(alone, other)
    assert np.array_equal(drawn(stage, job(Wipe("other", 1.0), mode)), alone)
    assert np.array_equal(drawn(stage, job(Wipe("other", 0.0), mode)), other)


def test_a_side_that_is_not_seen_is_not_drawn() -> None:
    left, right = FakeScene(), OtherScene()
    stage = Stage(left, compare={"other": right})
    for at, counts in ((0.0, (0, 1)), (1.0, (1, 0)), (0.5, (1, 1))):
        before = len(left.requests), len(right.requests)
        stage.render(job(Wipe("other", at)), 40)
        assert (len(left.requests) - before[0], len(right.requests) - before[1]) == counts


def test_the_input_frame_is_seen_from_where_and_when_it_was_taken() -> None:
    scene = FakeScene()
    stage = with_frames(scene)
    both = drawn(stage, job(Wipe(None, 0.5), camera=Camera.of_view(stage.inputs.views, 2)))
    asked = scene.requests[-1]
    assert asked.time.tolist() == pytest.approx([0.2])
    assert asked.c2w[0, :3, 3].tolist() == pytest.approx([0.2, 0, 0])
    np.testing.assert_allclose(
        both[:, :30], np.broadcast_to((0.2, 0.2, 0), (40, 30, 3)), atol=LEVEL
    )
    np.testing.assert_allclose(both[:, 31:], 0.3, atol=LEVEL)
    wide = dataclasses.replace(CAMERA, fov=2.0)
    both = drawn(stage, job(Wipe(None, 0.5), camera=wide))
    assert both[:, -1] == pytest.approx(UNSEEN, abs=LEVEL)  # the frame has nothing there
    assert both[20, 31] == pytest.approx(0.3, abs=LEVEL)


def test_what_the_other_scene_cannot_show_is_said_with_its_name() -> None:
    stage = Stage(FakeScene(), compare={"old one": ColourOnly()})
    with pytest.raises(InputError, match=r"^old one: this scene's model renders no opacity"):
        stage.render(job(Wipe("old one", 0.5), "Opacity"), 40)
    with pytest.raises(InputError, match="no scene 'gone'"):
        stage.render(job(Wipe("gone", 0.5)), 40)


class _Clip:
    def __init__(self, views: Views) -> None:
        self.cameras = views

    def views(self, indices: torch.Tensor, hw: tuple[int, int]) -> Views:
        return self.cameras[indices].resized(hw)


@pytest.fixture
def one() -> Iterator[FakeBrowser]:
    inputs = cameras()
    rgb = torch.linspace(0.1, 0.5, 5)[:, None, None, None].expand(5, 3, *inputs.hw)
    clip = _Clip(dataclasses.replace(inputs, rgb=rgb))
    with (
        Viewer(FakeScene(inputs), clip=clip, compare=OtherScene(), port=0) as viewer,
        browser(viewer.url) as connected,
    ):
        connected.look(x=0.25, y=0.5)
        connected.use("Send as", "PNG")
        until(lambda: connected.pictures)
        yield connected


def columns(one: FakeBrowser) -> list[list[float]]:
    """Colours of the first and the last column of the newest picture."""
    picture = one.pictures[-1] / 255
    return [picture[:, i].mean(0).round(2).tolist() for i in (0, -1)]


def is_visible(one: FakeBrowser, label: str) -> bool:
    control = one.find(label)
    return control is not None and bool(control["visible"])


def test_another_scene_stands_right_of_the_line(one: FakeBrowser) -> None:
    control = until(lambda: one.find("Compare with"))
    assert list(control["options"]) == ["Nothing", "Input frame", "Other scene"]
    assert not is_visible(one, "Wipe (%)")
    one.use("Compare with", "Other scene")
    until(lambda: columns(one) == [[0.0, 0.25, 0.5], [1.0, 0.75, 0.5]])
    until(
        lambda: is_visible(one, "Wipe (%)") and one.says("Left: this scene, right: `Other scene`")
    )
    one.use("Wipe (%)", 25)
    line = [round(x * 255) for x in LINE]
    until(
        lambda: one.pictures[-1].shape == (32, 48, 3) and one.pictures[-1][5, 12].tolist() == line
    )
    one.use("Show", "Opacity")
    until(lambda: columns(one) == [[0.5] * 3, [0.25] * 3])
    one.use("Wipe (%)", 100)
    until(lambda: columns(one) == [[0.5] * 3, [0.5] * 3])
    one.use("Compare with", "Nothing")
    until(lambda: not is_visible(one, "Wipe (%)") and not one.says("Left:"))


def test_the_input_frame_leads_the_camera_and_is_for_colour_only(one: FakeBrowser) -> None:
    one.use("Time (s)", 0.31)
    one.moves.clear()
    one.use("Compare with", "Input frame")
    places = lambda: [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"]  # noqa: E731
    until(lambda: places() and places()[-1] == pytest.approx((0.3, 0, 0)))
    until(lambda: one.says("Left: this scene, right: input 4 of 5, at 0.300 s"))
    one.look(x=0.3, fov=0.5)
    until(lambda: columns(one) == [[0.3, 0.3, 0.0], [0.4, 0.4, 0.4]])
    one.use("Time (s)", 0.12)
    until(lambda: places()[-1] == pytest.approx((0.1, 0, 0)))
    until(lambda: columns(one) == [[0.1, 0.1, 0.0], [0.2, 0.2, 0.2]])
    one.use("Show", "Opacity")
    until(lambda: columns(one) == [[0.5] * 3, [0.5] * 3])
    until(
        lambda: one.says("Input frames are compared in colour") and not is_visible(one, "Wipe (%)")
    )
    one.use("Reset view", True)
    until(lambda: places()[-1] == pytest.approx((0, 0, 0)))
    until(lambda: not one.says("Input frames are compared"))
    assert one.find("Compare with")["value"] == "Nothing"  # pyright: ignore[reportOptionalSubscript]


def test_another_scene_is_compared_with_nothing_that_belonged_to_the_first() -> None:
    with (
        Viewer(FakeScene(), compare={"old": OtherScene()}, port=0) as viewer,
        browser(viewer.url) as one,
    ):
        one.look()
        one.use("Compare with", "old")
        until(lambda: one.says("Left: this scene, right: `old`"))
        viewer.show(FakeScene(cameras(rgb=True)))
        until(lambda: one.find("Compare with")["value"] == "Nothing")  # pyright: ignore[reportOptionalSubscript]
        until(lambda: not one.says("Left:") and not is_visible(one, "Wipe (%)"))
        assert "old" not in one.find("Compare with")["options"]  # pyright: ignore[reportOptionalSubscript]


def test_nothing_is_offered_where_there_is_nothing_to_compare_with() -> None:
    with Viewer(FakeScene(), port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures and one.find("Compare with") and one.find("Wipe (%)"))
        assert not is_visible(one, "Compare with")
        assert not is_visible(one, "Wipe (%)")


def test_the_picture_is_the_same_bytes_with_and_without_others() -> None:
    plain, compared = Stage(FakeScene()), Stage(FakeScene(), compare={"other": OtherScene()})
    wanted = job(None)
    assert np.array_equal(plain.render(wanted, 40).picture, compared.render(wanted, 40).picture)
