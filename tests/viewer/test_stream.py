"""A scene that is being learnt while browsers look at it."""

import threading
from collections.abc import Iterator
from queue import Queue

import pytest
import torch

from fsm.errors import InputError
from fsm.model import FSM
from fsm.viewer import Viewer
from fsm.viewer.stream import ReadingProgress, SceneStream, in_a_sentence
from fsm.views import SceneFrame, Views
from tests.small import small_model, small_views
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

LEVEL = 3 / 255  # JPEG


def fed(queue: "Queue[FakeScene | Exception | None]") -> Iterator[FakeScene]:
    """What is put into ``queue``: scenes, None for the end, an exception to raise."""
    while (item := queue.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


def grown(count: int) -> FakeScene:
    return FakeScene(cameras(count, rgb=True))


@pytest.fixture
def coming() -> "Queue[FakeScene | Exception | None]":
    return Queue()


@pytest.fixture
def viewer(coming: "Queue[FakeScene | Exception | None]") -> Iterator[Viewer]:
    with Viewer(grown(2), port=0) as running:
        running.stream(fed(coming), total=5)
        yield running
        coming.put(None)


@pytest.fixture
def one(viewer: Viewer) -> Iterator[FakeBrowser]:
    with browser(viewer.url) as connected:
        connected.look(x=0.25)
        until(lambda: connected.pictures and connected.find("Show"))
        yield connected


def cursors(viewer: Viewer) -> list[float]:
    """Where the clocks stand, of those who came first first."""
    return [s.playback.cursor for s in viewer._sessions.values()]


def red(one: FakeBrowser, seconds: float) -> bool:
    """Whether the newest picture is of that moment."""
    return one.colour[0] == pytest.approx(seconds, abs=LEVEL)


def test_what_the_panel_says() -> None:
    assert ReadingProgress(16, 32).sentence == "Read 16 of 32 frames ..."
    assert ReadingProgress(16).sentence == "Read 16 frames ..."
    assert ReadingProgress(32, 32, over=True).sentence == "Read all 32 frames."
    assert ReadingProgress(16, 32, over=True).sentence == "Read 16 of 32 frames."
    assert ReadingProgress(1, 1).sentence == "Read 1 of 1 frame ..."
    broken = ReadingProgress(16, 32, over=True, error="frame 17 is torn; fetch it again.")
    assert broken.sentence == "**Stopped after 16 of 32 frames:** frame 17 is torn; fetch it again."
    assert in_a_sentence(ZeroDivisionError("by\n zero")) == "ZeroDivisionError: by zero"
    assert in_a_sentence(KeyError()) == "KeyError"
    assert in_a_sentence(InputError("choose another.")) == "choose another."


def test_a_stream_hands_over_every_scene_and_how_it_ended() -> None:
    shown: list[tuple[int | None, ReadingProgress]] = []
    scenes = [grown(2), grown(4)]
    stream = SceneStream(scenes, lambda s, r: shown.append((s and len(s.inputs), r)), total=4)
    until(lambda: not stream.alive)
    assert shown == [
        (2, ReadingProgress(2, 4)),
        (4, ReadingProgress(4, 4)),
        (4, ReadingProgress(4, 4, over=True)),
    ]
    shown.clear()
    stream = SceneStream((1 / 0 for _ in scenes), lambda s, r: shown.append((s, r)), read=3)
    until(lambda: not stream.alive)
    assert shown == [
        (None, ReadingProgress(3, over=True, error="ZeroDivisionError: division by zero"))
    ]


def test_a_closed_stream_shows_nothing_more() -> None:
    go, shown = threading.Event(), []

    def scenes() -> Iterator[FakeScene]:
        yield grown(2)
        go.wait()
        yield grown(3)

    stream = SceneStream(scenes(), lambda scene, _: shown.append(scene))
    until(lambda: len(shown) == 1)
    closing = threading.Thread(target=stream.close)
    closing.start()
    until(stream._closed.is_set)
    go.set()
    closing.join(10)
    assert not stream.alive
    assert len(shown) == 1


def test_the_newest_frame_is_followed(one: FakeBrowser, coming: Queue) -> None:
    until(lambda: one.says("Read 2 of 5 frames ..."))
    newest = one.find("Follow the newest")
    assert newest is not None
    assert newest["visible"]
    until(lambda: one.colour == pytest.approx((0.1, 0.25, 0), abs=LEVEL))
    coming.put(grown(3))
    until(lambda: one.says("Read 3 of 5 frames ..."))
    until(lambda: one.colour == pytest.approx((0.2, 0.25, 0), abs=LEVEL))
    until(lambda: "/inputs/camera_2" in one.nodes)
    coming.put(grown(5))
    until(lambda: red(one, 0.4) and one.find("Time (s)")["value"] == pytest.approx(0.4))  # pyright: ignore
    coming.put(None)
    until(lambda: one.says("Read all 5 frames."))
    assert not one.find("Follow the newest")["visible"]  # pyright: ignore


def test_who_looks_elsewhere_is_left_there(one: FakeBrowser, viewer: Viewer, coming: Queue) -> None:
    one.use("Time (s)", 0.05)
    until(lambda: red(one, 0.05))
    coming.put(grown(4))
    until(lambda: one.find("Time (s)")["max"] == pytest.approx(0.3))  # pyright: ignore
    assert cursors(viewer) == [pytest.approx(0.05)]
    until(lambda: one.find("Follow the newest")["value"] is False)  # pyright: ignore
    one.use("Follow the newest", True)
    until(lambda: red(one, 0.3))
    one.use("Follow the newest", False)
    until(lambda: not next(iter(viewer._sessions.values()))._panel.newest.value)
    coming.put(grown(5))
    until(lambda: one.says("Read 5 of 5 frames ..."))
    until(lambda: one.find("Time (s)")["max"] == pytest.approx(0.4))  # pyright: ignore
    assert cursors(viewer) == [pytest.approx(0.3)]


def test_who_comes_late_starts_at_the_newest(viewer: Viewer, coming: Queue) -> None:
    coming.put(grown(4))
    until(lambda: len(viewer._stage.scene.inputs) == 4)
    with browser(viewer.url) as late:
        late.look()
        until(lambda: late.says("Read 4 of 5 frames ..."))
        until(lambda: late.pictures and red(late, 0.3))


def test_an_error_ends_the_stream_and_not_the_viewer(
    one: FakeBrowser, viewer: Viewer, coming: Queue
) -> None:
    coming.put(grown(3))
    coming.put(InputError("frame 4 is torn; fetch the clip again."))
    until(
        lambda: one.says("**Stopped after 3 of 5 frames:** frame 4 is torn; fetch the clip again.")
    )
    one.look(x=0.75)
    until(lambda: one.colour == pytest.approx((0.2, 0.75, 0), abs=LEVEL))
    viewer.stream([grown(5)], total=5)  # another may follow
    until(lambda: one.says("Read all 5 frames."))


def test_one_stream_at_a_time(viewer: Viewer) -> None:
    with pytest.raises(InputError, match="already"):
        viewer.stream([grown(3)])


def test_stopping_the_viewer_ends_the_stream() -> None:
    made = []

    def scenes() -> Iterator[FakeScene]:
        while True:
            made.append(None)
            yield grown(2 + len(made) % 3)

    with Viewer(grown(2), port=0) as viewer:
        viewer.stream(scenes())
        until(lambda: len(made) > 3)
    count = len(made)
    assert not viewer._stream.alive  # pyright: ignore
    assert len(made) == count
    assert not [t for t in threading.enumerate() if t.name == "fsm-viewer-stream"]


# --- the model's own stream ---


@pytest.fixture(scope="module", params=["update-all-then-apply", "causal", "gaussian"])
def model(request: pytest.FixtureRequest) -> FSM:
    if request.param == "gaussian":
        return small_model(gaussian="pixel")
    return small_model(schedule=request.param, reference=True)


def pushes(count: int, size: int) -> list[Views]:
    views = small_views(count)
    return [views[i : i + size] for i in range(0, count, size)]


def of_all_cameras(count: int) -> SceneFrame:
    return SceneFrame.fit(small_views(count).without_rgb().batched())


def test_the_last_picture_is_that_of_the_models_stream_bit_for_bit(model: FSM) -> None:
    request = small_views(9)[4:5].without_rgb()
    *_, wanted = model.stream(pushes(9, 3), of_all_cameras(9))
    scenes = model.stream(pushes(9, 3), of_all_cameras(9))
    with Viewer(next(scenes), port=0) as viewer:
        viewer.stream(scenes, total=9)
        until(lambda: viewer._stage.reading == ReadingProgress(9, 9, over=True), seconds=60)
        assert torch.equal(viewer._stage.scene.render(request).rgb, wanted.render(request).rgb)


def test_a_frame_of_all_cameras_makes_a_stream_end_where_reading_at_once_does(model: FSM) -> None:
    views = small_views(9)
    request = views[4:5].without_rgb()
    at_once = model.reconstruct(views).render(request).rgb

    def last(frame: SceneFrame | None) -> torch.Tensor:
        *_, scene = model.stream(pushes(9, 3), frame)
        return scene.render(request).rgb

    assert torch.equal(last(of_all_cameras(9)), at_once)
    # the first push says too little about the clip
    with pytest.warns(UserWarning, match="more than one input span"):
        of_first = last(None)
    assert not torch.equal(of_first, at_once)


def test_drawing_between_pushes_changes_nothing(model: FSM) -> None:
    request = small_views(6)[2:3].without_rgb()
    *_, wanted = model.stream(pushes(6, 2), of_all_cameras(6))
    seen, pictures = [], []
    for scene in model.stream(pushes(6, 2), of_all_cameras(6)):
        seen.append(scene)
        pictures.append(scene.render(request).rgb)
        for earlier, picture in zip(seen, pictures, strict=True):
            assert torch.equal(earlier.render(request).rgb, picture)
    assert torch.equal(pictures[-1], wanted.render(request).rgb)
