"""The golden file that ships: made by a plain network, matched by the package, sensitive to λ."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.make_golden import golden
from fsm.adapters.golden import SHIPPED, check_golden
from fsm.cli import main


def test_the_package_computes_what_the_plain_network_does() -> None:
    result = check_golden(SHIPPED)
    assert result.passed
    # what float32 leaves of float64 here, with room for another machine
    assert result.error < 5e-6


def test_the_script_makes_the_file_that_ships() -> None:
    tensors, header = golden()
    stored = load_file(SHIPPED)
    assert set(stored) == set(tensors)
    for name, tensor in tensors.items():
        if name == "output.rgb":
            assert torch.allclose(stored[name], tensor, atol=1e-7)
        elif name.endswith("c2w"):  # a decomposition, which rounds differently elsewhere
            assert torch.allclose(stored[name], tensor, atol=1e-6)
        else:
            assert torch.equal(stored[name], tensor)
    with safe_open(SHIPPED, framework="pt") as handle:
        assert handle.metadata() == header
    assert SHIPPED.stat().st_size < 300_000


@pytest.mark.parametrize("change", [{"lam": 0.6}, {"alpha": 0.6}, {"anchor": "global"}])
def test_another_rule_would_be_seen(tmp_path: Path, change: dict) -> None:
    with safe_open(SHIPPED, framework="pt") as handle:
        config = json.loads(handle.metadata()["config"])
    config["elastic"] |= change
    wrong = tmp_path / "wrong.safetensors"
    save_file(load_file(SHIPPED), wrong, {"config": json.dumps(config)})
    assert not check_golden(wrong).passed


def test_doctor_takes_the_file_that_ships(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--golden"]) == 0
    assert SHIPPED.name in capsys.readouterr().out
    assert main(["doctor"]) == 0
    assert SHIPPED.name not in capsys.readouterr().out
