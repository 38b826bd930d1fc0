"""The rules of a training step in closed form."""

import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch

from fsm.evaluate.lpips import WEIGHTS_VARIABLE
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.registry import HeadConfig
from fsm.train.config import OptimConfig, TrainConfig
from fsm.train.log import Log
from fsm.train.loop import Training, train
from fsm.train.objectives.rendering import RenderingObjective
from fsm.train.optimizer import learning_rate, parameter_groups
from tests.train.small_runs import BLOCK, CONFIG, HEAD, MODEL, OPTIM, changed, read_log, stage


def test_learning_rate_in_closed_form() -> None:
    config = OptimConfig(steps=110, warmup=10, lr=0.5)
    assert [learning_rate(s, config) for s in range(10)] == pytest.approx(
        [0.05 * (s + 1) for s in range(10)]
    )
    assert learning_rate(10, config) == pytest.approx(0.5)
    assert learning_rate(10 + 25, config) == pytest.approx(0.25 * (1 + math.sqrt(0.5)))
    assert learning_rate(60, config) == pytest.approx(0.25)
    assert learning_rate(10 + 75, config) == pytest.approx(0.25 * (1 - math.sqrt(0.5)))
    assert learning_rate(110, config) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(1000, config) == pytest.approx(0.0, abs=1e-12)
    assert learning_rate(0, OptimConfig(steps=1, warmup=0, lr=0.5)) == pytest.approx(0.5)


def test_a_stage_can_start_the_learning_rate_anew() -> None:
    """Two runs end to end, with a stage between that changes nothing about it."""
    config = OptimConfig(steps=160, warmup=10, lr=0.5)
    stages = (stage(40, hw=(64, 64)), stage(100, lr=0.2, warmup=5), stage(120))
    first, second = (
        OptimConfig(steps=100, warmup=10, lr=0.5),
        OptimConfig(steps=60, warmup=5, lr=0.2),
    )
    expected = [learning_rate(s, first) for s in range(100)] + [
        learning_rate(s, second) for s in range(60)
    ]
    assert [learning_rate(s, config, stages) for s in range(160)] == pytest.approx(expected)


def test_schedule_equals_torchs_own() -> None:
    config = OptimConfig(steps=50, warmup=10, lr=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[10])
    for step in range(50):
        assert learning_rate(step, config) == pytest.approx(
            optimizer.param_groups[0]["lr"], rel=1e-6
        )
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

        def make(config: TrainConfig) -> tuple[Training, Log]:
            log = Log(tmp_path, 0)
            stack.callback(log.close)
            return Training(config, tmp_path, "cpu"), log

        yield make


def _rendering(run: Training) -> RenderingObjective:
    assert isinstance(run.objective, RenderingObjective)
    return run.objective


def _norm(run: Training) -> float:
    grads = [p.grad.flatten() for p in run.model.parameters() if p.grad is not None]
    return float(torch.cat(grads).norm())


def test_gradients_are_clipped_from_the_step_the_config_names(steps) -> None:
    run, log = steps(changed(clip=1e-3, clip_from=1))
    first = run.one_step(log)
    assert first["grad_norm"] > 2e-3
    assert _norm(run) == pytest.approx(first["grad_norm"], rel=1e-5)
    second = run.one_step(log)
    assert second["grad_norm"] > 2e-3
    assert _norm(run) == pytest.approx(1e-3, rel=1e-2)
    assert second["skipped"] == 0


def _state(run: Training) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in run.model.state_dict().items()}


def test_steps_with_exploding_gradients_are_skipped_whole_once_clipping_has_begun(steps) -> None:
    run, log = steps(changed(clip_from=1, skip_above=1e-9))
    assert run.one_step(log)["skipped"] == 0
    weights, ema = _state(run), {k: v.clone() for k, v in run.ema.items()}
    moments = [s["exp_avg"].clone() for s in run.optimizer.state.values()]
    for skipped in (1, 2):
        assert run.one_step(log)["skipped"] == skipped
    assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())
    assert all(torch.equal(v, ema[k]) for k, v in run.ema.items())
    assert all(
        torch.equal(s["exp_avg"], m)
        for s, m in zip(run.optimizer.state.values(), moments, strict=True)
    )
    assert run.step == 3


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_always_and_the_log_stays_json(
    steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    run, log = steps(CONFIG)
    weights = _state(run)
    genuine = _rendering(run).loss
    monkeypatch.setattr(
        run.objective,
        "loss",
        lambda *args: (genuine(*args)[0] * poison, {"mse": poison, "psnr": poison}),
    )
    assert run.one_step(log)["skipped"] == 1
    assert all(torch.equal(v, weights[k]) for k, v in run.model.state_dict().items())
    text = (tmp_path / "log.jsonl").read_text()
    entry = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert entry["mse"] is None
    monkeypatch.undo()
    assert run.one_step(log)["skipped"] == 1
    assert all(bool(torch.isfinite(v).all()) for v in run.model.state_dict().values())


def test_averaged_weights_in_closed_form(steps) -> None:
    """ema = Σᵢ wᵢ (1 - dᵢ) Πⱼ₍ⱼ>ᵢ₎ dⱼ with dᵢ = min(ema, (1 + i) / (10 + i)) and the initial
    weights at i = -1.
    """
    run, log = steps(changed(steps=20, ema=0.2))
    history = [_state(run)]
    for _ in range(5):
        run.one_step(log)
        history.append(_state(run))
    decays = [min(0.2, (1 + i) / (10 + i)) for i in range(5)]
    assert decays[0] == pytest.approx(0.1)
    assert decays[-1] == 0.2
    shares = [math.prod(decays)] + [
        (1 - d) * math.prod(decays[i + 1 :]) for i, d in enumerate(decays)
    ]
    assert sum(shares) == pytest.approx(1.0)
    for name, averaged in run.averaged().state_dict().items():
        expected = sum(w[name].double() * s for w, s in zip(history, shares, strict=True))
        torch.testing.assert_close(averaged.double(), expected, rtol=1e-5, atol=1e-7)
    assert not run.averaged().training


def test_the_averaged_model_is_a_copy(steps) -> None:
    run, log = steps(changed(ema=0.0))
    run.one_step(log)
    model = run.averaged()
    assert all(torch.equal(v, run.model.state_dict()[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        model.encoder.embed.weight.zero_()
    assert float(run.ema["encoder.embed.weight"].abs().sum()) > 0


@pytest.mark.parametrize("head", [LvsmHeadConfig(), HEAD])
def test_one_batch_is_learnt_by_heart(
    steps, monkeypatch: pytest.MonkeyPatch, head: HeadConfig
) -> None:
    optim = dataclasses.replace(OPTIM, steps=40, lr=3e-3 if head is HEAD else 1e-2, warmup=3)
    run, log = steps(
        dataclasses.replace(CONFIG, model=ModelConfig(MODEL.encoder, head), optim=optim)
    )
    batch = run.stream.batch(0)
    monkeypatch.setattr(run.stream, "batch", lambda step: batch)
    losses = [run.one_step(log)["mse"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert run.skipped == 0


def test_lpips_joins_after_the_warm_up(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(shared_data / "lpips"))
    config = changed(lpips="squeeze", lpips_weight=0.25, l2_warmup=2, steps=4)
    train(config, tmp_path / "run", stop_after=3)
    assert ["lpips" in e for e in read_log(tmp_path / "run")] == [False, False, True]
    run = Training(config, tmp_path / "run", "cpu")
    run.resume()
    batch = run.stream.batch(run.step)
    loss, parts = _rendering(run).loss(batch, run.step)
    assert float(loss.detach()) == pytest.approx(parts["mse"] + 0.25 * parts["lpips"], rel=1e-5)
    assert parts["lpips"] > 0.01
    loss.backward()
    network = _rendering(run).lpips
    assert network is not None
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in run.model.parameters())


def test_a_network_that_is_never_used_is_never_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsm.evaluate.lpips.LPIPS.load", None)
    for unused in (changed(lpips="vgg", l2_warmup=6), changed(lpips="vgg", lpips_weight=0.0)):
        assert _rendering(Training(unused, tmp_path, "cpu")).lpips is None


def test_depth_joins_the_loss_where_the_head_predicts_it(tmp_path: Path) -> None:
    config = dataclasses.replace(changed(depth_weight=0.5), model=ModelConfig(MODEL.encoder, HEAD))
    run = Training(config, tmp_path, "cpu")
    loss, parts = _rendering(run).loss(run.stream.batch(0), 0)
    assert float(loss.detach()) == pytest.approx(parts["mse"] + 0.5 * parts["depth"], rel=1e-5)
    plain = Training(changed(depth_weight=0.5), tmp_path, "cpu")
    assert "depth" not in _rendering(plain).loss(run.stream.batch(0), 0)[1]


def test_the_pull_is_logged_only_where_there_is_one(steps) -> None:
    encoder = dataclasses.replace(MODEL.encoder, block=dataclasses.replace(BLOCK, elastic=None))
    run, log = steps(dataclasses.replace(CONFIG, model=ModelConfig(encoder)))
    assert "pull_ratio" not in run.one_step(log)


def test_only_every_nth_step_is_logged(tmp_path: Path) -> None:
    train(dataclasses.replace(CONFIG, log_every=4), tmp_path / "run")
    assert [e["step"] for e in read_log(tmp_path / "run")] == [1, 5]


def test_off_a_terminal_every_checkpoint_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints are saved every two steps."""
    train(CONFIG, tmp_path, stop_after=5)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["step 2 of 6", "step 4 of 6"]
    assert all(" dB, " in line for line in said)


def test_bfloat16_autocast_keeps_weights_and_state_in_float32(steps) -> None:
    run, log = steps(dataclasses.replace(CONFIG, precision="bfloat16"))
    entry = run.one_step(log)
    assert math.isfinite(entry["mse"])
    assert {v.dtype for v in run.model.state_dict().values()} == {torch.float32}
    assert {s["exp_avg"].dtype for s in run.optimizer.state.values()} == {torch.float32}


def test_tensorboard_is_written_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    class Writer:
        def __init__(self, folder: Path, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def close(self) -> None:
            written.append("closed")

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", type("m", (), {"SummaryWriter": Writer})
    )
    train(CONFIG, tmp_path / "run", stop_after=1)
    assert written[0] == (tmp_path / "run", 0)
    assert ("pull_ratio", 1) in written
    assert written[-1] == "closed"
