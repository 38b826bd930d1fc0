"""The training loop: rules in closed form, resuming bit for bit, and a folder that is never half of anything."""

import contextlib
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

from fsm.blocks import BlockConfig
from fsm.checkpoint import load_pretrained, weights_hash
from fsm.encoder import EncoderConfig
from fsm.errors import InputError
from fsm.evaluate.lpips import WEIGHTS_VARIABLE
from fsm.model import FSM, ModelConfig
from fsm.renderers.reference_head import ReferenceHeadConfig
from fsm.train.config import DataConfig, OptimConfig, SourceConfig, TrainConfig
from fsm.train.data import Batch, SampleStream
from fsm.train.loop import _locked, _Log, _Run, learning_rate, parameter_groups, train
from fsm.ttt import ElasticConfig

BLOCK = BlockConfig(dim=32, attention_head_dim=16, mlp_ratio=2, ns_dtype="float32", elastic=ElasticConfig("mas"))
MODEL = ModelConfig(EncoderConfig(BLOCK, layers=1, patch=8, chunk_tokens=32))
HEAD = ReferenceHeadConfig(references=2, hidden=16, planes=4, refinements=(4,), refinement_width=8)
DATA = DataConfig(hw=(32, 32), batch=1, inputs=(2, 3), targets=2, window=(6, 8), even=1.0, mirror=True)
OPTIM = OptimConfig(steps=6, lr=1e-2, warmup=2, lpips="none", l2_warmup=0, clip_from=100, ema=0.9)
CONFIG = TrainConfig(MODEL, DATA, OPTIM, seed=1, precision="float32", log_every=1, save_every=2)


@pytest.fixture(autouse=True)
def _without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes longer than all of these runs; one test has it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def _with(config: TrainConfig = CONFIG, **optim) -> TrainConfig:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))


def _log(out: Path) -> list[dict]:
    """Log lines without the one number that is not reproducible."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "seconds"} for e in entries]


def _same_run(a: Path, b: Path) -> None:
    """Assert that two run folders hold the same state, log and model to the last bit."""
    assert _log(a) == _log(b)
    one, other = (torch.load(p / "state.pt", weights_only=True) for p in (a, b))
    assert one.keys() == other.keys() == {"step", "skipped", "model", "ema", "optimizer"}
    flat_one, flat_other = (tree_flatten(s) for s in (one, other))
    assert flat_one[1] == flat_other[1]
    for x, y in zip(flat_one[0], flat_other[0], strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()
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
    log = _log(whole)
    assert [e["step"] for e in log] == [1, 2, 3, 4, 5, 6]
    assert [e["lr"] for e in log] == [pytest.approx(learning_rate(s, OPTIM), abs=1e-8) for s in range(6)]
    for entry in log:
        assert entry["psnr"] == pytest.approx(-10 * math.log10(entry["mse"]), abs=1e-4)
        assert 0.0 < entry["pull_ratio"] < 1.0
        assert entry["grad_norm"] > 0.0
    model = load_pretrained(whole / "model")
    ema = torch.load(whole / "state.pt", weights_only=True)["ema"]
    assert all(torch.equal(v, ema[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("parts", [(3, 3), (1, 2, 3), (5, 9)])
def test_resuming_changes_no_bit(whole: Path, tmp_path: Path, parts: tuple[int, ...]) -> None:
    models = []
    for part in parts:
        torch.manual_seed(1234 + part)  # the state of the world outside must not matter
        models.append(train(CONFIG, tmp_path / "run", stop_after=part))
    _same_run(whole, tmp_path / "run")
    assert weights_hash(models[-1]) == weights_hash(load_pretrained(whole / "model"))


def _at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Run ``action`` once, when the sample of ``step`` is drawn."""
    genuine, done = SampleStream.batch, []

    def batch(self: SampleStream, now: int, rank: int = 0) -> Batch:
        if now == step and not done:
            done.append(now)
            action()
        return genuine(self, now, rank)

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
    assert [e["step"] for e in _log(tmp_path / "run")] == [1, 2, 3]
    assert load_pretrained(tmp_path / "run" / "model")
    train(CONFIG, tmp_path / "run")
    _same_run(whole, tmp_path / "run")


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
    _same_run(whole, tmp_path / "run")


def test_a_failed_save_keeps_the_older_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    code = "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
    code += "print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="is being written by another process"):
            train(CONFIG, out)
        assert [p.name for p in out.iterdir()] == [".lock"]
        other.communicate("")
    with _locked(out):
        pass


def test_a_run_older_than_an_option_resumes_with_its_default(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, stop_after=1)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["compile"], stored["optim"]["ema"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"differs in optim"):  # CONFIG's own ema is not the default
        train(CONFIG, tmp_path, stop_after=1)
    stored["optim"]["ema"] = CONFIG.optim.ema
    (tmp_path / "config.json").write_text(json.dumps(stored))
    train(CONFIG, tmp_path, stop_after=1)
    assert json.loads((tmp_path / "config.json").read_text())["compile"] is False


def test_another_config_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "run", stop_after=1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file() and p.name != ".lock"}
    for other, part in ((_with(lr=0.02), "optim"), (dataclasses.replace(CONFIG, seed=2), "seed")):
        with pytest.raises(InputError, match=rf"config\.json was written by another config \(differs in {part}\)"):
            train(other, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json"):
        train(CONFIG, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"half')
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        train(CONFIG, tmp_path / "run")
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file() and p.name != ".lock"}
    assert before | {"config.json": b'{"half'} == after


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(CONFIG, out, stop_after=1)
    data = (out / "state.pt").read_bytes()
    damaged = [data[: len(data) * i // 8] for i in range(8)]
    for wrong in ({}, [], 3, {"model": 3}, {**torch.load(out / "state.pt", weights_only=True), "model": {}}):
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


def test_bad_sources_and_missing_lpips_weights_leave_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, sources=(SourceConfig("gone.json"),)))
    with pytest.raises(InputError, match=r"gone\.json"):
        train(gone, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="squeeze"):
        train(_with(lpips="squeeze"), tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_learning_rate_in_closed_form() -> None:
    config = OptimConfig(steps=110, warmup=10, lr=0.5)
    assert [learning_rate(s, config) for s in range(10)] == pytest.approx([0.05 * (s + 1) for s in range(10)])
    assert learning_rate(10, config) == pytest.approx(0.5)
    assert learning_rate(10 + 25, config) == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
    assert learning_rate(60, config) == pytest.approx(0.25)
    assert learning_rate(10 + 75, config) == pytest.approx(0.25 * (1 - math.sqrt(0.5)))
    assert learning_rate(110, config) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(1000, config) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(0, OptimConfig(steps=1, warmup=0, lr=0.5)) == pytest.approx(0.5)


def test_schedule_equals_torchs_own() -> None:
    config = OptimConfig(steps=50, warmup=10, lr=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[10])
    for step in range(50):
        assert learning_rate(step, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        schedule.step()


def test_decay_falls_on_matrices_only() -> None:
    model = FSM(ModelConfig(MODEL.encoder, HEAD))
    decayed, free = parameter_groups(model, OptimConfig(weight_decay=0.3))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {id(p) for g in (decayed, free) for p in g["params"]} == set(names)
    assert all(p.ndim >= 2 for p in decayed["params"])
    undecayed = {names[id(p)] for p in free["params"]}
    assert {n for n in names.values() if "norm" in n or n.endswith("bias")} <= undecayed
    assert not [n for n in undecayed if n.endswith(("to_qkv.weight", "initial", "embed.weight"))]


@pytest.fixture
def steps(tmp_path: Path):
    """A function that makes a fresh run of a config with a log to step with."""
    with contextlib.ExitStack() as stack:

        def make(config: TrainConfig) -> tuple[_Run, _Log]:
            log = _Log(tmp_path, 0)
            stack.callback(log.close)
            return _Run(config, tmp_path, "cpu"), log

        yield make


def _norm(run: _Run) -> float:
    grads = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm())


def test_gradients_are_clipped_from_the_step_the_config_names(steps) -> None:
    run, log = steps(_with(clip=1e-3, clip_from=1))
    first = run.one_step(log)
    assert first["grad_norm"] > 2e-3
    assert _norm(run) == pytest.approx(first["grad_norm"], rel=1e-5)
    second = run.one_step(log)
    assert second["grad_norm"] > 2e-3
    assert _norm(run) == pytest.approx(1e-3, rel=1e-2)
    assert second["skipped"] == 0


def _state(run: _Run) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.model.state_dict().items()}


def test_steps_with_exploding_gradients_are_skipped_whole_once_clipping_has_begun(steps) -> None:
    run, log = steps(_with(clip_from=1, skip_above=1e-9))
    assert run.one_step(log)["skipped"] == 0
    weights, ema = _state(run), {k: v.clone() for k, v in run.ema.items()}
    moments = [s["exp_avg"].clone() for s in run.optimizer.state.values()]
    for skipped in (1, 2):
        assert run.one_step(log)["skipped"] == skipped
    assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())
    assert all(torch.equal(v, ema[k]) for k, v in run.ema.items())
    assert all(torch.equal(s["exp_avg"], m) for s, m in zip(run.optimizer.state.values(), moments, strict=True))
    assert run.step == 3


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_always_and_the_log_stays_json(
    steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    run, log = steps(CONFIG)
    weights = _state(run)
    genuine = run._loss
    monkeypatch.setattr(run, "_loss", lambda batch: (genuine(batch)[0] * poison, {"mse": poison, "psnr": poison}))
    assert run.one_step(log)["skipped"] == 1
    assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())
    text = (tmp_path / "log.jsonl").read_text()
    entry = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert entry["mse"] is None
    monkeypatch.undo()
    assert run.one_step(log)["skipped"] == 1
    assert all(bool(torch.isfinite(v).all()) for v in run.model.state_dict().values())


def test_averaged_weights_in_closed_form(steps) -> None:
    """ema = Σᵢ wᵢ (1 - dᵢ) Πⱼ₍ⱼ>ᵢ₎ dⱼ with dᵢ = min(ema, (1 + i) / (10 + i)) and the initial weights at i = -1."""
    run, log = steps(_with(steps=20, ema=0.2))
    history = [_state(run)]
    for _ in range(5):
        run.one_step(log)
        history.append(_state(run))
    decays = [min(0.2, (1 + i) / (10 + i)) for i in range(5)]
    assert decays[0] == pytest.approx(0.1)
    assert decays[-1] == 0.2
    shares = [math.prod(decays)] + [(1 - d) * math.prod(decays[i + 1 :]) for i, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1.0)
    for name, averaged in run.averaged().state_dict().items():
        expected = sum(w[name].double() * s for w, s in zip(history, shares, strict=True))
        torch.testing.assert_close(averaged.double(), expected, rtol=1e-5, atol=1e-7)
    assert not run.averaged().training


def test_the_averaged_model_is_a_copy(steps) -> None:
    run, log = steps(_with(ema=0.0))
    run.one_step(log)
    model = run.averaged()
    assert all(torch.equal(v, run.model.state_dict()[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        model.encoder.embed.weight.zero_()
    assert float(run.ema["encoder.embed.weight"].abs().sum()) > 0


@pytest.mark.parametrize("head", [None, HEAD])
def test_recomputing_activations_changes_no_step(tmp_path: Path, head: ReferenceHeadConfig | None) -> None:
    config = dataclasses.replace(CONFIG, model=ModelConfig(MODEL.encoder, head))
    for recompute in (False, True):
        train(dataclasses.replace(config, checkpointing=recompute), tmp_path / str(recompute), stop_after=2)
    plain, recomputed = (_log(tmp_path / str(r)) for r in (False, True))
    for a, b in zip(plain, recomputed, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("head", [None, HEAD])
def test_one_batch_is_learnt_by_heart(steps, monkeypatch: pytest.MonkeyPatch, head: ReferenceHeadConfig | None) -> None:
    optim = dataclasses.replace(OPTIM, steps=40, lr=3e-3 if head else 1e-2, warmup=3)
    run, log = steps(dataclasses.replace(CONFIG, model=ModelConfig(MODEL.encoder, head), optim=optim))
    batch = run.stream.batch(0)
    monkeypatch.setattr(run.stream, "batch", lambda step: batch)
    losses = [run.one_step(log)["mse"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert run.skipped == 0


def test_lpips_joins_after_the_warm_up(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(shared_data / "lpips"))
    config = _with(lpips="squeeze", lpips_weight=0.25, l2_warmup=2, steps=4)
    train(config, tmp_path / "run", stop_after=3)
    assert ["lpips" in e for e in _log(tmp_path / "run")] == [False, False, True]
    run = _Run(config, tmp_path / "run", "cpu")
    run.resume()
    batch = run.stream.batch(run.step)
    loss, parts = run._loss(batch)
    assert float(loss.detach()) == pytest.approx(parts["mse"] + 0.25 * parts["lpips"], rel=1e-5)
    assert parts["lpips"] > 0.01
    loss.backward()
    assert run.lpips is not None
    assert all(p.grad is None for p in run.lpips.parameters())
    assert all(p.grad is not None for p in run.model.parameters())


def test_a_network_that_is_never_used_is_never_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsm.evaluate.lpips.LPIPS.load", None)
    for unused in (_with(lpips="vgg", l2_warmup=6), _with(lpips="vgg", lpips_weight=0.0)):
        assert _Run(unused, tmp_path, "cpu").lpips is None


def test_depth_joins_the_loss_where_the_head_predicts_it(tmp_path: Path) -> None:
    config = dataclasses.replace(_with(depth_weight=0.5), model=ModelConfig(MODEL.encoder, HEAD))
    run = _Run(config, tmp_path, "cpu")
    loss, parts = run._loss(run.stream.batch(0))
    assert float(loss.detach()) == pytest.approx(parts["mse"] + 0.5 * parts["depth"], rel=1e-5)
    assert "depth" not in _Run(_with(depth_weight=0.5), tmp_path, "cpu")._loss(run.stream.batch(0))[1]


def test_the_pull_is_logged_only_where_there_is_one(steps) -> None:
    encoder = dataclasses.replace(MODEL.encoder, block=dataclasses.replace(BLOCK, elastic=None))
    run, log = steps(dataclasses.replace(CONFIG, model=ModelConfig(encoder)))
    assert "pull_ratio" not in run.one_step(log)


def test_only_every_nth_step_is_logged(tmp_path: Path) -> None:
    train(dataclasses.replace(CONFIG, log_every=4), tmp_path / "run")
    assert [e["step"] for e in _log(tmp_path / "run")] == [1, 5]


def test_bfloat16_autocast_keeps_weights_and_state_in_float32(steps) -> None:
    run, log = steps(dataclasses.replace(CONFIG, precision="bfloat16"))
    entry = run.one_step(log)
    assert math.isfinite(entry["mse"])
    assert {v.dtype for v in run.model.state_dict().values()} == {torch.float32}
    assert {s["exp_avg"].dtype for s in run.optimizer.state.values()} == {torch.float32}


def test_tensorboard_is_written_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    class Writer:
        def __init__(self, folder: Path, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("m", (), {"SummaryWriter": Writer}))
    train(CONFIG, tmp_path / "run", stop_after=1)
    assert written[0] == (tmp_path / "run", 0)
    assert ("pull_ratio", 1) in written
    assert written[-1] == "closed"
