import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.datasets.inspect import inspect_clip
from fsm.datasets.readers.stereo4d import Stereo4D
from fsm.errors import InputError
from tests.datasets.contract import check_clip
from tests.datasets.media import counter_video, fsm_json, read_counter

FRAMES = 12
START = 88_573_338


def annotation(frames: int = FRAMES) -> dict[str, np.ndarray]:
    """An annotation as published, with an irregular clock."""
    c2w = np.linalg.inv([f["w2c"] for f in fsm_json(frames)["frames"]])
    stamps = START + np.arange(frames) * 33_367 + (np.arange(frames) % 3 == 1) * 5_000
    return {
        "name": np.array("abc_88573338"),
        "video_id": np.array("abc"),
        "timestamps": stamps.astype(np.int64),
        "camera2world": c2w[:, :3],
        "rectified2rig": np.tile(np.eye(3), (2, 1, 1)),
        "fov_bounds": np.array([-90.0, 90.0, -90.0, 90.0]),
        "track_lengths": np.zeros(0, np.int64),
    }


def write(folder: Path, **changed: np.ndarray | None) -> Path:
    arrays = {k: v for k, v in {**annotation(), **changed}.items() if v is not None}
    np.savez(folder / "abc_88573338.npz", **arrays)
    counter_video(folder / "abc_88573338-left_rectified.mp4", FRAMES, hw=(64, 128))
    return folder / "abc_88573338.npz"


@pytest.mark.parametrize("by_folder", [False, True])
def test_annotation_and_video_make_a_clip(tmp_path: Path, by_folder: bool) -> None:
    path = write(tmp_path)
    clips = Stereo4D(tmp_path if by_folder else path)
    assert clips.ids == ("abc_88573338",)
    clip = clips.clip("abc_88573338")
    check_clip(clip)
    expected = annotation()
    assert np.allclose(clip.cameras.c2w[:, :3], expected["camera2world"], atol=1e-6)
    seconds = (expected["timestamps"] - START) / 1e6
    assert np.allclose(clip.cameras.time, seconds, atol=1e-7)
    assert len(set(np.diff(expected["timestamps"]))) > 1
    # 60 degrees across 128 pixels, centred.
    focal = 64 / np.tan(np.radians(30))
    assert torch.allclose(
        clip.cameras.intrinsics[3], torch.tensor([float(focal), float(focal), 64.0, 32.0])
    )
    views = clip.views([5])
    assert views.rgb is not None
    assert read_counter((views.rgb[0] * 255).numpy()) == 5


def test_the_field_of_view_of_the_video_can_be_told(tmp_path: Path) -> None:
    clip = Stereo4D(write(tmp_path), hfov_deg=90.0).clip("abc_88573338")
    assert clip.cameras.intrinsics[0, 0] == pytest.approx(64.0)
    with pytest.raises(InputError, match="hfov_deg"):
        Stereo4D(tmp_path, hfov_deg=0.0)


@pytest.mark.slow
def test_real_cameras_through_the_published_format_agree_with_the_pictures(
    tmp_path: Path, shared_data: Path
) -> None:
    folder = shared_data / "stereo4d_sPD8TT3X5nI_128528529"
    frames = json.loads((folder / "cameras.json").read_text())["frames"]
    c2w = np.linalg.inv([f["w2c"] for f in frames])
    stamps = np.array([round(f["frame"] * 1e6 / 30) for f in frames])
    np.savez(tmp_path / "x.npz", timestamps=stamps, camera2world=c2w[:, :3])
    shutil.copy(folder / "video.mp4", tmp_path / "x.mp4")
    clip = Stereo4D(tmp_path).clip("x")
    check_clip(clip)
    report = inspect_clip(clip)
    assert report.verdict.startswith("consistent")
    assert report.hfov_deg == pytest.approx(60.0, abs=0.01)


BAD = {
    "fewer poses": (
        {"camera2world": annotation(11)["camera2world"]},
        "11 poses and 12 timestamps.* 12 frames",
    ),
    "fewer times": (
        {"timestamps": annotation(11)["timestamps"]},
        "12 poses and 11 timestamps.* 12 frames",
    ),
    "no times": ({"timestamps": None}, "lacks the array 'timestamps'"),
    "repeated time": (
        {"timestamps": np.maximum(np.arange(FRAMES), 1) * 1000},
        "frame 1, time 0 s repeats that of frame 0",
    ),
    "unsorted times": (
        {"timestamps": -1000 * np.arange(FRAMES)},
        "frame 1, time 0.01 s lies before that of frame 0",
    ),
    "pickle": (
        {"camera2world": np.array([{"a": 1}], dtype=object)},
        "'camera2world' holds pickled objects",
    ),
    "flat poses": ({"camera2world": np.zeros((FRAMES, 12))}, r"camera2world has shape \(12, 12\)"),
    "nan": (
        {"camera2world": np.full((FRAMES, 3, 4), np.nan)},
        "frame 0, camera2world contains NaN",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotations_are_refused_by_name(tmp_path: Path, case: str) -> None:
    changed, message = BAD[case]
    path = write(tmp_path, **changed)
    with pytest.raises(InputError, match=message) as error:
        Stereo4D(path).clip("abc_88573338")
    assert "abc_88573338.npz" in str(error.value)


def test_a_header_that_declares_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    import zipfile

    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 3, 4), }"
    header += b" " * (118 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in ("timestamps", "camera2world"):
            archive.writestr(
                f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            )
    with pytest.raises(InputError, match="'timestamps' declares 96000000000 bytes"):
        Stereo4D(tmp_path / "a.npz").clip("a")


def test_missing_files_and_rubbish_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError, match=r"a\.npz is not a readable .npz"):
        Stereo4D(tmp_path / "a.npz").clip("a")
    with pytest.raises(InputError, match=r"b\.npz does not exist"):
        Stereo4D(tmp_path / "b.npz").clip("b")
    path = write(tmp_path)
    (tmp_path / "abc_88573338-left_rectified.mp4").unlink()
    with pytest.raises(
        InputError, match=r"no video beside it; expected abc_88573338-left_rectified\.mp4 or"
    ):
        Stereo4D(path).clip("abc_88573338")
