import math
from typing import Any

import numpy as np
import pytest
import torch

from fsm.datasets.base import IndexPlan, MemoryClip, checked_cameras, checked_poses
from fsm.errors import InputError
from tests.datasets.contract import check_clip

HW = (48, 64)


def good() -> dict[str, Any]:
    """Five cameras on a line."""
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, 0, 3] = np.arange(5) * 0.1
    return {
        "c2w": c2w,
        "intrinsics": np.tile([50.0, 51.0, 32.0, 24.0], (5, 1)),
        "time": np.arange(5) / 30 + 7.0,
        "hw": HW,
        "source": "clip.json",
    }


def memory_clip() -> MemoryClip:
    pixels = torch.randint(256, (5, 3, *HW), dtype=torch.uint8)
    return MemoryClip(
        "a",
        "a.json",
        checked_cameras(**good()),
        pixels,
        torch.ones(5, 1, *HW, dtype=torch.bool),
        30.0,
    )


def test_good_cameras_pass_and_time_starts_at_the_first_frame() -> None:
    views = checked_cameras(**good())
    assert torch.allclose(views.time, torch.arange(5) / 30)
    assert views.c2w.dtype == torch.float32
    assert checked_cameras(**good(), time_start=0.0).time[0] == 7


def test_large_clocks_keep_their_precision() -> None:
    """Cast after subtraction: a clock of two days in float32 would be rounded to 1/64 s."""
    views = checked_cameras(**{**good(), "time": 172_800 + np.arange(5) / 240})
    assert np.allclose(views.time, np.arange(5) / 240, atol=1e-6)


def test_a_still_camera_is_a_clip() -> None:
    checked_cameras(**{**good(), "c2w": np.tile(np.eye(4), (5, 1, 1))})


def changed(name: str, index: Any, value: Any) -> dict[str, Any]:
    values = good()
    values[name][index] = value
    return values


ROTATION = np.diag([1.01, 1.0, 1.0])
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nan pose": (changed("c2w", (2, 0, 3), math.nan), "frame 2, c2w contains NaN or infinity"),
    "infinite pose": (changed("c2w", (3, 1, 1), math.inf), "frame 3, c2w contains NaN or infinity"),
    "stretched": (
        changed("c2w", (2, slice(3), slice(3)), ROTATION),
        "frame 2, c2w is not a rotation .off by 0.01.*--fix-poses",
    ),
    "mirrored": (changed("c2w", (1, 0, 0), -1.0), r"frame 1, c2w has a mirrored .*determinant -1"),
    "flat": (
        changed("c2w", (1, 0, 0), 0.0),
        r"frame 1, c2w has a mirrored or flat .*determinant 0",
    ),
    "transposed": (
        changed("c2w", (1, 3, 0), 0.5),
        r"frame 1, c2w has last row \[0.5, 0.0, 0.0, 1.0\].*transposed",
    ),
    "nan focal": (changed("intrinsics", (2, 1), math.nan), "frame 2, fy is nan"),
    "zero focal": (
        changed("intrinsics", (2, 0), 0.0),
        "frame 2, fx is 0; a focal length is positive",
    ),
    "negative focal": (
        changed("intrinsics", (4, 1), -50.0),
        "frame 4, fy is -50; a focal length is positive",
    ),
    "normalised": (
        changed("intrinsics", (0,), [0.8, 1.0, 0.5, 0.5]),
        r"frame 0, fx is 0.8; it looks normalised.*64 x 48",
    ),
    "centre outside": (
        changed("intrinsics", (3, 2), 500.0),
        "frame 3, cx is 500; that is far outside the 64 x 48 image",
    ),
    "nan time": (changed("time", 2, math.nan), "frame 2, time is NaN"),
    "more poses": (
        {**good(), "c2w": np.tile(np.eye(4), (6, 1, 1))},
        "6 poses, 5 intrinsics and 5 times",
    ),
    "none": (
        {**good(), "c2w": np.zeros((0, 4, 4)), "intrinsics": np.zeros((0, 4)), "time": np.zeros(0)},
        "has no frames",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_cameras_are_refused_in_one_sentence(case: str) -> None:
    values, message = BAD[case]
    with pytest.raises(InputError, match=message) as error:
        checked_cameras(**values)
    assert str(error.value).startswith("clip.json")
    assert "\n" not in str(error.value)


def rig_clip(camera_ids: list[str] | None, times: list[float]) -> MemoryClip:
    cameras = checked_cameras(**{**good(), "time": np.array(times)})
    pixels = torch.randint(256, (5, 3, *HW), dtype=torch.uint8)
    return MemoryClip("rig", "rig.json", cameras, pixels, camera_ids=camera_ids)


def test_frames_share_moments_in_any_order() -> None:
    times = [9.0, 9.0, 8.0, 8.0, 7.0]
    clip = rig_clip(None, times)
    check_clip(clip)
    assert clip.cameras.time.tolist() == [2, 2, 1, 1, 0]
    assert clip.camera_ids == ("0", "1", "0", "1", "0")
    assert rig_clip(["a", "b", "b", "c", "a"], times).camera_ids == ("a", "b", "b", "c", "a")
    assert clip.cached((24, 24)).camera_ids == clip.camera_ids


def test_one_camera_takes_one_frame_of_a_moment() -> None:
    with pytest.raises(
        InputError, match="frame 3 has camera 'b' and time 1 s, as frame 2 has; drop one of them"
    ):
        rig_clip(["a", "b", "b", "b", "a"], [9.0, 9.0, 8.0, 8.0, 7.0])
    with pytest.raises(InputError, match="names 2 cameras for 5 frames; name one for each"):
        rig_clip(["a", "b"], [0.0, 1.0, 2.0, 3.0, 4.0])


def test_a_clip_as_a_static_capture_keeps_its_frames() -> None:
    clip = memory_clip()
    static = clip.as_static()
    check_clip(static)
    assert static.static
    assert not clip.static
    assert static.cameras.time.tolist() == [0.0] * 5
    views = static.views([3, 1])
    assert views.time.tolist() == [0.0, 0.0]
    assert torch.equal(views.rgb, clip.views([3, 1]).rgb)  # pyright: ignore[reportArgumentType]
    assert torch.equal(views.frame_ids, clip.views([3, 1]).frame_ids)  # pyright: ignore
    assert static.cached().views([2]).frame_ids.equal(clip.views([2]).frame_ids)  # pyright: ignore
    assert static.fps is None


def test_fix_poses_finds_the_nearest_rotation_and_leaves_mirrors_alone() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    poses = np.tile(np.eye(4), (1, 1, 1))
    symmetric = rng.normal(size=(3, 3)) * 0.05
    # polar form: the rotation is the answer
    poses[0, :3, :3] = rotation @ (1.3 * np.eye(3) + symmetric + symmetric.T)
    poses[0, :3, 3] = [1, 2, 3]
    kept = poses.copy()
    fixed = checked_poses(poses, "a", "c2w", fix_poses=True)
    assert np.allclose(fixed[0, :3, :3], rotation)
    assert fixed[0, :3, 3].tolist() == [1, 2, 3]
    assert np.array_equal(poses, kept)
    with pytest.raises(InputError, match="mirrored"):
        checked_poses(np.diag([1.0, 1.0, -1.0, 1.0])[None], "a", "c2w", fix_poses=True)


def test_index_plans_are_disjoint_and_inside_the_clip() -> None:
    with pytest.raises(InputError, match=r"frames \[2\] both as input and as target"):
        IndexPlan((0, 2), (1, 2))
    plan = IndexPlan((0, 2), (1, 5))
    with pytest.raises(
        InputError,
        match=r"a\.json: index_plan.target_index names frame 5, but the clip has 5 frames",
    ):
        MemoryClip(
            "a",
            "a.json",
            checked_cameras(**good()),
            torch.zeros(5, 3, *HW, dtype=torch.uint8),
            index_plan=plan,
        )


def test_a_clip_in_memory_keeps_the_contract_and_its_masks() -> None:
    clip = memory_clip()
    check_clip(clip)
    views = clip.views([1])
    assert views.mask is not None
    assert views.rgb is not None
    assert torch.equal((views.rgb[0] * 255).round().byte(), clip.pixels[1])
    small = clip.cached((24, 24))
    assert small.mask is not None
    assert small.pixels.shape == (5, 3, 24, 24)
    assert clip.cached().pixels.equal(clip.pixels)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([5], "frame 5 was asked"), ([-1], "frame -1 was asked"), ([], "no frame")],
)
def test_frames_outside_a_clip_are_refused(indices: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"a.json: {message}"):
        memory_clip().views(indices)
