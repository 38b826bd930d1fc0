"""A small model folder, small clips, and what every refusal of the command line must look like."""

import json
from pathlib import Path

import pytest
import torch

from fsm.blocks import BlockConfig
from fsm.cli import main
from fsm.encoder import EncoderConfig
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from tests.datasets.media import write_fsm_clip
from tests.small import SMALL_STEREO

FRAMES = 20


def write_model(folder: Path, dim: int = 32) -> Path:
    """An untrained model with the reference head."""
    torch.manual_seed(0)
    block = BlockConfig(dim=dim, attention_head_dim=16, mlp_ratio=2, ns_dtype="float32")
    head = ReferenceHeadConfig(
        references=2, hidden=16, stereo=SMALL_STEREO, refinements=(4,), refinement_width=8
    )
    FSM(
        ModelConfig(EncoderConfig(block, layers=1, patch=16, chunk_tokens=64), head)
    ).save_pretrained(folder)
    return folder


def write_clip(folder: Path, change=None) -> Path:
    """A clip of 20 frames of 64x128; ``change`` alters the JSON object before it is written."""
    path = write_fsm_clip(folder, FRAMES)
    if change is not None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder with its content."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def refused(arguments: list[str | Path], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """Run a command that must fail: status 2, one line on stderr, nothing written under ``folder``;
    the line.
    """
    before = tree(folder)
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert len(captured.err) < 1000
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert tree(folder) == before
    return captured.err
