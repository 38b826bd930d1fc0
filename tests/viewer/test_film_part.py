"""The Film tab from the wire: what is set up is what arrives, and nothing is left of what is given up."""

import io
import json
import math
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fsm.cli import main
from fsm.datasets.open import open_clip
from fsm.model import FSM
from fsm.open_scene import open_scene
from fsm.viewer import Viewer, film_files
from tests.cli.small_inputs import write_model
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

LEVEL = 3 / 255


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene(cameras(11))  # a second of the clip


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and go away from again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def one(scene: FakeScene) -> Iterator[FakeBrowser]:
    with Viewer(scene, port=0) as viewer, browser(viewer.url) as connected:
        ready(connected)
        yield connected


def ready(one: FakeBrowser) -> None:
    """It has its first picture; a control that was used earlier might not be listened to yet."""
    one.look()
    until(lambda: one.pictures, seconds=60)


def value(one: FakeBrowser, label: str):
    control = one.find(label)
    assert control is not None
    return control["value"]


def visible(one: FakeBrowser, label: str) -> bool:
    control = one.find(label)
    assert control is not None
    return control["visible"]


def lines(one: FakeBrowser) -> list[str]:
    """The list of keyframes as it is read, a line each."""
    texts = [c["content"] for c in list(one.controls.values()) if "<table>" in str(c.get("content"))]
    rows = texts[-1].split("<tr>")[2:] if texts else []
    return [" ".join(cell.split(">")[1] for cell in row.split("</td>")[:-1]) for row in rows]


def add(one: FakeBrowser, x: float, seconds: float, y: float = 0.0) -> None:
    before = len(lines(one))
    one.look(x=x, y=y)
    one.use("Time (s)", seconds)
    one.use("Add keyframe", True)
    until(lambda: len(lines(one)) == before + 1)


def two(one: FakeBrowser) -> None:
    """A film of half a second, ten frames a second: x from 0.2 to 0.6, clip from 0 to 0.5."""
    add(one, 0.2, 0.0)
    add(one, 0.6, 0.5)
    one.use("Selected", "1")
    one.use("Until next (s)", 0.5)
    one.use("Rate (fps)", 10)
    until(lambda: lines(one) == ["1 0.000 0.50", "2 0.500 end"])


def path_of(one: FakeBrowser) -> dict:
    one.use("Save path", True)
    return json.loads(one.file().content)


def places(one: FakeBrowser) -> list:
    return [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"]


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
    until(lambda: one.colour[:2] == pytest.approx([0.0, 0.2], abs=LEVEL))  # frozen at another moment now
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
    until(lambda: not any(one.nodes[n]["visible"] for n in ("/film/path", "/film/keyframe_1", "/film/keyframe_2")))
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
    assert all(c[1] - 0.2 == pytest.approx(0.8 * c[0], abs=3 * LEVEL) for c in colours)  # view and time together
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


def decoded(content: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_arrives_with_the_frames_that_were_planned(one: FakeBrowser, temporary: Path) -> None:
    two(one)
    one.use("Size (px)", (64, 48))
    one.use("Render film", True)
    film = one.file()
    assert film.name == "film.mp4"
    frames = decoded(film.content)
    assert [f.shape for f in frames] == [(48, 64, 3)] * 6
    for i, frame in enumerate(frames):
        assert frame.mean((0, 1)) / 255 == pytest.approx([0.1 * i, 0.2 + 0.08 * i, 0], abs=0.02)
    until(lambda: one.says("Sent **film.mp4**: 6 frames of 64 x 48 px at 10 fps, 0.0 MB."))
    until(lambda: visible(one, "Render film") and not visible(one, "Cancel"))
    until(lambda: list(temporary.iterdir()) == [])


def test_pictures_arrive_as_a_zip(one: FakeBrowser, temporary: Path) -> None:
    two(one)
    one.use("Render as", "PNG sequence")
    one.use("Render film", True)
    film = one.file()
    with zipfile.ZipFile(io.BytesIO(film.content)) as archive:
        names = archive.namelist()
        about = json.loads(archive.read("film/cameras.json"))
        first = cv2.imdecode(np.frombuffer(archive.read("film/frame_00000.png"), np.uint8), cv2.IMREAD_COLOR)
    assert names == ["film/cameras.json", *(f"film/frame_{i:05d}.png" for i in range(6))]
    assert [f["time"] for f in about["frames"]] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert np.asarray(first)[0, 0].tolist() == [0, 51, 0]
    until(lambda: list(temporary.iterdir()) == [])


def slow_film(one: FakeBrowser, scene: FakeScene) -> None:
    """Rendering it has begun, and would take long."""
    two(one)
    one.use("Rate (fps)", 100)
    scene.seconds = 0.05
    one.use("Render film", True)
    until(lambda: any(len(r) == 4 for r in scene.requests))


def test_a_film_is_cancelled(one: FakeBrowser, scene: FakeScene, temporary: Path) -> None:
    slow_film(one, scene)
    assert visible(one, "Cancel")
    one.use("Render film", True)  # one at a time
    one.use("Cancel", True)
    until(lambda: one.says("Cancelled; no film was made."))
    until(lambda: not [t for t in threading.enumerate() if t.name == "fsm-viewer-errand"])
    assert list(temporary.iterdir()) == []
    scene.seconds = 0.0
    one.use("Rate (fps)", 10)
    one.use("Render film", True)
    assert len(decoded(one.file().content)) == 6
    assert one.files == []


def test_pictures_come_while_a_film_is_made(one: FakeBrowser, scene: FakeScene) -> None:
    slow_film(one, scene)
    one.look(x=0.77)
    until(lambda: one.colour[1] == pytest.approx(0.77, abs=LEVEL))
    assert visible(one, "Cancel")  # still at it
    assert scene.together == 1
    one.use("Cancel", True)
    until(lambda: visible(one, "Render film"))


def test_a_browser_that_leaves_takes_its_film_along(scene: FakeScene, temporary: Path) -> None:
    with Viewer(scene, port=0) as viewer:
        with browser(viewer.url) as one:
            ready(one)
            slow_film(one, scene)
        until(lambda: viewer.clients == 0)
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith("fsm-viewer")])
        assert list(temporary.iterdir()) == []
        drawn = len(scene.requests)
        time.sleep(0.3)
        assert len(scene.requests) == drawn


def test_an_error_in_the_middle_is_said_and_leaves_nothing(one: FakeBrowser, scene: FakeScene, temporary: Path) -> None:
    slow_film(one, scene)
    scene.fail = ZeroDivisionError("a bug in the scene")
    until(lambda: one.says("**Not done:** ZeroDivisionError: a bug in the scene"))
    until(lambda: visible(one, "Render film") and not visible(one, "Cancel"))
    assert list(temporary.iterdir()) == []
    assert one.files == []


def test_a_film_too_large_to_send_ends_early(
    one: FakeBrowser, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film_files, "MAX_FILM", 1 << 10)
    two(one)
    one.use("Rate (fps)", 100)
    one.use("Render as", "PNG sequence")
    one.use("Render film", True)
    until(lambda: one.says("**Not done:** the film is larger than 0 MB, too large to send; save the path and use fsm"))
    until(lambda: list(temporary.iterdir()) == [])


def test_a_path_is_saved_and_loaded(one: FakeBrowser, temporary: Path) -> None:
    two(one)
    one.use("Tension", 0.5)
    one.use("Save path", True)
    saved = one.file()
    assert saved.name == "camera_path.json"
    data = json.loads(saved.content)
    assert [k["time"] for k in data["keyframes"]] == [0.0, 0.5]
    assert len(data["camera_path"]) == 6
    until(lambda: one.says("Sent **camera_path.json**: 2 keyframes, 6 frames."))
    one.use("Edit", "Clear")
    one.upload("Load path", "../my <path>.json", saved.content)
    until(lambda: one.says("my__path_.json: 2 keyframes."))
    until(lambda: lines(one) == ["1 0.000 0.50", "2 0.500 end"])
    assert json.loads(json.dumps(path_of(one))) == data
    one.use("Edit", "Undo")
    until(lambda: one.says("choose **Add keyframe**"))
    assert list(temporary.iterdir()) == []


def test_files_that_are_no_path_are_refused_in_the_panel(
    one: FakeBrowser, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two(one)
    one.upload("Load path", "notes.json", b"{}")
    until(lambda: one.says("**Not done:** notes.json lacks 'render_height'."))
    one.upload("Load path", "notes.json", b"\xff\x00")
    until(lambda: one.says("**Not done:** notes.json is not valid JSON"))
    one.upload("Load path", "notes.json", b"")
    until(lambda: one.says("**Not done:** notes.json is not valid JSON (Expecting value"))
    assert lines(one) == ["1 0.000 0.50", "2 0.500 end"]
    assert list(temporary.iterdir()) == []


def test_uploads_are_bounded(scene: FakeScene) -> None:
    with Viewer(scene, port=0) as viewer, browser(viewer.url) as one:
        ready(one)
        until(lambda: viewer.clients)
        kept = next(iter(viewer._sessions.values())).client.gui._current_file_upload_states
        one.upload("Load path", "large.json", b"x", claimed=film_files.MAX_UPLOAD + 1)
        until(lambda: one.says("**Not done:** the file has 32.0 MB, more than 32; choose a smaller one."))
        assert kept == {}
        one.upload("Load path", "many.json", b"x" * 200, claimed=200, part=1)
        until(lambda: one.says("the file has 0.0 MB, more than 32") and kept == {})
        one.upload("Load path", "liar.json", b"x" * 4000, claimed=3000, part=1000)
        until(lambda: kept)
        (state,) = kept.values()
        until(lambda: len(state["parts"]) == 3)
        one.use("Add keyframe", True)
        until(lambda: lines(one))  # all its parts were taken in before
        assert sum(map(len, state["parts"].values())) == 3000
        one.upload("Load path", "second.json", b"x" * 4000, claimed=3000, part=1000)
        one.upload("Load path", "third.json", b"{}")
        until(lambda: one.says("**Not done:** 2 files are on their way already"))


def test_the_film_is_what_fsm_render_makes_of_the_saved_path(tmp_path: Path) -> None:
    file = tmp_path / "scene"
    model = FSM.from_pretrained(write_model(tmp_path / "model"))
    model.reconstruct(open_clip("demo").views([0, 20, 40], hw=(32, 48))).save(file)
    with Viewer(open_scene(file, "cpu"), port=0) as viewer, browser(viewer.url) as one:
        ready(one)
        two(one)
        one.use("Size (px)", (48, 32))
        one.use("Render film", True)
        video = one.file(60).content
        one.use("Render as", "PNG sequence")
        one.use("Render film", True)
        pictures = one.file(60).content
        one.use("Save path", True)
        (tmp_path / "saved.json").write_bytes(one.file().content)
    out = tmp_path / "out"
    assert main(["render", str(file), "-o", str(out), "--path", str(tmp_path / "saved.json"), "--format", "both"]) == 0
    with zipfile.ZipFile(io.BytesIO(pictures)) as archive:
        sent = {name.removeprefix("film/"): archive.read(name) for name in archive.namelist()}
    assert sent == {p.name: p.read_bytes() for p in (out / "frames").iterdir()}
    assert len({sent[f"frame_{i:05d}.png"] for i in range(6)}) == 6
    assert video == (out / "video.mp4").read_bytes()
