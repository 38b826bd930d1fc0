"""Runs are shared out and resumed without a trace; results of other settings are refused."""

import dataclasses
import math
import os
import signal
import sys
from pathlib import Path

import pytest

from benchmarks.ablation.driver import Suite, run
from benchmarks.ablation.results import (
    claim,
    load_baselines,
    load_results,
    read_settings,
    result_path,
)
from benchmarks.ablation.variants import find_variants
from fsm.errors import InputError
from fsm.evaluate.baselines import BASELINES
from fsm.shards import Shard
from fsm.train.data import SampleStream
from tests.ablation.small_suite import plain_tree, small_suite, without_times

NAMES = find_variants(("lact1", "lacet4-si-ema"))


@pytest.fixture(autouse=True)
def _without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Two variants of one seed from a common start of one step, in one go."""
    suite = small_suite(tmp_path_factory.mktemp("whole"), start_steps=1)
    run(suite, NAMES, (0,))
    return suite


def test_results_say_what_was_trained_and_scored(whole: Suite) -> None:
    one, four = (next(r for r in load_results(whole.folder) if r.variant == v) for v in NAMES)
    assert (one.steps, one.seed, one.pull_ratio, one.pull_by_chunk) == (2, 0, None, ())
    assert four.pull_ratio is not None
    assert 0.0 < four.pull_ratio < 1.0
    assert len(four.pull_by_chunk) == 16
    assert set(one.streams) == {"own", "chunked"}
    assert set(four.streams) == {"own"}
    assert set(four.cells) == {"spread", "consecutive", "random/1", "random/4", "random/16"}
    assert len(four.counts) == 10
    baselines = load_baselines(whole.folder)
    assert baselines is not None
    assert set(baselines.cells) == set(BASELINES)
    nearest = baselines.cells["nearest"]["consecutive"]  # noise: no frame tells anything of another
    assert nearest.psnr == pytest.approx(
        [10 * math.log10(6)], abs=0.3
    )  # two uniform values differ by 1/6 in the mean square
    settings = read_settings(whole.folder)
    assert settings.test_clips == ("noise",)
    assert [s.path for s in settings.base.data.sources] == ["list.json"]
    assert not any(str(whole.folder.parent) in p.read_text() for p in whole.folder.glob("*.json"))


def test_shards_and_an_interruption_change_no_number(
    whole: Suite, tmp_path: Path, monkeypatch
) -> None:
    suite = small_suite(tmp_path, start_steps=1)
    run(suite, NAMES, (0,), Shard(1, 2))
    assert list(plain_tree(suite.folder)) == ["lacet4-si-ema-seed0.json"]
    genuine, stopped = SampleStream.batch, []

    def batch(self, step):
        if step == 0 and not stopped:
            stopped.append(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(self, step)

    monkeypatch.setattr(SampleStream, "batch", batch)
    with pytest.raises(KeyboardInterrupt):
        run(suite, NAMES, (0,), Shard(0, 2))
    assert (suite.folder / "runs" / "lact1-seed0" / "state.pt").exists()
    assert len(plain_tree(suite.folder)) == 1
    run(suite, NAMES, (0,), Shard(0, 2))
    expected, found = plain_tree(whole.folder), plain_tree(suite.folder)
    assert expected.keys() == found.keys()
    for name, content in expected.items():
        assert without_times(content) == without_times(found[name])


def test_finished_results_are_left_alone(whole: Suite) -> None:
    before = plain_tree(whole.folder)
    run(whole, NAMES, (0,))
    assert plain_tree(whole.folder) == before


def test_other_settings_and_foreign_results_are_refused(whole: Suite, tmp_path: Path) -> None:
    other = dataclasses.replace(whole, start_steps=5)
    with pytest.raises(InputError, match="differs in start_steps"):
        run(other, NAMES, (0,))
    suite = small_suite(tmp_path, steps=3)
    claim(suite.folder, suite.settings())
    foreign = result_path(suite.folder, "lact1", 0)
    foreign.parent.mkdir()
    foreign.write_bytes(result_path(whole.folder, "lact1", 0).read_bytes())
    with pytest.raises(
        InputError, match=r"belongs to settings .* keep the results of one ablation in one folder"
    ):
        load_results(suite.folder)
    with pytest.raises(InputError, match="belongs to settings"):
        run(suite, NAMES[:1], (0,))
