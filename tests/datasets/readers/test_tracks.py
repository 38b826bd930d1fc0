import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsm.datasets.open import open_clip
from fsm.datasets.readers.stereo4d import Stereo4D
from fsm.datasets.readers.tracks import PUBLISHED, read_tracks
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from tests.datasets.readers.test_cameras_json import of_video, write
from tests.datasets.readers.test_stereo4d import FRAMES
from tests.datasets.readers.test_stereo4d import write as write_annotation

NAN = float("nan")


def dense(tracks: int = 5, frames: int = FRAMES) -> np.ndarray:
    """Straight walks [n t 3]; track i is first seen in frame i, and every seventh moment is
    missing.
    """
    start = np.random.default_rng(0).normal(size=(tracks, 1, 3))
    points = (start + 0.1 * np.arange(frames)[:, None] * [1.0, 0.5, 0.0]).astype(np.float32)
    for i in range(tracks):
        points[i, :i] = NAN
    points[:, 6::7] = NAN
    return points


def ragged(points: np.ndarray) -> dict[str, Any]:
    """The same in the published layout."""
    seen = np.asarray(np.isfinite(points).all(axis=-1))
    return dict(zip(PUBLISHED, (seen.sum(1), np.nonzero(seen)[1], points[seen]), strict=True))


def preview(points: np.ndarray) -> dict[str, Any]:
    """The same in the preview's layout, which repeats the last place where nothing is seen."""
    seen = np.asarray(np.isfinite(points).all(axis=-1))
    return {
        "pts3d": np.where(seen[..., None], points, np.float32(7.0)).astype(np.float16),
        "vis3d": seen,
    }


def test_both_layouts_hold_the_same_tracks(tmp_path: Path) -> None:
    points = dense().astype(np.float16).astype(np.float32)
    times = torch.arange(FRAMES) / 30
    for name, arrays in (("a", ragged(points)), ("b", preview(points))):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        tracks = read_tracks(tmp_path / f"{name}.npz", times, range(FRAMES), FRAMES)
        assert len(tracks) == 5
        assert torch.equal(tracks.times, times)
        assert np.array_equal(tracks.points.numpy(), points, equal_nan=True)


def test_an_annotation_gives_its_tracks_on_its_own_clock(tmp_path: Path) -> None:
    clip = Stereo4D(write_annotation(tmp_path, **ragged(dense()))).clip("abc_88573338")
    tracks = clip.tracks()
    assert tracks is not None
    assert torch.equal(tracks.times, clip.cameras.time)
    assert np.array_equal(tracks.points.numpy(), dense(), equal_nan=True)
    # camera annotations only
    assert Stereo4D(write_annotation(tmp_path)).clip("abc_88573338").tracks() is None


def test_a_folder_gives_the_tracks_beside_its_video_at_the_frames_of_its_views(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path, of_video())  # frames 0, 2 ... 10 of 12
    assert open_clip(folder).tracks() is None
    points = dense()
    np.savez(folder / "tracks.npz", **preview(points))
    clip = open_clip(folder)
    tracks = clip.tracks()
    assert tracks is not None
    assert torch.equal(tracks.times, clip.cameras.time)
    assert np.allclose(tracks.points.numpy(), points[:, ::2], atol=2e-3, equal_nan=True)  # float16


def test_between_moments_points_move_straight_and_outside_there_are_none() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [NAN, NAN, NAN], [3.0, 0, 0]]])
    tracks = Tracks(points, torch.tensor([0.0, 0.5, 1.0, 1.5]))
    inside = tracks.at(torch.tensor([0.25, 0.5, 0.0, 1.5]))[0]
    assert inside.tolist() == [[0.5, 0, 0], [1, 0, 0], [0, 0, 0], [3, 0, 0]]
    outside = tracks.at(torch.tensor([-0.1, 0.75, 1.0, 1.2, 1.6]))
    assert bool(outside.isnan().all())


def test_some_are_spread_over_all_and_are_the_ones_seen_longest() -> None:
    points = torch.zeros(100, 4, 3)
    points[torch.arange(100) % 10 != 3, 1:] = NAN
    points[:, :, 0] += torch.arange(100)[:, None]
    few = Tracks(points, torch.arange(4.0)).some(10)
    assert few.points[:, 0, 0].tolist() == [3, 13, 23, 33, 43, 53, 63, 73, 83, 93]
    assert len(Tracks(points, torch.arange(4.0)).some(7)) == 7
    assert len(Tracks(points, torch.arange(4.0)).some(1000)) == 100


def test_times_must_increase() -> None:
    with pytest.raises(InputError, match="do not increase"):
        Tracks(torch.zeros(2, 2, 3), torch.zeros(2))


def _bad() -> dict[str, tuple[dict[str, Any], str]]:
    r, p = ragged(dense()), preview(dense())
    late = r["track_indices"].copy()
    late[-1] = FRAMES
    return {
        "neither": (
            {"timestamps": np.arange(3)},
            "holds no 3D tracks; expected the arrays track_lengths",
        ),
        "sum": (
            {**r, "track_lengths": r["track_lengths"][:-1]},
            r"track_lengths add up to \d+, but track_indices has",
        ),
        "frame": (
            {**r, "track_indices": late},
            "track_indices names frame 12, but the clip has 12 frames",
        ),
        "flat": (
            {**r, "track_coordinates": r["track_coordinates"][:, :2]},
            r"track_coordinates has shape \(\d+, 2\)",
        ),
        "type": (
            {**r, "track_lengths": r["track_lengths"] * 1.0},
            "track_lengths has shape .* expected whole numbers",
        ),
        "frames": (preview(dense(frames=9)), "pts3d follows 9 frames, but the clip's video has 12"),
        "vis": ({**p, "vis3d": p["vis3d"][:, :3]}, r"vis3d has shape \(5, 3\), expected \(5, 12\)"),
        "pts": ({**p, "pts3d": p["pts3d"][0]}, r"pts3d has shape \(12, 3\)"),
        "pickle": ({**p, "pts3d": np.array([{}], dtype=object)}, "'pts3d' holds pickled objects"),
    }


@pytest.mark.parametrize("case", list(_bad()))
def test_bad_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    arrays, message = _bad()[case]
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match=message) as error:
        read_tracks(tmp_path / "t.npz", torch.arange(FRAMES) / 30, range(FRAMES), FRAMES)
    assert "t.npz" in str(error.value)


@pytest.mark.parametrize(
    "name", ["stereo4d_5H9F5g7wIrY_625558892", "stereo4d_sPD8TT3X5nI_128528529"]
)
def test_real_tracks_seen_by_the_clips_cameras_land_where_the_video_has_them(
    shared_data: Path, name: str
) -> None:
    clip = open_clip(shared_data / name)
    tracks = clip.tracks()
    assert tracks is not None
    with np.load(shared_data / name / "tracks.npz") as stored:
        pixels, seen = (
            torch.from_numpy(stored["tracks2d"]).double(),
            torch.from_numpy(stored["vis2d"]),
        )
    off = _off(clip, tracks, pixels)[seen & ~tracks.points.isnan().any(-1).T]
    assert len(off) > 90_000
    assert float(off.max()) < 0.5


@pytest.mark.slow
def test_real_tracks_through_the_published_layout_are_the_same(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "stereo4d_5H9F5g7wIrY_625558892"
    tracks = open_clip(folder).tracks()
    assert tracks is not None
    frames = json.loads((folder / "cameras.json").read_text())["frames"]
    stamps = np.array([round(f["frame"] * 1e6 / 30) for f in frames])
    poses = np.linalg.inv([f["w2c"] for f in frames])[:, :3]
    np.savez(
        tmp_path / "x.npz", timestamps=stamps, camera2world=poses, **ragged(tracks.points.numpy())
    )
    shutil.copy(folder / "video.mp4", tmp_path / "x.mp4")
    again = Stereo4D(tmp_path).clip("x").tracks()
    assert again is not None
    assert torch.equal(again.points.nan_to_num(), tracks.points.nan_to_num())


def _off(clip, tracks: Tracks, pixels: torch.Tensor) -> torch.Tensor:
    """Distance in pixels [t n] of the projected tracks from ``pixels`` [t n 2]."""
    cameras = clip.cameras
    w2c = torch.linalg.inv(cameras.c2w.double())
    local = (
        torch.einsum("tij,ntj->tni", w2c[:, :3, :3], tracks.points.double()) + w2c[:, None, :3, 3]
    )
    fx, fy, cx, cy = cameras.intrinsics.double()[:, :, None].unbind(1)
    x, y, z = local.unbind(-1)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], -1).sub(pixels).norm(dim=-1)
