"""FLOPs in closed form and against torch's own counter; rates against numbers put in."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from fsm.model import ModelConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.registry import HeadConfig
from fsm.train import throughput
from fsm.train.log import described
from fsm.train.loop import Training, train
from fsm.train.throughput import FlopCount, Meter, matrix_peak, summary
from tests.train.small_runs import CONFIG, DATA, HEAD, MODEL, changed


def test_flops_of_products_in_closed_form_whether_computed_once_or_twice() -> None:
    a, b = torch.rand(3, 5, requires_grad=True), torch.rand(5, 7, requires_grad=True)

    def products() -> torch.Tensor:
        return ((a @ b).relu() @ torch.ones(7, 2)).sum()

    for loss in (products, lambda: checkpoint(products, use_reentrant=False)):
        with FlopCount() as count:
            found = loss()
            assert isinstance(found, torch.Tensor)
            found.backward()
        # Forward 2 m k n each; backward one more product for every factor that learns.
        assert count.total == 3 * (2 * 3 * 5 * 7) + 2 * (2 * 3 * 7 * 2)


@pytest.mark.parametrize("head", [LvsmHeadConfig(), HEAD])
def test_flops_of_a_step_are_torchs_own_count_and_the_same_with_checkpointing(
    tmp_path: Path, head: HeadConfig
) -> None:
    config = dataclasses.replace(CONFIG, model=ModelConfig(MODEL.encoder, head))
    plain, twice = (
        Training(dataclasses.replace(config, checkpointing=c), tmp_path, "cpu")
        for c in (False, True)
    )
    batch = plain.stream.batch(0)
    with FlopCounterMode(display=False) as torchs:
        plain.objective.backward(batch, 0)
    totals = []
    for run in (plain, twice):
        with FlopCount() as count:
            run.objective.backward(batch, 0)
        totals.append(count.total)
    assert totals == [torchs.get_total_flops()] * 2


def test_rates_are_sums_over_the_steps_since_the_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "matrix_peak", lambda device, dtype, threads: 1000.0)
    meter = Meter("cpu", torch.float32, processes=2)
    assert meter.rates() == {}
    meter.flops = {"small": 100, "large": 500}
    assert not meter.knows("other")
    meter.add("small", tokens=10, seconds=1.0, waiting=0.5)
    meter.add("large", tokens=50, seconds=2.0, waiting=0.1)
    expected = {
        "waiting": 0.3,
        "tokens_per_second": 2 * 60 / 3,
        "flops_per_second": 200.0,
        "utilisation": 0.2,
    }
    assert meter.rates() == pytest.approx(expected)
    meter.restart()
    assert meter.rates() == {}


def test_the_peak_is_the_best_of_some_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            for step in (0.02, 0.08, 0.02, 0.04):
                now += step
                yield now

    matrix_peak.cache_clear()
    ticks = clock()
    monkeypatch.setattr("fsm.train.throughput.time.perf_counter", lambda: next(ticks))
    assert matrix_peak("cpu", torch.bfloat16, 1) == pytest.approx(2 * 1024**3 / 0.02)
    matrix_peak.cache_clear()


def test_the_log_says_how_fast_steps_of_known_shapes_were(tmp_path: Path) -> None:
    """Two shapes: the first step of each is counted, and only later ones are timed."""
    config = dataclasses.replace(
        changed(steps=6), data=dataclasses.replace(DATA, inputs=(2, 3)), log_every=1
    )
    train(config, tmp_path)
    log, seen = (
        [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()],
        set(),
    )
    for entry in log:
        assert ("utilisation" in entry) == (entry["inputs"] in seen)
        seen.add(entry["inputs"])
        if "utilisation" in entry:
            tokens = (entry["inputs"] + DATA.targets) * (32 // 8) ** 2
            assert entry["tokens_per_second"] == pytest.approx(tokens / entry["seconds"], rel=1e-4)
            assert 0.0 < entry["waiting"] < entry["seconds"]
            assert entry["flops_per_second"] > 0.0
    assert seen == {2, 3}
    text = summary(tmp_path / "log.jsonl", "bfloat16")
    assert text is not None
    assert "tokens/s" in text
    assert "of the bfloat16 matrix products measured here" in text


def test_what_is_not_measured_is_not_said(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "psnr": 7.0, "seconds": 0.5}\n')
    assert summary(tmp_path / "log.jsonl", "float32") is None
    assert described({"psnr": 7.0, "seconds": 0.5}) == "7.00 dB, 0.50 s/step"
    fast = {"psnr": 7.0, "seconds": 0.5, "tokens_per_second": 12345.6, "utilisation": 0.251}
    assert described(fast) == "7.00 dB, 0.50 s/step, 12,346 tokens/s, 25% of peak"
