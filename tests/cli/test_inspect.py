"""``fsm inspect`` on the built-in clip, whose cameras are exact, and on the same clip with spoilt
poses.
"""

import json
from pathlib import Path

import pytest
import torch

import fsm.datasets.open
from fsm.cli import main
from fsm.datasets.base import Clip, IndexPlan
from fsm.datasets.open import open_clip
from fsm.datasets.world.clip import WorldClip
from fsm.datasets.writers import write_clip


def test_builtin_clip_is_consistent(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "demo"]) == 0
    text = capsys.readouterr().out
    clip = open_clip("demo")
    assert f"{len(clip)} over {float(clip.cameras.time[-1]):.3f} s, {clip.fps:.4g} fps" in text
    assert "consistent:" in text


def test_json_is_the_same_report_and_wrong_axes_give_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def spoilt(*arguments: object) -> Clip:
        clip = WorldClip(seed=8, frames=24).cached()
        flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        object.__setattr__(clip.cameras, "c2w", clip.cameras.c2w @ flip)
        return clip

    monkeypatch.setattr(fsm.datasets.open, "open_clip", spoilt)
    assert main(["inspect", "demo", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"].startswith("looks like OpenGL axes")
    assert report["frames"] == 24


def test_a_rig_is_said_to_be_one(capsys: pytest.CaptureFixture) -> None:
    main(["inspect", "world:3101:rig=3x2"])
    assert "3 cameras x 2 moments" in " ".join(capsys.readouterr().out.split())
    main(["inspect", "world:3101:rig=3x2", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["cameras"], report["moments"]) == (6, 3, 2)


def test_missing_clip_is_one_sentence(capsys: pytest.CaptureFixture) -> None:
    assert main(["inspect", "no/such/clip.json"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no/such/clip.json ")
    assert error.count("\n") == 1


def test_says_which_format_was_recognised_and_its_split(tmp_path: Path, capsys) -> None:
    clip = open_clip("world:3101").cached((32, 32))
    clip.index_plan = IndexPlan(tuple(range(0, 60, 2)), tuple(range(1, 60, 2)))
    write_clip(clip, tmp_path / "clip", "transforms")
    main(["inspect", str(tmp_path / "clip"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["format"].startswith("transforms.json")
    assert found["split"] == "30 inputs, 30 targets"
    main(["inspect", "world:3101"])
    assert "procedural world" in capsys.readouterr().out
