"""COLMAP models in both forms: written exactly by the test, by COLMAP itself, and damaged."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsm.datasets.open import open_clip
from fsm.datasets.readers.colmap import MODELS, _binary_cameras, _binary_images
from fsm.errors import InputError
from tests.datasets.contract import check_clip

HW = (24, 32)
# Turned by 90 degrees about z, and by none; centres (1, 2, 3) and (0, 0, 0).
HALF = float(np.sqrt(0.5))
POSES = {"b.png": (HALF, 0.0, 0.0, HALF, 2.0, -1.0, -3.0), "a.png": (1.0, 0, 0, 0, 0, 0, 0)}
CAMERA = ("OPENCV", (30.0, 31.0, 16.0, 12.0, 0.01, 0.0, 0.0, 0.0))


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for k, name in enumerate(POSES):
        noise = np.random.default_rng(k).integers(0, 255, (*HW, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)


def binary(folder: Path, model: str = CAMERA[0], params: tuple = CAMERA[1]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<QiiQQ", 1, 7, MODELS[model][0], HW[1], HW[0])
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(params)}d", *params))
    data = struct.pack("<Q", len(POSES))
    for k, (name, pose) in enumerate(POSES.items()):
        data += struct.pack("<i7di", k + 1, *pose, 7) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddq", 1.0, 2.0, -1) * 2
    (folder / "images.bin").write_bytes(data)


def text(folder: Path) -> None:
    folder.mkdir(parents=True)
    numbers = " ".join(str(p) for p in CAMERA[1])
    (folder / "cameras.txt").write_text(f"# cameras\n7 {CAMERA[0]} {HW[1]} {HW[0]} {numbers}\n")
    lines = ["# images"]
    for k, (name, pose) in enumerate(POSES.items()):
        lines += [f"{k + 1} {' '.join(str(p) for p in pose)} 7 {name}", "1.0 2.0 -1" if k else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("form", [binary, text])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
def test_both_forms_give_the_same_static_clip(tmp_path: Path, form, place: str):
    pictures(tmp_path / "images")
    form(tmp_path / place) if place != "." or form is binary else text_here(tmp_path)
    clip = open_clip(tmp_path)
    check_clip(clip)
    assert clip.static
    assert torch.allclose(clip.cameras.c2w[0], torch.eye(4))
    turned = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.allclose(clip.cameras.c2w[1, :3, :3], turned, atol=1e-6)
    assert torch.allclose(clip.cameras.c2w[1, :3, 3], torch.tensor([1.0, 2.0, 3.0]), atol=1e-5)


def text_here(folder: Path) -> None:
    text(folder / "other")
    for file in (folder / "other").iterdir():
        file.rename(folder / file.name)
    (folder / "other").rmdir()


def test_what_colmap_writes_is_read(tmp_path: Path):
    pycolmap = pytest.importorskip("pycolmap", reason="writes a model to compare with")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_frames_per_rig = 5
    model = pycolmap.synthesize_dataset(options)
    model.write(str(tmp_path))
    cameras = dict(_binary_cameras(tmp_path / "cameras.bin"))
    images = {
        name: (camera, pose) for name, camera, pose in _binary_images(tmp_path / "images.bin")
    }
    assert len(images) == model.num_reg_images()
    for image in model.images.values():
        camera, pose = images[image.name]
        wanted = image.cam_from_world()
        x, y, z, w = wanted.rotation.quat
        assert np.allclose(pose, [w, x, y, z, *wanted.translation], atol=1e-12)
        assert np.allclose(cameras[camera].params, model.cameras[image.camera_id].params)


def test_lenses_that_are_not_undistorted_are_refused(tmp_path: Path):
    pictures(tmp_path / "images")
    binary(tmp_path / "sparse", "OPENCV_FISHEYE", (30.0, 30.0, 16.0, 12.0, 0.1, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="OPENCV_FISHEYE"):
        open_clip(tmp_path)


def test_models_without_pictures_or_cut_short_are_refused(tmp_path: Path):
    binary(tmp_path / "sparse")
    with pytest.raises(InputError, match="COLMAP model without pictures"):
        open_clip(tmp_path)
    pictures(tmp_path / "images")
    file = tmp_path / "sparse" / "images.bin"
    whole = file.read_bytes()
    for length in (4, 20, 90):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="no whole COLMAP model"):
            open_clip(tmp_path)
    file.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    with pytest.raises(InputError, match="declares"):
        open_clip(tmp_path)
