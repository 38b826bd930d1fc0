"""The scripts that make the data behind the tables, on small stand-ins for what is published."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.get_dnerf import main as get_dnerf
from benchmarks.get_dnerf import reduced
from benchmarks.get_stereo4d import CLIPS
from benchmarks.get_stereo4d import main as get_stereo4d
from fsm.datasets.open import open_clip, open_dataset
from fsm.datasets.readers.stereo4d import Stereo4D
from fsm.errors import InputError
from tests.datasets.media import counter_video, read_counter

FRAMES = 6


def published(folder: Path, id: str, step: float) -> None:
    """An annotation and its video; the camera moves ``step`` metres a frame to the right."""
    c2w = np.tile(np.eye(4)[:3], (FRAMES, 1, 1))
    c2w[:, 0, 3] = step * np.arange(FRAMES)
    stamps = 5_000_000 + np.arange(FRAMES) * 33_333
    np.savez(folder / f"{id}.npz", timestamps=stamps, camera2world=c2w)
    counter_video(folder / f"{id}-left_rectified.mp4", FRAMES, hw=(128, 128))


def test_stereo4d_becomes_lists_of_small_clips(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "small"
    raw.mkdir()
    for id, step in (("-moves", 0.11), ("stands", 0.001), ("trains", 0.2)):
        published(raw, id, step)
    get_stereo4d(f"{raw} -o {out} --size 64 --train trains gone --val moves stands".split())
    read = {n: json.loads((out / f"{n}.json").read_text()) for n in ("train", "val", "val_moving")}
    assert read == {
        "train": ["train/trains.json"],
        "val": ["val/moves.json", "val/stands.json"],
        "val_moving": ["val/moves.json"],
    }
    before = Stereo4D(raw).clip("-moves")
    after = open_dataset(out / "val_moving.json").clip("moves")
    assert torch.allclose(after.cameras.c2w, before.cameras.c2w, atol=1e-6)
    assert torch.allclose(after.cameras.intrinsics, before.cameras.intrinsics / 2, rtol=1e-6)
    rgb = after.views([4], (64, 64)).rgb
    assert rgb is not None
    assert read_counter((rgb[0] * 255).numpy()) == 4


def test_the_clips_of_the_tables_are_named() -> None:
    ids = json.loads(CLIPS.read_text())
    assert {split: len(set(names)) for split, names in ids.items()} == {"train": 64, "val": 14}
    assert not set(ids["train"]) & set(ids["val"])


def test_a_folder_without_the_clips_is_refused(tmp_path: Path) -> None:
    published(tmp_path, "other", 0.1)
    with pytest.raises(InputError, match="none of the clips"):
        get_stereo4d([str(tmp_path), "-o", str(tmp_path / "out")])


def test_a_dnerf_scene_is_reduced_and_opens(tmp_path: Path) -> None:
    scene, out = tmp_path / "mutant", tmp_path / "small"
    for k, split in enumerate(("train", "val", "test")):
        (scene / split).mkdir(parents=True)
        frames = []
        for i in range(3):
            picture = np.full((100, 100, 4), 40 * (i + 1), np.uint8)
            cv2.imwrite(str(scene / split / f"r_{i:03d}.png"), picture)
            pose = np.eye(4)
            pose[0, 3] = i
            time = (3 * i + k) / 10
            frames.append(
                {
                    "file_path": f"./{split}/r_{i:03d}",
                    "time": time,
                    "transform_matrix": pose.tolist(),
                }
            )
        document = {"camera_angle_x": 0.69, "frames": frames}
        (scene / f"transforms_{split}.json").write_text(json.dumps(document))
    get_dnerf([str(scene), "-o", str(out), "--size", "32"])
    assert open_clip(out).cameras.hw == (32, 32)
    assert set(open_dataset(out).ids) == {"train", "val", "test"}
    name = "transforms_test.json"
    assert (out / name).read_bytes() == (scene / name).read_bytes()


def test_transparent_pixels_lend_no_colour() -> None:
    """Half of each block is opaque red, half transparent green: red at half opacity is left."""
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:, ::2] = (255, 0, 0, 255)
    picture[:, 1::2] = (0, 255, 0, 0)
    assert reduced(picture, 2).tolist() == [[[255, 0, 0, 128]] * 2] * 2
