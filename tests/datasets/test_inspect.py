from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.datasets.base import Clip, MemoryClip
from fsm.datasets.conventions import inverse, opengl_from_opencv
from fsm.datasets.inspect import inspect_clip
from fsm.datasets.open import open_clip
from fsm.datasets.world.clip import WorldClip


@pytest.fixture(scope="module")
def kept() -> MemoryClip:
    return WorldClip(seed=8, frames=24).cached()


def with_poses(clip: Clip, change) -> MemoryClip:
    """The same pictures under other poses."""
    c2w = torch.from_numpy(np.ascontiguousarray(change(clip.cameras.c2w.double().numpy()))).float()
    pixels = clip.pixels if isinstance(clip, MemoryClip) else clip.cached().pixels
    return MemoryClip(clip.id, clip.source, replace(clip.cameras, c2w=c2w), pixels, None, clip.fps)


def test_true_cameras_are_consistent_and_measured(kept: MemoryClip) -> None:
    report = inspect_clip(kept)
    assert report.verdict.startswith("consistent")
    assert report.sampson_px is not None
    assert report.sampson_px < 0.2
    assert not report.near_static
    centre = kept.cameras.c2w[:, :3, 3]
    assert report.baseline == pytest.approx(float((centre - centre[0]).norm(dim=-1).max()))
    assert report.extent >= report.baseline
    assert report.largest_step == pytest.approx(float(centre.diff(dim=0).norm(dim=-1).max()))
    assert (report.frames, report.fps, report.hw) == (24, 12.0, (128, 128))
    assert report.duration == pytest.approx(23 / 12)
    fx = float(kept.cameras.intrinsics[0, 0])
    assert report.hfov_deg == pytest.approx(2 * np.degrees(np.arctan(64 / fx)))


def test_wrong_conventions_are_named(kept: MemoryClip) -> None:
    assert inspect_clip(with_poses(kept, opengl_from_opencv)).verdict.startswith(
        "looks like OpenGL axes"
    )
    assert inspect_clip(with_poses(kept, inverse)).verdict.startswith("looks like world-to-camera")


def test_shuffled_poses_fit_no_reading(kept: MemoryClip) -> None:
    assert not inspect_clip(with_poses(kept, lambda c2w: c2w[::-1])).verdict.startswith(
        "consistent"
    )


def test_still_cameras_and_blank_pictures_cannot_be_judged(kept: MemoryClip) -> None:
    still = with_poses(kept, lambda c2w: np.repeat(c2w[:1], len(c2w), 0))
    report = inspect_clip(still)
    assert report.near_static
    assert report.extent == 0
    assert report.verdict == "cannot tell: the camera hardly moves"
    blank = MemoryClip("blank", "blank", kept.cameras, torch.zeros_like(kept.pixels))
    assert inspect_clip(blank).verdict == "cannot tell: only 0 matches between the pictures"
    single = MemoryClip("one", "one", kept.cameras[0], kept.pixels[:1])
    assert inspect_clip(single).verdict == "cannot tell: the camera hardly moves"


@pytest.mark.parametrize(
    ("name", "clip", "verdict"),
    [
        ("stereo4d_256/val.json", "8OQSqypY6o8_602869536", "consistent"),
        ("stereo4d_256/val.json", "Zpk1y3Il6Rk_21755088", "cannot tell: the camera hardly moves"),
        pytest.param("fox_270x480", None, "consistent", marks=pytest.mark.slow),
        ("dnerf_mutant_256", "train", "consistent"),
    ],
)
def test_real_clips(shared_data: Path, name: str, clip: str | None, verdict: str) -> None:
    assert inspect_clip(open_clip(shared_data / name, clip)).verdict.startswith(verdict)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["8OQSqypY6o8_602869536", "rcVBZfskDPw_607941275", "_T_OfpB194U_408174842"]
)
def test_real_clips_under_wrong_conventions(shared_data: Path, name: str) -> None:
    clip = open_clip(shared_data / "stereo4d_256/val.json", name)
    assert inspect_clip(with_poses(clip, opengl_from_opencv)).verdict.startswith(
        "looks like OpenGL axes"
    )
    assert inspect_clip(with_poses(clip, inverse)).verdict.startswith("looks like world-to-camera")
