"""Captures of one moment, of one frame and of one place through the command line."""

import json
from pathlib import Path

import cv2
import pytest

from fsm.cli import main
from fsm.open_scene import open_scene
from tests.cli.small_inputs import write_clip, write_model
from tests.datasets.media import counter_picture, fsm_json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


def pictures(folder: Path, frames: int) -> Path:
    """A clip of pictures from a camera that only turns."""
    value = fsm_json(frames)
    del value["video_path"]
    folder.mkdir()
    for i, frame in enumerate(value["frames"]):
        frame["file_path"] = f"{i}.png"
        frame["w2c"] = [[*row[:3], 0.0] for row in frame["w2c"][:3]] + [[0.0, 0.0, 0.0, 1.0]]
        cv2.imwrite(str(folder / f"{i}.png"), counter_picture(i))
    (folder / "clip.json").write_text(json.dumps(value))
    return folder / "clip.json"


def reconstruct(clip: Path, model: Path, out: Path, *more: str) -> int:
    options = ["-o", str(out), "--model", str(model), "--size", "64x32", *more]
    return main(["reconstruct", str(clip), *options])


def test_one_frame_makes_a_static_scene(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconstruct(pictures(tmp_path / "clip", 1), model, tmp_path / "scene") == 0
    assert "1 of 1 frames" in capsys.readouterr().out
    scene = open_scene(tmp_path / "scene", "cpu")
    assert scene.inputs.one_moment
    assert scene.render(scene.inputs.without_rgb()).rgb.isfinite().all()


def test_a_camera_that_only_turns_is_named_and_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconstruct(pictures(tmp_path / "clip", 5), model, tmp_path / "scene") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "the camera only turns" in warnings[0]
    scene = open_scene(tmp_path / "scene", "cpu")
    assert scene.render(scene.inputs.without_rgb()).rgb.isfinite().all()


def test_static_takes_all_frames_for_one_moment(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clips")
    assert reconstruct(clip, model, tmp_path / "scene", "--static") == 0
    scene = open_scene(tmp_path / "scene", "cpu")
    assert scene.inputs.time.unique().tolist() == [0.0]
    main(["inspect", str(clip), "--static"])
    assert ", static" in capsys.readouterr().out
