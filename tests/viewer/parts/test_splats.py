"""Drawn by the browser: what it is sent is the scene of the moment, and no pictures."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import Gaussians3D
from fsm.viewer import Viewer, native_splats
from fsm.viewer.native_splats import FAINTEST, Native, Rows
from fsm.viewer.parts.splats import Sender, SplatPart
from fsm.viewer.stage import Stage
from fsm.viewer.stream import ReadingProgress
from tests.renderers.splat_files.test_scenes import moving_scene
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, until

NODE = "/gaussians"


def unpacked(rows: np.ndarray, unit: float) -> Gaussians3D:
    """The Gaussians of rows of uint32 [n 8] that are not transparent, as viser's client reads
    them.
    """
    rows = rows.reshape(-1, 8)
    rows = np.ascontiguousarray(rows[rows[:, 7] >> 24 > 0])
    means = torch.from_numpy(rows[:, :3].copy().view(np.float32)) * unit
    covariances = (
        torch.from_numpy(rows[:, 4:7].copy().view(np.float16).astype(np.float32)) * unit**2
    )
    rgba = torch.from_numpy(rows[:, 7:].copy().view(np.uint8).astype(np.float32)) / 255
    return Gaussians3D(means, covariances, rgba[:, 3], (rgba[:, None, :3] - 0.5) / SH_C0)


def check(found: Gaussians3D, scene: GaussianScene, seconds: float) -> None:
    """Assert that ``found`` is the scene of that moment in any order, to the precision of the
    rows.
    """
    expected = scene.world_at(seconds)
    expected = expected[expected.opacities >= FAINTEST]
    assert len(found) == len(expected)
    nearest = _apart(expected.means, found.means).argmin(1)
    assert len(nearest.unique()) == len(expected)
    found = found[nearest]
    assert torch.allclose(found.means, expected.means, atol=2e-5)
    size = expected.covariances[:, [0, 3, 5]].amax(1, keepdim=True)
    assert float(((found.covariances - expected.covariances) / size).abs().max()) < 2e-3
    assert float((found.opacities - expected.opacities).abs().max()) < 0.51 / 255
    rgb = (0.5 + SH_C0 * expected.sh[:, 0]).clamp(0, 1)
    assert float((0.5 + SH_C0 * found.sh[:, 0] - rgb).abs().max()) < 0.51 / 255


def _apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def test_rows_are_the_scene_of_the_moment_in_the_clips_space() -> None:
    scene = moving_scene()
    native = Native.of(scene)
    assert native is not None
    rows = Rows(native)
    for seconds in (1.0, 1.3, 2.7, 1.9, 2.2):
        buffer, count = rows.at(seconds)
        found = unpacked(buffer, native.unit)
        assert count == len(found)
        check(found, scene, seconds)


def test_a_gaussian_keeps_its_row_while_it_is_there() -> None:
    scene = moving_scene()
    native = Native.of(scene)
    assert native is not None
    rows = Rows(native)
    before, _ = rows.at(1.5)
    after, _ = rows.at(1.5001)
    assert before.shape == after.shape
    stays = (before[:, 7] >> 24 > 0) & (after[:, 7] >> 24 > 0)
    assert stays.sum() > 50
    moved = before[stays, :3].copy().view(np.float32) - after[stays, :3].copy().view(np.float32)
    assert np.abs(moved).max() * native.unit < 1e-2


def test_their_number_grows_where_there_are_more_than_at_the_inputs() -> None:
    scene = moving_scene()
    native = Native.of(scene)
    assert native is not None
    vars(native)["rows"] = 10
    buffer, count = Rows(native).at(2.0)
    assert len(buffer) >= count > 10
    check(unpacked(buffer, native.unit), scene, 2.0)


def test_only_what_a_browser_bears_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = moving_scene()
    assert Native.of(FakeScene()) is None
    most = Native.of(scene)
    assert most is not None
    monkeypatch.setattr(native_splats, "MOST_AT_ONCE", most.rows)
    assert Native.of(scene) is not None
    monkeypatch.setattr(native_splats, "MOST_AT_ONCE", most.rows - 1)
    assert Native.of(scene) is None
    monkeypatch.setattr(native_splats, "MOST_AT_ONCE", 1000)
    monkeypatch.setattr(native_splats, "MOST_IN_ALL", len(scene.gaussians) - 1)
    assert Native.of(scene) is None


def test_a_scene_that_is_being_read_is_not_offered_until_it_is_complete() -> None:
    stage = Stage(moving_scene(), reading=ReadingProgress(5, 9))
    assert stage.native is None
    assert stage.with_progress(ReadingProgress(5, over=True)).native is not None


@pytest.fixture
def scene() -> GaussianScene:
    found = moving_scene()
    found.background = torch.tensor([0.2, 0.4, 0.6])
    return found


@pytest.fixture
def viewer(scene: GaussianScene) -> Iterator[Viewer]:
    with Viewer(scene, port=0) as running:
        yield running


@pytest.fixture
def one(viewer: Viewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look()
        until(lambda: connected.pictures and connected.find("Draw in the browser"))
        yield connected


def there(one: FakeBrowser) -> Gaussians3D | None:
    node = one.nodes.get(NODE, {})
    buffer = node.get("buffer")
    return None if buffer is None or len(buffer) == 0 else unpacked(buffer, node["scale"])


def moment(one: FakeBrowser, scene: GaussianScene, seconds: float) -> None:
    """Wait until the browser has that moment, and check it."""
    expected = scene.world_at(seconds).means

    def close() -> bool:
        found = there(one)
        return (
            found is not None
            and len(found) > 0
            and float(_apart(found.means, expected).amin(1).max()) < 1e-4
        )

    until(close)
    found = there(one)
    assert found is not None
    check(found, scene, seconds)


def bare(one: FakeBrowser) -> bool:
    """Whether the last picture is nothing but the scene's background."""
    return one.pictures[-1].shape[:2] == (2, 2) and bool((one.pictures[-1] == [51, 102, 153]).all())


def test_the_browser_has_the_moment_and_its_background_and_no_pictures_come(
    one: FakeBrowser, scene: GaussianScene, viewer: Viewer
) -> None:
    assert one.find("Draw in the browser")["visible"] is True  # pyright: ignore
    one.use("Draw in the browser", True)
    moment(one, scene, 1.0)
    until(lambda: bare(one))
    until(lambda: one.says("Drawn by the browser."))
    count = int((scene.world_at(1.0).opacities >= FAINTEST).sum())
    until(lambda: one.says(f"{count} Gaussians, "))
    seen = len(one.pictures)
    one.use("Time (s)", 1.8)
    one.look(x=0.7)
    moment(one, scene, 1.8)
    one.use("Time (s)", 2.4)
    moment(one, scene, 2.4)
    assert len(one.pictures) == seen


def test_while_only_the_camera_moves_nothing_is_sent(
    one: FakeBrowser, scene: GaussianScene
) -> None:
    one.use("Draw in the browser", True)
    moment(one, scene, 1.0)
    until(lambda: bare(one))
    del one.nodes[NODE]["buffer"]
    seen = len(one.pictures)
    for i in range(10):
        one.look(x=0.1 * i)
    one.use("Time (s)", 1.4)  # what is sent in order arrives in order
    moment(one, scene, 1.4)
    assert len(one.pictures) == seen


def test_switched_off_pictures_come_again_and_the_gaussians_go(one: FakeBrowser) -> None:
    one.use("Draw in the browser", True)
    until(lambda: there(one) is not None and bare(one))
    one.use("Draw in the browser", False)
    until(lambda: NODE not in one.nodes and one.pictures[-1].shape == (32, 48, 3))
    until(lambda: one.says("48 x 32 px in"))
    until(lambda: not one.says(" MB a moment"))


def test_what_a_browser_cannot_draw_is_drawn_for_it(one: FakeBrowser) -> None:
    one.use("Draw in the browser", True)
    until(lambda: there(one) is not None and bare(one))
    one.use("Show", "Depth")
    until(lambda: NODE not in one.nodes and one.pictures[-1].shape == (32, 48, 3))
    one.use("Show", "Colour")
    until(lambda: there(one) is not None and bare(one))
    one.use("Reset view", True)
    until(lambda: NODE not in one.nodes and one.pictures[-1].shape == (32, 48, 3))
    until(lambda: one.find("Draw in the browser")["value"] is False)  # pyright: ignore


def test_another_scene_takes_its_place(one: FakeBrowser, viewer: Viewer) -> None:
    one.use("Draw in the browser", True)
    until(lambda: there(one) is not None)
    other = moving_scene(n=80)
    viewer.show(other)
    moment(one, other, 1.0)
    viewer.show(FakeScene())
    until(lambda: NODE not in one.nodes)
    until(lambda: one.find("Draw in the browser")["visible"] is False)  # pyright: ignore


def test_a_browser_that_does_not_read_gets_one_waiting_moment_at_most(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []
    make, taken = Rows.at, Sender._taken
    reads = threading.Event()
    monkeypatch.setattr(
        Rows, "at", lambda self, seconds: sent.append(seconds) or make(self, seconds)
    )
    monkeypatch.setattr(Sender, "_taken", lambda self: reads.is_set() and taken(self))
    with browser(viewer.url, reading=False) as slow:
        slow.look()
        until(lambda: viewer.clients == 1)
        session = next(iter(viewer._sessions.values()))
        (part,) = (p for p in session._parts if isinstance(p, SplatPart))
        queue = session.client._websock_connection.get_message_buffer()
        part.on.value = True
        for i in range(40):
            session.change(lambda playback, i=i: playback.sought(1.0 + 0.01 * i))
            time.sleep(0.005)
        assert sent == []
        reads.set()
        until(lambda: sent)
        assert sent[0] == pytest.approx(1.39)  # the newest, and none of those before
        with queue.buffer_lock:
            waiting = [
                m for m in queue.message_from_id.values() if getattr(m, "name", None) == NODE
            ]
        assert len(waiting) <= 3  # the node, its rows, its visibility


def test_an_error_is_read_in_the_panel(one: FakeBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Rows, seconds: float) -> None:
        raise ZeroDivisionError("no such moment")

    monkeypatch.setattr(Rows, "at", fail)
    one.use("Draw in the browser", True)
    until(lambda: one.says("**Not sent:** ZeroDivisionError: no such moment"))
    one.use("Draw in the browser", False)
    until(lambda: not one.says("Not sent"))


def test_its_thread_ends_with_the_browser(viewer: Viewer) -> None:
    with browser(viewer.url) as one:
        one.look()
        one.use("Draw in the browser", True)
        until(lambda: there(one) is not None)
        assert [t for t in threading.enumerate() if t.name == "fsm-viewer-splats"]
    until(lambda: not [t for t in threading.enumerate() if t.name == "fsm-viewer-splats"])
