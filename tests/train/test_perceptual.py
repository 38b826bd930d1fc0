"""Which network ``lpips: auto`` means, and that a resumed run never changes it silently."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.evaluate.lpips import HEADS_FILE, TRUNK_FILES, WEIGHTS_VARIABLE
from fsm.train.config import TrainConfig
from fsm.train.loop import train
from fsm.train.perceptual import resolved
from tests.train.small_runs import changed, read_log

AUTO = changed(lpips="auto", l2_warmup=1, lpips_weight=0.1)


@pytest.fixture(autouse=True)
def _nothing_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))


def put(shared_data: Path, folder: Path, *nets: str) -> Path:
    for name in (HEADS_FILE, *(TRUNK_FILES[net][0] for net in nets)):
        if not (folder / name).exists():
            shutil.copy(shared_data / "lpips" / name, folder)
    return folder


def written(out: Path) -> str:
    return json.loads((out / "config.json").read_text())["optim"]["lpips"]


def test_auto_is_the_first_network_whose_weights_are_found(
    tmp_path: Path, shared_data: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(
        InputError, match=r"none of vgg, alex, squeeze has weights here: .* Set optim\.lpips=none"
    ):
        train(AUTO, out)
    assert not out.exists()
    put(shared_data, tmp_path / "weights", "squeeze")
    assert resolved(AUTO, out).optim.lpips == "squeeze"
    put(shared_data, tmp_path / "weights", "alex")
    assert resolved(AUTO, out).optim.lpips == "alex"


def test_auto_looks_for_nothing_that_the_loss_never_uses(tmp_path: Path) -> None:
    for unused in (changed(AUTO, l2_warmup=6), changed(AUTO, lpips_weight=0.0)):
        assert resolved(unused, tmp_path) is unused
    named = changed(lpips="vgg")
    assert resolved(named, tmp_path) is named


def test_a_resumed_run_keeps_its_network_wherever_it_goes_on(
    tmp_path: Path, shared_data: Path
) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    put(shared_data, weights, "squeeze")
    train(AUTO, out, stop_after=2)
    assert written(out) == "squeeze"
    put(shared_data, weights, "alex")  # now the first choice, but not this run's
    train(AUTO, out, stop_after=1)
    assert written(out) == "squeeze"
    assert "lpips" in read_log(out)[-1]
    before = (out / "state.pt").read_bytes()
    (weights / TRUNK_FILES["squeeze"][0]).unlink()
    with pytest.raises(InputError, match=r"LPIPS \(squeeze\) finds no trunk"):
        train(AUTO, out)
    with pytest.raises(InputError, match="differs in optim"):
        train(changed(AUTO, lpips="alex"), out)
    assert (out / "state.pt").read_bytes() == before


def test_other_weights_of_the_same_network_are_refused(tmp_path: Path, shared_data: Path) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    trunk = put(shared_data, weights, "squeeze") / TRUNK_FILES["squeeze"][0]
    train(AUTO, out, stop_after=2)
    tensors = dict(np.load(trunk))
    np.savez(trunk, **{name: 1.01 * value for name, value in tensors.items()})
    with pytest.raises(
        InputError, match=r"state\.pt was trained with other weights of LPIPS \(squeeze\)"
    ):
        train(AUTO, out)
    state = torch.load(out / "state.pt", weights_only=True)
    del state["lpips"]  # as written before it was kept
    torch.save(state, out / "state.pt")
    train(AUTO, out, stop_after=1)
    assert [e["step"] for e in read_log(out)] == [1, 2, 3]


def test_a_run_that_had_none_does_not_take_auto_for_none(tmp_path: Path, shared_data: Path) -> None:
    config: TrainConfig = dataclasses.replace(
        AUTO, optim=dataclasses.replace(AUTO.optim, lpips="none")
    )
    train(config, tmp_path / "run", stop_after=1)
    put(shared_data, tmp_path / "weights", "squeeze")
    with pytest.raises(InputError, match="differs in optim"):
        train(AUTO, tmp_path / "run")
