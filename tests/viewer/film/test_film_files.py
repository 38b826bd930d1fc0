"""Films and paths as files: what was planned arrives, and nothing is left of what is given up."""

import io
import json
import threading
import time
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fsm.cli import main
from fsm.datasets.open import open_clip
from fsm.model import FSM
from fsm.open_scene import open_scene
from fsm.viewer import Viewer
from fsm.viewer.film import files as film_files
from tests.cli.small_inputs import write_model
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, until
from tests.viewer.film.steps import lines, path_of, ready, two, visible

LEVEL = 3 / 255


def decoded(content: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_arrives_with_the_frames_that_were_planned(
    one: FakeBrowser, temporary: Path
) -> None:
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
        first = cv2.imdecode(
            np.frombuffer(archive.read("film/frame_00000.png"), np.uint8), cv2.IMREAD_COLOR
        )
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
    until(lambda: not [t for t in threading.enumerate() if t.name == "fsm-viewer-task"])
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


def test_an_error_in_the_middle_is_said_and_leaves_nothing(
    one: FakeBrowser, scene: FakeScene, temporary: Path
) -> None:
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
    until(
        lambda: one.says(
            "**Not done:** the film is larger than 0 MB, too large to send; save the path "
            "and use fsm"
        )
    )
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
        until(
            lambda: one.says(
                "**Not done:** the file has 32.0 MB, more than 32; choose a smaller one."
            )
        )
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
    assert (
        main(
            [
                "render",
                str(file),
                "-o",
                str(out),
                "--path",
                str(tmp_path / "saved.json"),
                "--format",
                "both",
            ]
        )
        == 0
    )
    with zipfile.ZipFile(io.BytesIO(pictures)) as archive:
        sent = {name.removeprefix("film/"): archive.read(name) for name in archive.namelist()}
    assert sent == {p.name: p.read_bytes() for p in (out / "frames").iterdir()}
    assert len({sent[f"frame_{i:05d}.png"] for i in range(6)}) == 6
    assert video == (out / "video.mp4").read_bytes()
