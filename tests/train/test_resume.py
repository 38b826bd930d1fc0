"""Resuming bit for bit, and a run folder that is never half of anything."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten

from fsm.checkpoint import weights_hash
from fsm.errors import InputError
from fsm.evaluate.lpips import WEIGHTS_VARIABLE
from fsm.model import FSM
from fsm.runs import locked
from fsm.train.config import SourceConfig
from fsm.train.data import Batch, SampleStream
from fsm.train.loop import train
from fsm.train.optimizer import learning_rate
from tests.train.small_runs import CONFIG, DATA, OPTIM, changed, read_log


def assert_same_run(a: Path, b: Path) -> None:
    """Assert that two run folders hold the same state, log and model to the last bit."""
    assert read_log(a) == read_log(b)
    one, other = (torch.load(p / "state.pt", weights_only=True) for p in (a, b))
    assert one.keys() == other.keys() == {"step", "skipped", "model", "ema", "optimizer", "lpips"}
    flat_one, flat_other = (tree_flatten(s) for s in (one, other))
    assert flat_one[1] == flat_other[1]
    for x, y in zip(flat_one[0], flat_other[0], strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    assert (a / "model" / "model.safetensors").read_bytes() == (
        b / "model" / "model.safetensors"
    ).read_bytes()
    assert (a / "config.json").read_bytes() == (b / "config.json").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps in one go."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, out)
    return out


def test_a_run_writes_config_log_state_and_model(whole: Path) -> None:
    assert sorted(p.name for p in whole.iterdir() if "tfevents" not in p.name) == [
        ".lock",
        "config.json",
        "log.jsonl",
        "model",
        "state.pt",
    ]
    log = read_log(whole)
    assert [e["step"] for e in log] == [1, 2, 3, 4, 5, 6]
    assert [e["lr"] for e in log] == [
        pytest.approx(learning_rate(s, OPTIM), abs=1e-8) for s in range(6)
    ]
    for entry in log:
        assert entry["psnr"] == pytest.approx(-10 * math.log10(entry["mse"]), abs=1e-4)
        assert 0.0 < entry["pull_ratio"] < 1.0
        assert entry["grad_norm"] > 0.0
    model = FSM.from_pretrained(whole / "model")
    ema = torch.load(whole / "state.pt", weights_only=True)["ema"]
    assert all(torch.equal(v, ema[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("parts", [(3, 3), (1, 2, 3), (5, 9)])
def test_resuming_changes_no_bit(whole: Path, tmp_path: Path, parts: tuple[int, ...]) -> None:
    models = []
    for part in parts:
        torch.manual_seed(1234 + part)  # the state of the world outside must not matter
        models.append(train(CONFIG, tmp_path / "run", stop_after=part))
    assert_same_run(whole, tmp_path / "run")
    assert weights_hash(models[-1]) == weights_hash(FSM.from_pretrained(whole / "model"))


def _at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Run ``action`` once, when the sample of ``step`` is drawn."""
    genuine, done = SampleStream.batch, []

    def batch(self: SampleStream, now: int) -> Batch:
        if now == step and not done:
            done.append(now)
            action()
        return genuine(self, now)

    monkeypatch.setattr(SampleStream, "batch", batch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_saves_all_and_resumes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    _at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, tmp_path / "run")
    assert signal.getsignal(number) == before
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3
    assert [e["step"] for e in read_log(tmp_path / "run")] == [1, 2, 3]
    assert FSM.from_pretrained(tmp_path / "run" / "model")
    train(CONFIG, tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_a_crash_costs_the_steps_since_the_last_save_and_nothing_else(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line cut short included: that is what a killed process leaves in the log."""

    def crash() -> None:
        raise MemoryError

    _at_step(monkeypatch, 5, crash)
    with pytest.raises(MemoryError):
        train(CONFIG, tmp_path / "run")
    with open(tmp_path / "run" / "log.jsonl", "a") as log:
        log.write('{"step": 6, "lr": 0.00')
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 4
    train(CONFIG, tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_a_failed_save_keeps_the_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(CONFIG, tmp_path / "run", stop_after=2)
    before = (tmp_path / "run" / "state.pt").read_bytes()

    def full(state: object, path: Path) -> None:
        Path(path).write_bytes(b"half a st")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".state")]


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire()\n"
    code += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="is being written by another process"):
            train(CONFIG, out)
        assert [p.name for p in out.iterdir()] == [".lock"]
        other.communicate("")
    with locked(out):
        pass


def test_a_run_older_than_an_option_resumes_with_its_default(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, stop_after=1)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["compile"], stored["optim"]["ema"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    # CONFIG's own ema is not the default
    with pytest.raises(InputError, match=r"differs in optim"):
        train(CONFIG, tmp_path, stop_after=1)
    stored["optim"]["ema"] = CONFIG.optim.ema
    (tmp_path / "config.json").write_text(json.dumps(stored))
    train(CONFIG, tmp_path, stop_after=1)
    assert json.loads((tmp_path / "config.json").read_text())["compile"] is False


def test_another_config_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "run", stop_after=1)
    before = {
        p.name: p.read_bytes()
        for p in (tmp_path / "run").iterdir()
        if p.is_file() and p.name != ".lock"
    }
    for other, part in ((changed(lr=0.02), "optim"), (dataclasses.replace(CONFIG, seed=2), "seed")):
        with pytest.raises(
            InputError, match=rf"config\.json was written by another config \(differs in {part}\)"
        ):
            train(other, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json"):
        train(CONFIG, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"half')
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        train(CONFIG, tmp_path / "run")
    after = {
        p.name: p.read_bytes()
        for p in (tmp_path / "run").iterdir()
        if p.is_file() and p.name != ".lock"
    }
    assert before | {"config.json": b'{"half'} == after


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(CONFIG, out, stop_after=1)
    data = (out / "state.pt").read_bytes()
    damaged = [data[: len(data) * i // 8] for i in range(8)]
    for wrong in (
        {},
        [],
        3,
        {"model": 3},
        {**torch.load(out / "state.pt", weights_only=True), "model": {}},
    ):
        torch.save(wrong, out / "other.pt")
        damaged.append((out / "other.pt").read_bytes())
    for content in damaged:
        (out / "state.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"state\.pt") as caught:
            train(CONFIG, out)
        assert "\n" not in str(caught.value)
        assert (out / "state.pt").read_bytes() == content


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_known_before_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(SampleStream, "batch", None)
    with pytest.raises(OSError, match="file"):
        train(CONFIG, tmp_path / place)


def test_bad_sources_and_missing_lpips_weights_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = dataclasses.replace(
        CONFIG, data=dataclasses.replace(DATA, sources=(SourceConfig("gone.json"),))
    )
    with pytest.raises(InputError, match=r"gone\.json"):
        train(gone, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="squeeze"):
        train(changed(lpips="squeeze"), tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_a_run_can_start_from_given_weights_of_the_same_model_only(
    whole: Path, tmp_path: Path
) -> None:
    started = dataclasses.replace(
        CONFIG, init=str(whole / "model"), optim=dataclasses.replace(OPTIM, lr=0.0)
    )
    # at a learning rate of zero nothing moves
    model = train(started, tmp_path / "run", stop_after=1)
    given = FSM.from_pretrained(whole / "model").state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, given[name], rtol=1e-6, atol=1e-7)
    block = dataclasses.replace(CONFIG.model.encoder.block, mlp_ratio=3)
    other = dataclasses.replace(
        CONFIG.model, encoder=dataclasses.replace(CONFIG.model.encoder, block=block)
    )
    with pytest.raises(InputError, match=r"does not fit this model: .*mlp"):
        train(dataclasses.replace(started, model=other), tmp_path / "other")
    with pytest.raises(InputError, match=r"no checkpoint 'nowhere'"):
        train(dataclasses.replace(started, init="nowhere"), tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
