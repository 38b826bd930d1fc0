"""Tables and curves come from result files alone, and their numbers are the means of what these
hold.
"""

import dataclasses
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ablation.__main__ import main
from benchmarks.ablation.report import write_report
from benchmarks.ablation.results import (
    BASELINES,
    BaselineScores,
    Settings,
    claim,
    load_results,
    save_result,
)
from benchmarks.ablation.scores import Cell
from benchmarks.ablation.stats import gain, grouped, own_random, stat, streams
from benchmarks.ablation.variants import VARIANTS, find_variants
from fsm.config import to_dict
from fsm.errors import InputError
from fsm.files import write_json
from tests.ablation.small_suite import BASE, made_result
from tests.conftest import REPOSITORY

LEVELS = {
    ("lact1", 0): 20.0,
    ("lact1", 1): 21.0,
    ("lact4", 0): 18.0,
    ("lact4", 1): 18.5,
    ("lacet4-si-ema", 1): 19.25,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "ablation"
    hashed = claim(out, Settings(BASE, 0, 1, ("a", "b"), ()))
    for (name, seed), level in LEVELS.items():
        save_result(out, made_result(find_variants((name,))[0], seed, hashed, level))
    cell = Cell(("a", "b"), (30.0, 31.0), (0.8, 0.9))
    scores = BaselineScores(
        hashed, {"nearest": dict.fromkeys(("spread", "consecutive", "random"), cell)}
    )
    write_json(out / BASELINES, to_dict(scores))
    return out


def test_the_table_holds_recomputed_means(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert str(folder / "tables.md") in capsys.readouterr().out
    text = (folder / "tables.md").read_text()
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in text.split("##")[1].splitlines()
        if "|" in line
    }
    one, four, lacet = (rows[f"`{n}`"] for n in ("lact1", "lact4", "lacet4-si-ema"))
    levels = np.array([20.0, 21.0])
    assert one[:3] == ["LaCT", "1", "2"]
    assert one[3] == f"{levels.mean():.2f} ± {levels.std(ddof=1):.2f}"
    # clips at level and level + 2
    assert one[4] == f"{levels.mean() + 1:.2f} ± {levels.std(ddof=1):.2f}"
    differences = levels - [18.0, 18.5]
    assert one[5] == f"{differences.mean():+.2f} ± {differences.std(ddof=1):.2f}"
    assert four[5] == "+0.00 ± 0.00"
    assert lacet[2:6] == ["1", "19.25", "20.25", "+0.75"]
    assert rows["nearest"][4:] == ["30.50", "-", "30.50", "30.50", "-", "0.850", "-"]
    assert (one[-1], lacet[-1]) == ("-", "1.93")
    assert "Not finished: keep4-decay-novelty, keep4-decay, lacet4-mas-ema," in text
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_retention_is_late_less_early_and_compared_seed_by_seed(folder: Path) -> None:
    rows = grouped(load_results(folder))
    assert list(rows) == ["lact1", "lact4", "lacet4-si-ema"]
    retention = stat([streams("retention", False)(r) or math.nan for r in rows["lact1"]])
    assert retention is not None
    assert retention.mean == pytest.approx(-0.5)
    found = gain(rows["lacet4-si-ema"], rows["lact4"], streams("late", False))
    assert found is not None
    assert (found.mean, found.seeds) == (pytest.approx(0.75), 1)
    assert math.isnan(found.deviation)
    assert own_random()(rows["lact4"][0]) == pytest.approx(19.0)
    assert streams("late", True)(rows["lact1"][0]) is None  # no worlds here


def test_results_are_read_back_as_written(folder: Path) -> None:
    results = load_results(folder)
    for result in results:
        level = LEVELS[result.variant.name, result.seed]
        assert result == made_result(result.variant, result.seed, result.settings, level)
        assert result.variant in VARIANTS


def test_missing_and_broken_results_are_one_sentence(folder: Path, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no ablation"):
        write_report(empty)
    assert main(["report", str(empty)]) == 2
    assert "holds no ablation" in capsys.readouterr().err
    path = folder / "results" / "lact1-seed0.json"
    path.write_text(path.read_text().replace('"steps": 2', '"steps": "two"'))
    with pytest.raises(InputError, match=r"lact1-seed0\.json: steps is 'two'"):
        write_report(folder)
    for path in (folder / "results").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no results yet"):
        write_report(folder)


def test_one_foreign_result_stops_the_report(folder: Path) -> None:
    first = load_results(folder)[0]
    save_result(folder, dataclasses.replace(first, settings="0" * 16))
    with pytest.raises(InputError, match="belongs to settings 0000"):
        write_report(folder)


def test_the_page_quotes_its_results_and_nothing_else(tmp_path: Path) -> None:
    kept, page = REPOSITORY / "docs" / "ablation", (REPOSITORY / "docs" / "ablation.md").read_text()
    shutil.copytree(kept, tmp_path / "ablation")
    write_report(tmp_path / "ablation")
    text = (kept / "tables.md").read_text()
    assert (tmp_path / "ablation" / "tables.md").read_text() == text
    seen = re.sub(r"`[^`]*`", "", page.split("## What we see")[1].split("\n## ")[0])
    quoted, known = (re.findall(r"[+-]?\d+\.\d+", t) for t in (seen, text))
    assert len(quoted) > 10
    assert {n for n in quoted if n not in known and f"-{n}" not in known} == set()
