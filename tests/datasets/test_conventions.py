import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm.datasets.conventions import (
    focal_from_fov,
    fov_from_focal,
    inverse,
    opencv_from_llff,
    opencv_from_opengl,
    opengl_from_opencv,
    quaternions,
    rotations,
)
from fsm.errors import InputError

UNIT = st.floats(-1, 1)


@st.composite
def poses(draw: st.DrawFn) -> np.ndarray:
    """Rigid transforms from a quaternion and a translation."""
    w, x, y, z = (draw(UNIT) for _ in range(4))
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = (w / norm, x / norm, y / norm, z / norm) if norm > 1e-3 else (1.0, 0.0, 0.0, 0.0)
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = [100 * draw(UNIT) for _ in range(3)]
    return T


@given(poses())
def test_the_axis_flip_is_an_involution_that_keeps_the_camera_in_place(c2w: np.ndarray) -> None:
    gl = opengl_from_opencv(c2w)
    assert np.array_equal(opencv_from_opengl(gl), c2w)
    assert np.linalg.det(gl[:3, :3]) == pytest.approx(1)
    assert np.array_equal(gl[:3, 3], c2w[:3, 3])
    # What lies ahead in one (+z) lies ahead in the other (-z).
    assert np.allclose(c2w @ [0, 0, 1, 1], gl @ [0, 0, -1, 1])
    assert np.allclose(c2w @ [0, 1, 0, 1], gl @ [0, -1, 0, 1])


@given(poses())
def test_inverse_undoes(c2w: np.ndarray) -> None:
    assert np.allclose(inverse(c2w) @ c2w, np.eye(4), atol=1e-10)
    # The world-to-camera matrix sends the camera's centre to the origin.
    assert np.allclose(inverse(c2w) @ c2w[:, 3], [0, 0, 0, 1], atol=1e-10)


def test_a_singular_pose_has_no_inverse() -> None:
    with pytest.raises(InputError, match="without inverse"):
        inverse(np.zeros((4, 4)))


@given(st.floats(0.01, 3.1), st.integers(1, 10000))
def test_focal_and_field_of_view_are_inverse(fov: float, size: int) -> None:
    assert fov_from_focal(focal_from_fov(fov, size), size) == pytest.approx(fov)


def test_known_focals_and_degrees_for_radians() -> None:
    assert focal_from_fov(math.radians(60), 512) == pytest.approx(443.4050067376326)
    assert focal_from_fov(math.radians(90), 200) == pytest.approx(100)
    with pytest.raises(InputError, match="is it in degrees"):
        focal_from_fov(60.0, 512)


def test_llff_columns_on_real_poses(shared_data: Path) -> None:
    stored = np.load(shared_data / "llff_fern" / "poses_bounds.npy")
    c2w, hwf = opencv_from_llff(stored[:, :15].reshape(-1, 3, 5))
    expected = json.loads((shared_data / "llff_fern" / "cameras.json").read_text())["frames"]
    assert np.allclose(inverse(c2w), [f["w2c"] for f in expected], atol=1e-6)
    assert np.allclose(np.linalg.det(c2w[:, :3, :3]), 1)
    assert hwf[0].tolist()[:2] == [3024, 4032]
    assert np.allclose(hwf[:, 2] * 504 / 4032, [f["fl_x"] for f in expected])


def test_quaternions_and_rotations_undo_each_other() -> None:
    generator = np.random.default_rng(0)
    quats = generator.normal(size=(50, 4))
    quats[0] = [0.0, 0.0, 1.0, 0.0]  # a half turn has no real part
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    found = rotations(quats)
    assert np.allclose(found @ found.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(found), 1.0)
    # x turns to y by a quarter about z
    quarter = rotations(np.array([[np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]]))[0]
    assert np.allclose(quarter @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    again = quaternions(found)
    assert np.allclose(np.abs((again * unit).sum(1)), 1.0, atol=1e-12)
    assert (again[:, 0] >= 0).all()
