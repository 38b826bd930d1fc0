"""LLFF, Nerfies, RealEstate10K and MegaSaM captures, written exactly, and how they are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsm.datasets.open import open_clip
from fsm.datasets.readers.llff import read_llff
from fsm.datasets.readers.nerfies import _camera
from fsm.errors import InputError
from tests.datasets.contract import check_clip
from tests.datasets.media import counter_video, read_counter

HW = (24, 32)
CENTRES = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [2.0, 0.0, 1.0], [0.5, 0.5, 0.5]])
# camera to world, OpenCV: the second camera is turned by 90 degrees about z
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
ROTATIONS = np.stack([np.eye(3), TURN, np.eye(3), TURN])


def picture(path: Path, seed: int = 0, hw: tuple[int, int] = HW) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*hw, 3), np.uint8)).save(path)


def check_poses(cameras) -> None:
    assert np.allclose(cameras.c2w[:, :3, :3].numpy(), ROTATIONS, atol=1e-6)
    assert np.allclose(cameras.c2w[:, :3, 3].numpy(), CENTRES, atol=1e-5)


def llff(folder: Path, rows: int = 4) -> None:
    table = np.zeros((rows, 17))
    for k in range(rows):
        right, down, forward = ROTATIONS[k].T
        columns = [down, right, -forward, CENTRES[k], [2.0 * HW[0], 2.0 * HW[1], 80.0]]
        table[k] = [*np.stack(columns, 1).ravel(), 0.5, 9.0]
    np.save(folder / "poses_bounds.npy", table)


def test_llff_rows_become_opencv_cameras_of_the_pictures_found(tmp_path: Path):
    llff(tmp_path)
    for k in range(4):
        picture(tmp_path / "images_2" / f"{k}.png", k)
    clip = open_clip(tmp_path)
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.static
    # stated for pictures of twice the size
    assert clip.cameras.intrinsics[0].tolist() == pytest.approx([40.0, 40.0, 16.0, 12.0])


def test_llff_needs_a_row_for_every_picture(tmp_path: Path):
    llff(tmp_path, rows=3)
    for k in range(4):
        picture(tmp_path / "images" / f"{k}.png", k)
    with pytest.raises(InputError, match="3 rows, but there are 4 pictures"):
        open_clip(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.zeros((4, 15)))
    with pytest.raises(InputError, match="expected 17 numbers"):
        open_clip(tmp_path)


def test_the_real_fern_agrees_with_its_other_file(shared_data: Path):
    folder = shared_data / "llff_fern"
    own, other = read_llff("fern", folder), open_clip(folder)
    given = {tuple(np.round(c, 4)) for c in other.cameras.c2w[:, :3, 3].numpy().tolist()}
    assert len(own) == len(other)
    assert own.cameras.hw == other.cameras.hw
    for centre in own.cameras.c2w[:, :3, 3].numpy():
        assert min(np.abs(np.array(list(given)) - centre).max(1)) < 1e-3


def nerfies(folder: Path, **changed) -> None:
    ids = [f"{k % 2}_{k // 2:05d}" for k in range(4)]
    value = {"ids": ids, "train_ids": ids[::2], "val_ids": ids[1::2], "count": 4}
    (folder / "camera").mkdir(parents=True)
    for k, name in enumerate(ids):
        camera = {
            "orientation": ROTATIONS[k].T.tolist(),
            "position": CENTRES[k].tolist(),
            "focal_length": 60.0,
            "principal_point": [32.0, 24.0],
            "skew": 0.0,
            "pixel_aspect_ratio": 1.0,
            "radial_distortion": [0.0, 0.0, 0.0],
            "tangential_distortion": [0.0, 0.0],
            "image_size": [64, 48],
            **changed,
        }
        (folder / "camera" / f"{name}.json").write_text(json.dumps(camera))
        picture(folder / "rgb" / "2x" / f"{name}.png", k)
    about = {n: {"warp_id": k // 2, "camera_id": k % 2} for k, n in enumerate(ids)}
    (folder / "metadata.json").write_text(json.dumps(about))
    (folder / "dataset.json").write_text(json.dumps(value))
    (folder / "extra.json").write_text(json.dumps({"fps": 10}))


def test_nerfies_captures_are_rigs_with_a_split(tmp_path: Path):
    nerfies(tmp_path)
    clip = open_clip(tmp_path)
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.time.tolist() == pytest.approx([0.0, 0.0, 0.1, 0.1])
    assert clip.camera_ids == ("0", "1", "0", "1")
    assert clip.index_plan is not None
    assert (clip.index_plan.input_index, clip.index_plan.target_index) == ((0, 2), (1, 3))
    assert clip.cameras.intrinsics[0].tolist() == pytest.approx([30.0, 30.0, 16.0, 12.0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"orientation": [1.0]}, "orientation is"),
        ({"skew": 0.5}, "skew is 0.5"),
        ({"focal_length": "long"}, "focal_length"),
        ({"orientation": (2.0 * np.eye(3)).tolist()}, "not a rotation"),
    ],
)
def test_bad_nerfies_cameras_are_refused(tmp_path: Path, changed: dict, message: str):
    nerfies(tmp_path, **changed)
    with pytest.raises(InputError, match=message):
        open_clip(tmp_path)


def test_real_dycheck_cameras_are_read(shared_data: Path):
    folder = shared_data / "dycheck_cameras"
    for file in sorted((folder / "camera").glob("*.json"))[:5]:
        pose, lens = _camera(file, 2)
        stored = json.loads(file.read_text())
        assert np.allclose(-pose[:3, :3].T @ pose[:3, 3], stored["position"], atol=1e-6)
        assert lens.pinhole[0] == pytest.approx(stored["focal_length"] / 2)


def re10k(path: Path) -> None:
    lines = ["https://example.org/film"]
    for k in range(4):
        w2c = np.concatenate([ROTATIONS[k].T, -ROTATIONS[k].T @ CENTRES[k][:, None]], 1)
        numbers = [0.5, 0.75, 0.5, 0.5, 0.0, 0.0, *w2c.ravel()]
        lines.append(" ".join([str(100_000 * (k + 5)), *(str(n) for n in numbers)]))
        picture(path.with_suffix("") / f"{100_000 * (k + 5)}.jpg", k)
    path.write_text("\n".join(lines) + "\n")


def test_realestate10k_keeps_its_clock(tmp_path: Path):
    re10k(tmp_path / "abc.txt")
    clip = open_clip(tmp_path / "abc.txt")
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.time.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert clip.cameras.intrinsics[0].tolist() == pytest.approx([16.0, 18.0, 16.0, 12.0])
    for file in (tmp_path / "abc").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="has no frames"):
        open_clip(tmp_path / "abc.txt")


def megasam(path: Path, **changed) -> None:
    c2w = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = ROTATIONS, CENTRES
    arrays = {
        "images": np.random.default_rng(0).integers(0, 255, (4, *HW, 3), np.uint8),
        "depths": np.ones((4, *HW), np.float32),
        "intrinsic": np.array([[30.0, 0, 16], [0, 31.0, 12], [0, 0, 1]], np.float32),
        "cam_c2w": c2w,
    }
    np.savez(path, **(arrays | changed))


def test_megasam_is_not_taken_for_stereo4d(tmp_path: Path):
    megasam(tmp_path / "a_sgd_cvd_hr.npz")
    clip = open_clip(tmp_path / "a_sgd_cvd_hr.npz")
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.intrinsics[2].tolist() == pytest.approx([30.0, 31.0, 16.0, 12.0])
    assert torch.allclose(clip.cameras.time, torch.arange(4) / 30.0)
    megasam(tmp_path / "b.npz", images=np.zeros((4, *HW), np.float32))
    with pytest.raises(InputError, match="expected bytes"):
        open_clip(tmp_path / "b.npz")


def test_films_of_a_rig_share_moments(tmp_path: Path):
    llff(tmp_path, rows=3)
    for k in range(3):
        counter_video(tmp_path / f"cam{k:02d}.mp4", 5 + (k == 3))
    clip = open_clip(tmp_path)
    check_clip(clip)
    assert clip.camera_ids == ("cam00",) * 5 + ("cam01",) * 5 + ("cam02",) * 5
    assert len(set(clip.cameras.time.tolist())) == 5
    assert clip.index_plan is not None
    assert clip.index_plan.target_index == tuple(range(5))
    rgb = clip.views([2, 7, 11]).rgb
    assert rgb is not None
    frames = [read_counter((picture * 255.0).numpy()) for picture in rgb]
    assert frames == [2, 2, 1]
    assert np.allclose(clip.cameras.c2w[[0, 5, 10], :3, 3].numpy(), CENTRES[:3], atol=1e-5)
    counter_video(tmp_path / "cam02.mp4", 6)
    with pytest.raises(InputError, match="6 frames"):
        open_clip(tmp_path)


def chunk(path: Path, **changed) -> None:
    rows, images = [], []
    for k in range(4):
        w2c = np.concatenate([ROTATIONS[k].T, -ROTATIONS[k].T @ CENTRES[k][:, None]], 1)
        rows.append([0.5, 0.75, 0.5, 0.5, 0.0, 0.0, *w2c.ravel()])
        picture(path.parent / "one.png", k)
        images.append(torch.tensor(list((path.parent / "one.png").read_bytes()), dtype=torch.uint8))
    entry = {
        "key": "abc",
        "url": "https://example.org/film",
        "timestamps": torch.arange(4) * 100_000 + 500_000,
        "cameras": torch.tensor(rows),
        "images": images,
    }
    torch.save([entry | changed], path)


def test_pixelsplat_chunks_hold_clips_by_key(tmp_path: Path):
    chunk(tmp_path / "000000.torch")
    clip = open_clip(tmp_path / "000000.torch")
    assert clip.id == "abc"
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.time.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert clip.cameras.intrinsics[0].tolist() == pytest.approx([16.0, 18.0, 16.0, 12.0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cameras": torch.zeros(4, 12)}, "expected 18 numbers"),
        ({"images": [torch.zeros(9, dtype=torch.uint8)] * 4}, "cannot be decoded"),
        ({"timestamps": [1, 2, 3, 4]}, "tensor of numbers"),
    ],
)
def test_bad_chunks_are_refused(tmp_path: Path, changed: dict, message: str):
    chunk(tmp_path / "a.torch", **changed)
    with pytest.raises(InputError, match=message):
        open_clip(tmp_path / "a.torch")


def test_chunks_that_hold_code_are_refused(tmp_path: Path):
    torch.save([Path("/")], tmp_path / "a.torch")
    with pytest.raises(InputError):
        open_clip(tmp_path / "a.torch")


def test_cut3r_folders_have_a_camera_for_each_picture(tmp_path: Path):
    (tmp_path / "camera").mkdir()
    matrix = np.array([[30.0, 0, 16], [0, 31.0, 12], [0, 0, 1]])
    for k in range(4):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = ROTATIONS[k], CENTRES[k]
        np.savez(tmp_path / "camera" / f"{k:06d}.npz", pose=pose, intrinsics=matrix)
        picture(tmp_path / "color" / f"{k:06d}.png", k)
    clip = open_clip(tmp_path)
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.intrinsics[1].tolist() == pytest.approx([30.0, 31.0, 16.0, 12.0])
    np.savez(tmp_path / "camera" / "000000.npz", pose=np.eye(3), intrinsics=matrix)
    with pytest.raises(InputError, match="expected 4x4"):
        open_clip(tmp_path)


def test_monst3r_quaternions_start_with_w(tmp_path: Path):
    half = np.sqrt(0.5)
    quats = [(1, 0, 0, 0), (half, 0, 0, half)] * 2  # TURN is by 90 degrees about z
    rows = [f"{k} {' '.join(str(x) for x in (*CENTRES[k], *quats[k]))}" for k in range(4)]
    (tmp_path / "pred_traj.txt").write_text("\n".join(rows))
    (tmp_path / "pred_intrinsics.txt").write_text("30 0 16 0 31 12 0 0 1\n" * 4)
    for k in range(4):
        picture(tmp_path / f"frame_{k:04d}.png", k)
    clip = open_clip(tmp_path)
    check_clip(clip)
    check_poses(clip.cameras)
    assert clip.cameras.intrinsics[1].tolist() == pytest.approx([30.0, 31.0, 16.0, 12.0])
    (tmp_path / "pred_intrinsics.txt").write_text("30 0 16\n")
    with pytest.raises(InputError, match="9 numbers"):
        open_clip(tmp_path)
