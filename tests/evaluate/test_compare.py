"""Several results as one table and picture: their numbers, their places, and what may not stand
side by side.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fsm.cli.main import main
from fsm.errors import InputError
from fsm.evaluate.compare import Column, columns, load_run, markdown, picture, write_comparison
from fsm.evaluate.metrics import MASKED, Metrics
from fsm.evaluate.pictures import load_pictures
from fsm.evaluate.protocols import Dense, Sparse
from fsm.evaluate.results import ModelInfo
from fsm.evaluate.run import Evaluation, evaluate
from fsm.evaluate.scoring import Method
from fsm.files import slug
from fsm.views import Rendering, Views
from tests.evaluate.test_run import HW, Copier, three


class Darker(Copier):
    """Half as bright, with a depth."""

    def render(self, views: Views) -> Rendering:
        return Rendering(
            super().render(views).rgb * 0.5, depth=torch.ones(len(views), 1, *views.hw)
        )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on sparse, one of them on dense too, and baselines alone on dense of another
    size.
    """
    out = tmp_path_factory.mktemp("runs")
    models = {"copier": (Copier, ModelInfo("copier", "a" * 16, "cpu", "float32"))}
    models["darker"] = (Darker, ModelInfo("/somewhere/darker|1", "b" * 16, "cpu", "float32"))
    for name, (make, info) in models.items():
        evaluate(
            Method(make, info),
            three(),
            Evaluation(Sparse(hw=HW), Metrics()),
            out / f"{name}-sparse",
        )
    make, info = models["copier"]
    evaluate(Method(make, info), three(), Evaluation(Dense(hw=HW), Metrics()), out / "copier-dense")
    evaluate(None, three(), Evaluation(Dense(hw=(24, 24)), Metrics()), out / "none-dense")
    return out


def read(folders: Path, *names: str) -> tuple[Column, ...]:
    return columns([load_run(name.replace("@", f"{folders}/")) for name in names])


def test_results_of_earlier_versions_compare(folders: Path, tmp_path: Path) -> None:
    """Files from before moving and standing pixels were told apart have neither their numbers nor
    their description.
    """

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in (*MASKED, "masked")}
        return [without(v) for v in value] if isinstance(value, list) else value

    old = tmp_path / "old"
    old.mkdir()
    stored = json.loads((folders / "copier-sparse" / "results.json").read_text())
    (old / "results.json").write_text(json.dumps(without(stored)))
    (column,) = columns([load_run(f"older={old}"), load_run(str(folders / "darker-sparse"))])
    assert set(column.mean) == {"older", "/somewhere/darker|1", "nearest", "blend", "flow"}
    assert "| older | " in markdown((column,))


def test_the_table_has_the_numbers_of_the_results(folders: Path, tmp_path: Path) -> None:
    """Every cell, looked up in the results.json it came from; models not run on a protocol say
    so.
    """
    table = read(
        folders,
        "@copier-sparse",
        "dark=@darker-sparse",
        "@copier-dense",
        "@none-dense/results.json",
    )
    text = write_comparison(table, tmp_path, pictures=0)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    titles = [
        "sparse, 40x32, a to ..d (3 clips)",
        "dense, 40x32, a to ..d (3 clips)",
        "dense, 24x24, a to ..d (3 clips)",
    ]
    assert rows[0] == ["PSNR ↑ / SSIM ↑", *titles]
    assert [row[0] for row in rows[1:]] == [
        "copier",
        "dark",
        "nearest input",
        "time blend",
        "flow blend",
    ]
    cells = {row[0]: row[1:] for row in rows[1:]}
    assert cells["dark"][1:] == cells["copier"][2:] * 2 == ["not run"] * 2
    sources = {
        "copier": ("model", ["copier-sparse", "copier-dense"]),
        "dark": ("model", ["darker-sparse"]),
        "nearest input": ("nearest", ["darker-sparse", "copier-dense", "none-dense"]),
        "time blend": ("blend", ["copier-sparse", "copier-dense", "none-dense"]),
        "flow blend": ("flow", ["copier-sparse", "copier-dense", "none-dense"]),
    }
    for label, (row, names) in sources.items():
        for cell, name in zip(cells[label], names, strict=False):
            stored = json.loads((folders / name / "results.json").read_text())["mean"][row]
            assert cell.replace("*", "") == f"{stored['psnr']:.2f} / {stored['ssim']:.3f}"
    for place in range(3):  # in bold: the best of each column, and it alone
        psnr = {
            label: row[place].split(" / ")[0]
            for label, row in cells.items()
            if row[place] != "not run"
        }
        best = max(float(number.strip("*")) for number in psnr.values())
        assert all(
            number.startswith("**") == (float(number.strip("*")) == best)
            for number in psnr.values()
        )


def test_the_picture_shows_truth_models_and_the_best_baseline(folders: Path) -> None:
    (column,) = read(folders, "@copier-sparse", "dark=@darker-sparse")
    sheet = picture(column, count=2)
    (h, w), zoom, strip, gap = HW, 4, 22, 4
    assert sheet.shape == (strip + 7 * (strip + h * zoom) + gap, gap + 2 * (w * zoom + gap), 3)
    scenes = column.runs[0].result.scenes
    kept = scenes[0].pictures[len(scenes[0].pictures) // 2]
    baselines = {row: score.psnr for row, score in column.baselines.items()}
    best = max(baselines, key=lambda row: baselines[row])
    wanted = [
        ("copier-sparse", "truth"),
        ("copier-sparse", "model"),
        ("darker-sparse", "model"),
        ("copier-sparse", best),
    ]
    for i, (name, row) in enumerate(wanted):
        image = load_pictures(folders / name / "pictures" / slug(scenes[0].id), [kept], row)[0]
        y = strip + i * (strip + h * zoom) + strip
        found = sheet[y : y + h * zoom : zoom, gap : gap + w * zoom : zoom]
        assert np.array_equal(found, (image * 255).round().byte().permute(1, 2, 0).numpy())


def test_the_command_writes_it_all(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(folders / name) for name in ("copier-sparse", "copier-dense", "none-dense")]
    assert main(["compare", *runs, "-o", str(tmp_path / "card"), "--pictures", "2"]) == 0
    assert "| copier |" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "card").iterdir()) == [
        "dense-2.png",
        "dense.png",
        "sparse.png",
        "table.md",
    ]
    text = (tmp_path / "card" / "table.md").read_text(encoding="utf-8")
    for name in ("dense-2.png", "dense.png", "sparse.png"):
        assert f"]({name})" in text
        assert cv2.imread(str(tmp_path / "card" / name)) is not None
    assert main(["compare", "-o", str(tmp_path / "card")]) == 2
    assert "at least one folder" in capsys.readouterr().err


def changed(folders: Path, tmp_path: Path, name: str, change) -> str:
    """A copy of a run whose results.json was edited."""
    copy = tmp_path / "changed"
    shutil.copytree(folders / name, copy)
    value = json.loads((copy / "results.json").read_text())
    change(value)
    (copy / "results.json").write_text(json.dumps(value))
    return str(copy)


def other_baseline(value: dict) -> None:
    for scene in value["scenes"]:
        for score in scene["scores"]["flow"]:
            score["psnr"] += 0.1


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("darker-sparse", other_baseline, "disagree about the baseline flow"),
        (
            "darker-sparse",
            lambda v: v["header"]["metrics"].update(lpips="LPIPS"),
            "were measured differently",
        ),
        (
            "darker-sparse",
            lambda v: v["header"]["model"].update(name="copier"),
            "holds copier on frames that another",
        ),
        (
            "copier-dense",
            lambda v: v["header"]["model"].update(weights="c"),
            "call different weights 'copier'",
        ),
        (
            "copier-dense",
            lambda v: v["missing"].append({"id": "x", "reason": "gone"}),
            r"1 clips have no numbers \(x",
        ),
        ("copier-dense", lambda v: v.pop("scenes"), "is not a results.json of fsm eval"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folders: Path, tmp_path: Path, name: str, change, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        read(folders, "@copier-sparse", changed(folders, tmp_path, name, change))


def test_names_and_missing_pictures(folders: Path, tmp_path: Path) -> None:
    assert r"| /somewhere/darker\|1 |" in markdown(read(folders, "@darker-sparse"))
    with pytest.raises(InputError, match="no model to be called 'x'"):
        read(folders, "x=@none-dense")
    with pytest.raises(InputError, match=r"results\.json cannot be read"):
        read(folders, "@nowhere")
    bare = changed(
        folders, tmp_path, "darker-sparse", lambda v: [s.update(pictures=[]) for s in v["scenes"]]
    )
    (column,) = read(folders, "@copier-sparse", bare)
    with pytest.raises(InputError, match="share no picture of a; evaluate with"):
        picture(column)
