"""Every example runs, small, and does what its first sentence says."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
FILES = sorted(EXAMPLES.glob("[0-9]*.py"))
CLIP = "world:1001"
SIZE = 32


def example(number: str) -> Callable[..., Any]:
    (path,) = EXAMPLES.glob(f"{number}_*.py")
    return runpy.run_path(str(path))["main"]


def test_there_are_eight_examples_of_at_most_sixty_lines() -> None:
    assert [p.name[:2] for p in FILES] == [f"{i:02d}" for i in range(1, 9)]
    assert [p.name for p in FILES if len(p.read_text().splitlines()) > 60] == []


def test_frames_that_were_left_out_come_back(tmp_path: Path) -> None:
    assert example("01")(clip=CLIP, size=SIZE, out=tmp_path) > 15.0
    assert {p.name for p in tmp_path.iterdir()} == {"scene", "rendered.png", "truth.png"}


@pytest.mark.parametrize("time", ["sweep", "freeze=1.0"])
def test_a_film_has_the_frames_asked_for(tmp_path: Path, time: str) -> None:
    from fsm.datasets.readers.video import VideoFrames

    film = example("02")(clip=CLIP, size=SIZE, frames=5, time=time, out=tmp_path)
    assert len(VideoFrames(film)) == 5


def test_refinement_sharpens_held_out_frames(tmp_path: Path) -> None:
    before, after = example("03")(clip=CLIP, size=SIZE, steps=60, out=tmp_path)
    assert after > before


def test_splat_files_of_three_formats_are_written(tmp_path: Path) -> None:
    files = example("04")(clip=CLIP, size=SIZE, fps=1.0, out=tmp_path)
    assert [p.suffix for p in files] == [".ply", ".splat", ".spz"]
    listed = json.loads((tmp_path / "frames" / "frames.json").read_text())
    assert len(listed["frames"]) == len(list((tmp_path / "frames").glob("*.ply"))) > 1


def test_the_viewer_has_shown_every_frame() -> None:
    pytest.importorskip("viser")
    assert example("05")(clip=CLIP, size=SIZE, port=0, seconds=0.0) == 15


def test_an_evaluation_scores_model_and_baselines(tmp_path: Path) -> None:
    result = example("06")(clips="world:1001", size=SIZE, out=tmp_path)
    assert len(result.scenes) == 1
    assert not result.missing
    assert (tmp_path / "results.json").is_file()


def test_a_training_leaves_a_model_that_opens(tmp_path: Path) -> None:
    from fsm import FSM

    folder = example("07")(size=32, steps=2, out=tmp_path)
    assert FSM.from_pretrained(folder).config.encoder.layers == 2


def test_a_new_format_reads_like_any_other(tmp_path: Path) -> None:
    assert example("08")(clip=CLIP, size=SIZE, out=tmp_path) == 8


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, with a small clip in place of the demo."""
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) >= 5
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "notebook"}
    small = {'clip_name = "demo"': f'clip_name = "{CLIP}"', "size = 128": f"size = {SIZE}"}
    first = cells[0]
    for old, new in small.items():
        assert old in first
        first = first.replace(old, new)
    for cell in (first, *cells[1:]):
        exec(compile(cell, "quickstart.ipynb", "exec"), namespace)
    assert namespace["mean"] > 15.0
