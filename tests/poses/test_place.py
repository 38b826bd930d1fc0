"""Gravity, origin and unit of length of cameras that were made level and then turned."""

import numpy as np
import pytest

from fsm.poses.place import down, similarity


def level(angles: np.ndarray, tilt: float = 0.2) -> np.ndarray:
    """Cameras on a circle that look inwards and a little down, their x axes level; y is down."""
    poses = np.tile(np.eye(4), (len(angles), 1, 1))
    for pose, a in zip(poses, angles, strict=True):
        x = np.array([np.cos(a), 0.0, -np.sin(a)])
        z = np.array([np.sin(a) * np.cos(tilt), np.sin(tilt), np.cos(a) * np.cos(tilt)])
        pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
        pose[:3, 3] = -3.0 * z
    return poses


def turned(poses: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.linalg.det(q))
    moved = poses.copy()
    moved[:, :3] = q @ poses[:, :3]
    return moved, q


@pytest.mark.parametrize("span", [2.0, 0.5])
def test_gravity_of_level_cameras_is_found(span: float):
    poses, q = turned(level(np.linspace(-span, span, 9)))
    assert np.allclose(down(poses), q @ [0.0, 1.0, 0.0], atol=2e-2)


def test_cameras_that_all_look_the_same_way_take_their_own_down():
    poses, q = turned(level(np.zeros(5), tilt=0.0))
    assert np.allclose(down(poses), q @ [0.0, 1.0, 0.0], atol=1e-6)


def test_similarity_makes_y_down_and_sets_origin_and_length():
    poses, _ = turned(level(np.linspace(-2.0, 2.0, 9), tilt=0.0))
    for scale in (None, 2.5):
        moved = similarity(poses, scale)
        linear, offset = moved[:, :3], moved[:, 3]
        size = np.cbrt(np.linalg.det(linear))
        assert np.allclose(linear @ linear.T, size**2 * np.eye(3), atol=1e-9)
        centres = poses[:, :3, 3] @ linear.T + offset
        assert np.allclose(centres.mean(0), 0.0, atol=1e-9)
        assert np.allclose(linear / size @ down(poses), [0.0, 1.0, 0.0], atol=1e-6)
        root = np.sqrt((centres**2).sum(1).mean())
        assert root == pytest.approx(1.0) if scale is None else size == pytest.approx(2.5)
