"""``fsm view FOLDER``: which folders are a clip, which a scene, and which are there to choose
from.
"""

import re
from pathlib import Path

import pytest

import fsm.viewer
from fsm.cli import main
from fsm.cli.view import View
from fsm.datasets.open import holds_clip
from fsm.files import write_json
from tests.cli.small_inputs import write_clip
from tests.viewer.fakes import browser, until


def folder(parent: Path, name: str, *files: str) -> Path:
    place = parent / name
    place.mkdir()
    for file in files:
        (place / file).write_text("{}")
    return place


def test_what_a_folder_is_goes_by_the_files_directly_in_it(tmp_path: Path) -> None:
    scene = folder(tmp_path, "scene", "scene.json", "transforms.json")
    clip = tmp_path / "clip"
    clip.mkdir()
    write_clip(clip)
    clips = [
        folder(tmp_path, "nerf", "transforms.json"),
        folder(tmp_path, "dnerf", "transforms_train.json"),
        clip,
    ]
    clips.append(folder(tmp_path, "stereo", "a.npz"))
    write_json(folder(tmp_path, "list") / "all.json", ["a.json", "b.json"])
    clips.append(tmp_path / "list")
    others = [
        folder(tmp_path, "empty"),
        folder(tmp_path, "run", "metrics.json", "notes.txt"),
        tmp_path,
    ]
    assert all(holds_clip(c) for c in clips)
    assert not any(holds_clip(o) for o in others)
    assert [View(str(p))._is_gallery() for p in (scene, *clips)] == [False] * 6
    assert all(View(str(o))._is_gallery() for o in others)
    assert not View("demo")._is_gallery()
    assert not View(str(tmp_path / "nothing"))._is_gallery()


def test_a_folder_of_scenes_is_chosen_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_json(folder(tmp_path, "broken") / "scene.json", {"kind": "memory"})
    (tmp_path / "small.ply").write_bytes(b"ply\n")
    seen = []

    def run(viewer: fsm.viewer.GalleryViewer) -> None:
        address = re.search(r" at (http://\S+) \(Ctrl-C ends it\)", capsys.readouterr().out)
        assert address is not None
        with viewer, browser(address[1]) as one:
            one.look()
            until(lambda: one.says("2 scenes"))
            until(
                lambda: (
                    one.says("**Not opened:**") and all(viewer.gallery.card(i) for i in range(2))
                )
            )
            seen.append([entry.name for entry in viewer.gallery.entries])

    monkeypatch.setattr(fsm.viewer.GalleryViewer, "run", run)
    assert main(["view", str(tmp_path), "--device", "cpu", "--port", "0"]) == 0
    assert seen == [["broken", "small.ply"]]


def test_refusals_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def complaint(*flags: str) -> str:
        assert main(["view", str(tmp_path), *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "holds neither a clip nor" in complaint()
    write_json(folder(tmp_path, "a") / "scene.json", {})
    assert "--stream is for one clip or scene" in complaint("--stream")
    assert "--compare is for one clip or scene" in complaint("--compare", "b.ply")
    assert "--inputs is for one clip or scene" in complaint("--inputs", "3")
