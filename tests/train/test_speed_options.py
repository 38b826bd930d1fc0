"""Options that change how fast a step is, and nothing else."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fsm.model import ModelConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.train.config import TrainConfig
from fsm.train.loop import Training, train
from tests.conftest import REPOSITORY
from tests.train.small_runs import CONFIG, DATA, HEAD, MODEL, changed, read_log

CAUSAL = dataclasses.replace(MODEL.encoder, schedule="causal")
MODELS: dict[str, ModelConfig] = {
    "plain head": MODEL,
    "reference head": ModelConfig(MODEL.encoder, HEAD),
    "causal": ModelConfig(CAUSAL),
    "gaussians": ModelConfig(MODEL.encoder, PixelGaussianHeadConfig()),
}


HALF = [
    pytest.param(kind, "bfloat16", marks=() if kind == "plain head" else pytest.mark.slow)
    for kind in MODELS
]


@pytest.mark.parametrize(("kind", "precision"), [*((kind, "float32") for kind in MODELS), *HALF])
def test_recomputing_activations_changes_no_step(tmp_path: Path, kind: str, precision: Any) -> None:
    data = dataclasses.replace(DATA, chunks=(1, 2))
    config = dataclasses.replace(CONFIG, model=MODELS[kind], data=data, precision=precision)
    for recompute in (False, True):
        train(
            dataclasses.replace(config, checkpointing=recompute),
            tmp_path / str(recompute),
            stop_after=2,
        )
    plain, recomputed = (read_log(tmp_path / str(r)) for r in (False, True))
    assert len(plain) == 2
    for a, b in zip(plain, recomputed, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def _stepped(
    config: TrainConfig, out: Path, steps: int
) -> tuple[Training, list[dict[str, int | float]]]:
    run = Training(config, out, "cpu")
    return run, [run.one_step(None) for _ in range(steps)]


def test_the_fused_optimiser_draws_the_same_curve(tmp_path: Path) -> None:
    curves = []
    for fused in (False, True):
        run, entries = _stepped(changed(fused=fused, weight_decay=0.3, steps=20), tmp_path, 4)
        assert run.optimizer.defaults["fused"] == (True if fused else None)
        curves.append([e["mse"] for e in entries])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_one_fused_update_equals_the_plain_one_to_rounding(tmp_path: Path) -> None:
    """The same gradients twenty times, so that nothing but the update itself can differ."""
    states = []
    for fused in (False, True):
        run = Training(changed(fused=fused, weight_decay=0.3), tmp_path, "cpu")
        for step in range(20):
            generator = torch.Generator().manual_seed(step)
            for p in run.model.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            run.optimizer.step()
        states.append(run.model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)


def test_a_fused_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = changed(fused=True, steps=4)
    train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", stop_after=2)
    train(config, tmp_path / "parts")
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")
    one, other = (
        torch.load(tmp_path / n / "state.pt", weights_only=True)["model"]
        for n in ("whole", "parts")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


COMPARE_COMPILED = """
import dataclasses, functools, sys
from pathlib import Path
import pytest
import torch
from fsm.train.loop import Training
from tests.train.small_runs import CONFIG, DATA, changed

torch.set_num_threads(1)
# Traced, differentiated and run without code generation, which takes minutes;
# tests/test_encoder.py has it generated.
torch.compile = functools.partial(torch.compile, backend="aot_eager")
# One chunk of 48 tokens, more than the fast weights are wide:
# otherwise Newton-Schulz amplifies any rounding.
data = dataclasses.replace(DATA, inputs=(3,), chunks=(1,))
config = dataclasses.replace(changed(lr=1e-3), data=data, log_every=100)
curves = []
for compiled in (False, True):
    run = Training(dataclasses.replace(config, compile=compiled), Path(sys.argv[1]), "cpu")
    first = run.one_step(None)
    assert first["pull_ratio"] > 0.0
    compiled_frames = torch._dynamo.utils.counters["frames"]["ok"]
    assert not compiled_frames, "a step that is listened to runs eagerly"
    curves.append([first, run.one_step(None), run.one_step(None)])
    assert (torch._dynamo.utils.counters["frames"]["ok"] >= 3) == compiled
for a, b in zip(*curves):
    assert b["mse"] == pytest.approx(a["mse"], rel=1e-4)
    assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_train_as_eager_ones(tmp_path: Path) -> None:
    # In a process of its own: the compiler cannot see through the type checks that tests switch on.
    command = [sys.executable, "-c", COMPARE_COMPILED, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
