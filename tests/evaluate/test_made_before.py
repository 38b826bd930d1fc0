"""Scenes that are there already and pictures of any program, scored like a model's."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fsm.cli import main
from fsm.datasets.open import open_clip
from fsm.errors import InputError
from fsm.evaluate.made_before import MOST, unseen_plan
from fsm.refine.split import every
from fsm.renderers.film.video import to_uint8

WORLD = "world:3101"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "scene"
    made = ["reconstruct", WORLD, "-o", str(folder), "--inputs", "0", "--hold-out", "8"]
    assert main([*made, "--size", "64", "--model", "fsm-tiny"]) == 0
    return folder


def test_a_scene_is_scored_on_what_it_has_not_seen(scene: Path, tmp_path: Path):
    out = tmp_path / "eval"
    command = ["eval", WORLD, "--scene", str(scene), "--lpips", "none", "-o", str(out)]
    assert main([*command, "--pictures", "0"]) == 0
    result = json.loads((out / "results.json").read_text())
    done = result["scenes"][0]
    held = sorted(every(8, 60))
    assert done["target_index"] == held
    assert done["input_index"] == [i for i in range(60) if i not in held]
    assert result["header"]["protocol"]["hw"] == [64, 64]
    # the same frames, asked for as a named protocol, which a scene may have seen
    assert main([*command[:-1], str(tmp_path / "dense"), "--protocol", "dense"]) == 2


def test_pictures_are_scored_by_their_numbers(tmp_path: Path):
    clip, folder = open_clip(WORLD), tmp_path / "pictures"
    folder.mkdir()
    command = ["eval", WORLD, "--protocol", "sparse", "--lpips", "none", "--pictures", "0"]
    assert main([*command, "--model", "none", "-o", str(tmp_path / "none")]) == 0
    plan = json.loads((tmp_path / "none" / "results.json").read_text())["scenes"][0]
    for i in plan["target_index"]:
        rgb = clip.views([i], (128, 128)).rgb
        assert rgb is not None
        Image.fromarray(to_uint8((rgb[0] + 0.1).clamp(0, 1))).save(folder / f"frame_{i:05d}.png")
    command += ["--images", str(folder)]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["scenes"][0]["scores"]
    # a shift by a tenth is 20 dB, and a little more where colours are cut off at one
    assert all(20.0 - 0.1 <= s["psnr"] < 24.0 for s in scores["model"])
    first = folder / f"frame_{plan['target_index'][0]:05d}.png"
    Image.new("RGB", (64, 64)).save(first)
    assert main([*command, "-o", str(tmp_path / "small")]) == 2
    first.unlink()
    assert main([*command, "-o", str(tmp_path / "lost")]) == 2


def test_scenes_of_other_clips_and_of_all_frames_are_refused():
    clip = open_clip(WORLD)
    ids = clip.cameras.frame_ids
    assert ids is not None
    plan = unseen_plan(clip, ids[::2], Path("scene"))
    assert plan.input_index == tuple(range(0, 60, 2))
    assert plan.target_index == tuple(range(1, 60, 2))
    assert len(plan.target_index) <= MOST
    with pytest.raises(InputError, match="every frame"):
        unseen_plan(clip, ids, Path("scene"))
    with pytest.raises(InputError, match="no frame"):
        unseen_plan(clip, torch.zeros(1, 2, dtype=torch.int64), Path("scene"))
    with pytest.raises(InputError, match="does not say"):
        unseen_plan(clip, None, Path("scene"))
