"""A running viewer and browsers reduced to their sockets: what is asked for is what arrives."""

import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from fsm.errors import InputError
from fsm.viewer import Viewer
from fsm.viewer.session import readout
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

LEVEL = 3 / 255  # JPEG


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene(cameras(rgb=True))


@pytest.fixture
def viewer(scene: FakeScene) -> Iterator[Viewer]:
    # The fake scene keeps no pictures; a clip that is the inputs themselves does.
    with Viewer(scene, clip=_Clip(scene), port=0) as running:
        yield running


class _Clip:
    def __init__(self, scene: FakeScene) -> None:
        self.cameras = scene.inputs

    def views(self, indices, hw):
        return self.cameras[indices].resized(hw)


@pytest.fixture
def one(viewer: Viewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look(x=0.25, y=0.5)
        until(lambda: connected.pictures and connected.find("Show"))
        yield connected


def shows(one: FakeBrowser, *colour: float) -> None:
    until(lambda: one.pictures and one.colour == pytest.approx(colour, abs=LEVEL))


def test_the_picture_is_of_the_camera_and_the_moment(one: FakeBrowser, scene: FakeScene) -> None:
    shows(one, 0.0, 0.25, 0.5)
    assert one.pictures[-1].shape == (32, 48, 3)  # the scene's height, the window's aspect
    one.look(x=0.75, y=0.5)
    shows(one, 0.0, 0.75, 0.5)
    one.use("Time (s)", 0.4)
    shows(one, 0.4, 0.75, 0.5)
    assert all(len(r) == 1 and r.rgb is None for r in scene.requests)
    until(lambda: one.says("Nearest: input 5 of 5, at 0.400 s"))
    assert one.says("48 x 32 px in")


def test_frames_are_stepped_through(one: FakeBrowser) -> None:
    one.use("Frame", "Next")
    one.use("Frame", "Next")
    shows(one, 0.2, 0.25, 0.5)
    until(lambda: one.controls[one.find("Time (s)")["uuid"]]["value"] == 0.2)  # pyright: ignore
    one.use("Frame", "Previous")
    shows(one, 0.1, 0.25, 0.5)


def test_playing_moves_time_at_its_speed_and_pausing_stops_it(one: FakeBrowser) -> None:
    one.use("Loop", False)
    one.use("Speed", 0.5)
    seen = len(one.pictures)
    began = time.monotonic()
    one.use("Play", True)
    until(lambda: one.find("Pause"))
    until(lambda: one.find("Play"), seconds=20)  # 0.4 s of the clip at half speed
    took = time.monotonic() - began
    assert took > 0.75  # how much longer is the machine's affair
    shows(one, 0.4, 0.25, 0.5)
    reds = [float(p[..., 0].mean()) / 255 for p in one.pictures[seen:]]
    assert all(b >= a - LEVEL for a, b in itertools.pairwise(reds))
    assert len({round(r, 2) for r in reds}) > 1
    time.sleep(1.0)  # the full-size picture that follows every movement
    count = len(one.pictures)
    time.sleep(0.5)
    assert len(one.pictures) == count


def test_frozen_time_lets_only_the_camera_move_and_the_other_way_round(one: FakeBrowser) -> None:
    one.use("Time (s)", 0.1)
    one.use("Freeze time", True)
    one.use("Time (s)", 0.3)
    one.look(x=0.6, y=0.5)
    shows(one, 0.1, 0.6, 0.5)
    one.use("Freeze view", False)
    one.moves.clear()
    one.use("Time (s)", 0.2)
    until(lambda: any(m["type"] == "SetCameraPositionMessage" for m in one.moves))
    (position,) = [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"][-1:]
    assert position == pytest.approx((0.2, 0, 0), abs=1e-6)
    one.use("Freeze time", False)
    until(lambda: abs(one.colour[0] - 0.2) < LEVEL)


def test_modes_change_what_is_shown(one: FakeBrowser) -> None:
    one.use("Show", "Opacity")
    shows(one, 0.5, 0.5, 0.5)
    one.use("Show", "Depth")
    until(
        lambda: (
            len({tuple(c) for c in one.pictures[-1].reshape(-1, 3).tolist()}) == 1
            and one.colour[0] != 0.5
        )
    )
    one.use("Show", "Colour")
    shows(one, 0.0, 0.25, 0.5)
    one.moves.clear()
    one.look(x=0.25, y=0.5)
    one.use("Time (s)", 0.3)
    # the camera goes to the nearest input, and from input to input with the time
    one.use("Show", "Difference")
    places = lambda: [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"]  # noqa: E731
    until(lambda: places() and places()[-1] == pytest.approx((0.3, 0, 0)))
    one.use("Time (s)", 0.12)
    until(lambda: places()[-1] == pytest.approx((0.1, 0, 0)))
    one.use("Show", "Colour")
    one.use("Reset view", True)
    until(lambda: places()[-1] == pytest.approx((0, 0, 0)))
    until(lambda: abs(one.colour[0] - 0.12) < LEVEL)  # the clock stays


def test_size_and_transfer(one: FakeBrowser) -> None:
    one.use("Height (px)", "96")
    until(lambda: one.pictures[-1].shape == (96, 144, 3))
    one.use("Send as", "PNG")
    until(lambda: abs(one.colour[1] * 255 - 64) < 1e-6)  # 0.25 rounded to a level, exactly


def test_an_error_is_shown_in_the_panel_and_goes_away(one: FakeBrowser, scene: FakeScene) -> None:
    scene.fail = ZeroDivisionError("a bug in the scene")
    one.look(x=0.1)
    until(lambda: one.says("**Not drawn:** ZeroDivisionError: a bug in the scene"))
    scene.fail = InputError("this model has no such view.")
    one.look(x=0.2)
    until(lambda: one.says("**Not drawn:** this model has no such view."))
    one.look(fov=float("nan"))
    until(lambda: one.says("the browser's camera is not a pose"))
    scene.fail = None
    one.look(x=0.3)
    shows(one, 0.0, 0.3, 0.0)
    until(lambda: not one.says("Not drawn"))


def test_inputs_are_there_and_the_nearest_is_marked(one: FakeBrowser) -> None:
    names = {f"/inputs/camera_{i}" for i in range(5)}
    until(lambda: names | {"/inputs/trail"} <= set(one.nodes))
    assert all(one.nodes[n]["_image_data"] for n in names)
    colour = {n: one.nodes[n]["color"] for n in names}
    one.use("Time (s)", 0.31)
    until(lambda: tuple(one.nodes["/inputs/camera_3"]["color"]) == (255, 140, 0))
    until(lambda: tuple(one.nodes["/inputs/camera_0"]["color"]) == (68, 1, 84))
    assert tuple(colour["/inputs/camera_4"]) == (253, 231, 37)
    one.look(x=0.1)  # in the middle of a frustum
    until(lambda: one.nodes["/inputs/camera_1"].get("visible") is False)
    one.use("Cameras", False)
    until(lambda: one.nodes["/inputs/camera_4"].get("visible") is False)
    one.use("Trail", False)
    until(lambda: one.nodes["/inputs/trail"].get("visible") is False)
    one.use("Cameras", True)
    # 0.3 from the eye, 0.05 large
    until(lambda: one.nodes["/inputs/camera_4"].get("visible") is True)
    assert one.nodes["/inputs/camera_1"]["visible"] is False


def test_a_click_on_a_camera_looks_through_it(one: FakeBrowser) -> None:
    until(lambda: "/inputs/camera_3" in one.nodes)
    one.moves.clear()
    one.click("/inputs/camera_3")
    until(
        lambda: (
            {"SetCameraPositionMessage", "SetCameraFovMessage"} <= {m["type"] for m in one.moves}
        )
    )
    moves = {m["type"]: m for m in one.moves}
    assert moves["SetCameraPositionMessage"]["position"] == pytest.approx((0.3, 0, 0))
    assert moves["SetCameraLookAtMessage"]["look_at"] == pytest.approx((0.3, 0, 1.0))
    until(lambda: abs(one.colour[0] - 0.3) < LEVEL)


def test_the_first_camera_of_a_browser_is_the_first_inputs(one: FakeBrowser) -> None:
    first = {m["type"]: m for m in one.moves if m.get("initial")}
    assert first["SetCameraPositionMessage"]["position"] == pytest.approx((0, 0, 0))
    assert first["SetCameraUpDirectionMessage"]["position"] == pytest.approx((0, -1, 0))


def test_browsers_have_their_own_clock_and_camera(one: FakeBrowser, viewer: Viewer) -> None:
    with browser(viewer.url) as two:
        two.look(x=1.0)
        shows(two, 0.0, 1.0, 0.0)
        two.use("Time (s)", 0.4)
        shows(two, 0.4, 1.0, 0.0)
        shows(one, 0.0, 0.25, 0.5)
        assert viewer.clients == 2
    until(lambda: viewer.clients == 1)


def test_twenty_slider_events_a_second_leave_no_queue() -> None:
    scene = FakeScene(seconds=0.15)
    with Viewer(scene, port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.find("Time (s)"))
        for i in range(40):
            one.use("Time (s)", 0.01 * (i + 1))
            time.sleep(0.05)
        # a queue of them all would take 4 s more
        until(lambda: abs(one.colour[0] - 0.4) < LEVEL, seconds=3.0)
        assert len(scene.requests) < 25
        assert scene.together == 1


def test_a_browser_that_leaves_while_drawing_costs_nothing_and_the_server_lives() -> None:
    scene = FakeScene(seconds=0.1)
    before = threading.active_count()
    with Viewer(scene, port=0) as viewer:
        for _ in range(4):
            with browser(viewer.url) as one:
                one.look()
                until(lambda one=one: one.find("Play"))
                one.use("Play", True)
                time.sleep(0.15)
        until(lambda: viewer.clients == 0)
        time.sleep(0.2)
        drawn = len(scene.requests)
        time.sleep(0.4)
        assert len(scene.requests) == drawn
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith("fsm-viewer")])
        with browser(viewer.url) as one:
            one.look(x=0.5)
            until(lambda: one.pictures)
    until(lambda: threading.active_count() <= before + 33)  # viser's pool may still wind down


def test_a_browser_that_does_not_read_is_not_drawn_for() -> None:
    scene = FakeScene()
    with Viewer(scene, port=0) as viewer, browser(viewer.url, reading=False) as slow:
        slow.look()
        until(lambda: viewer.clients == 1)
        session = next(iter(viewer._sessions.values()))
        queue = session.client._websock_connection.get_message_buffer()
        session._panel.height.value = "1080"
        session._panel.quality.value = 100
        noise = torch.rand(1, 3, 1080, 1620)
        scene.render = lambda views: scene.requests.append(views) or _noise(noise, views)  # pyright: ignore

        def stuck() -> bool:
            drawn = len(scene.requests)
            for i in range(15):
                slow.look(x=0.001 * i)
                time.sleep(0.02)
            return len(scene.requests) == drawn

        until(stuck, seconds=60)
        with queue.buffer_lock:
            sizes = [
                len(getattr(m, "rgb_data", None) or b"") for m in queue.message_from_id.values()
            ]
        assert sum(size > 0 for size in sizes) == 1
        with browser(viewer.url) as quick:
            quick.look()
            until(lambda: quick.pictures)


def _noise(noise: torch.Tensor, views):
    from fsm.views import Rendering

    return Rendering(noise[..., : views.hw[0], : views.hw[1]])


def test_a_scene_of_one_moment_has_no_clock() -> None:
    inputs = cameras(3)
    scene = FakeScene(dataclasses.replace(inputs, time=torch.zeros(3)))
    with Viewer(scene, port=0) as viewer, browser(viewer.url) as one:
        one.look(x=0.5)
        shows_it = until(lambda: one.pictures)
        assert shows_it
        until(lambda: one.says("This scene does not move."))
        for label in ("Time (s)", "Play", "Frame", "Speed", "Loop", "Freeze time", "Freeze view"):
            control = one.find(label)
            assert control is not None
            assert control["visible"] is False, label
        modes = one.find("Show")
        assert modes is not None
        assert "Difference" not in modes["options"]


def test_stopping_frees_the_port_and_ends_run() -> None:
    viewer = Viewer(FakeScene(), port=0)
    port = int(viewer.url.split(":")[2].split("/")[0])
    thread = threading.Thread(target=viewer.run)
    thread.start()
    with browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures)
        viewer.stop()
        thread.join(10)
        assert not thread.is_alive()
    viewer.stop()
    with Viewer(FakeScene(), port=port) as again:
        assert f":{port}/" in again.url


def test_the_readout_counts_pictures_since_the_last_pause() -> None:
    assert readout((90, 60), 0.0123, (1.0,)) == "90 x 60 px in 12 ms"
    assert readout((90, 60), 0.01, (1.0, 5.0, 5.1, 5.2, 5.3)) == "90 x 60 px in 10 ms, 10.0 fps"
