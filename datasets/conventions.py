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
