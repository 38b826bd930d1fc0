"""Camera conventions of other programs, to and from ours: OpenCV camera-to-world, pixels from the
corner.
"""

import math

import numpy as np
from jaxtyping import Float64

from fsm.errors import InputError


def opencv_from_opengl(c2w: Float64[np.ndarray, "*f 4 4"]) -> Float64[np.ndarray, "*f 4 4"]:
    """Camera-to-world with axes right, down, forward from right, up, backward (nerfstudio, Blender,
    instant-ngp).
    """
    return c2w * np.array([1.0, -1.0, -1.0, 1.0])


def opengl_from_opencv(c2w: Float64[np.ndarray, "*f 4 4"]) -> Float64[np.ndarray, "*f 4 4"]:
    """Inverse of ``opencv_from_opengl``; the flip is its own inverse."""
    return opencv_from_opengl(c2w)


def opencv_from_llff(
    poses: Float64[np.ndarray, "f 3 5"],
) -> tuple[Float64[np.ndarray, "f 4 4"], Float64[np.ndarray, "f 3"]]:
    """Camera-to-world and (height, width, focal) of ``poses_bounds.npy``, whose columns are down,
    right, backward.
    """
    c2w = np.tile(np.eye(4), (len(poses), 1, 1))
    down, right, backward, position = (poses[:, :, i] for i in range(4))
    c2w[:, :3] = np.stack([right, down, -backward, position], axis=-1)
    return c2w, poses[:, :, 4].copy()


def rotations(quats: Float64[np.ndarray, "f 4"]) -> Float64[np.ndarray, "f 3 3"]:
    """Rotation matrices of quaternions wxyz of any length."""
    w, x, y, z = (quats / np.linalg.norm(quats, axis=1, keepdims=True).clip(1e-12)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def quaternions(matrices: Float64[np.ndarray, "f 3 3"]) -> Float64[np.ndarray, "f 4"]:
    """Unit quaternions wxyz, w >= 0, of rotation matrices: the eigenvector of the largest
    eigenvalue of a symmetric matrix (Bar-Itzhack 2000).
    """
    r = matrices
    k = np.zeros((len(r), 4, 4))
    trace = np.trace(r, axis1=1, axis2=2)
    k[:, 0, 0] = trace
    k[:, 1:, 1:] = r + r.transpose(0, 2, 1) - trace[:, None, None] * np.eye(3)
    spin = r[:, [2, 0, 1], [1, 2, 0]] - r[:, [1, 2, 0], [2, 0, 1]]
    k[:, 0, 1:], k[:, 1:, 0] = spin, spin
    found = np.linalg.eigh(k)[1][..., -1]
    return found * np.where(found[:, :1] < 0, -1.0, 1.0)


def inverse(
    T: Float64[np.ndarray, "*f 4 4"], source: str = "pose"
) -> Float64[np.ndarray, "*f 4 4"]:
    """World-to-camera from camera-to-world and back, in float64; a singular matrix is an
    ``InputError``.
    """
    try:
        return np.linalg.inv(T)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{source} holds a matrix without inverse; it is not a camera pose."
        ) from error


def focal_from_fov(fov: float, size: int | float) -> float:
    """Focal length in pixels of a field of view in radians across ``size`` pixels."""
    if not 0.0 < fov < math.pi:
        raise InputError(
            f"a field of view of {fov:.6g} radians is not between 0 and pi; is it in degrees?"
        )
    return 0.5 * size / math.tan(0.5 * fov)


def fov_from_focal(focal: float, size: int | float) -> float:
    """Field of view in radians: the inverse of ``focal_from_fov``."""
    return 2.0 * math.atan(0.5 * size / focal)
