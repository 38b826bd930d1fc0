"""MegaSaM results ``NAME_sgd_cvd_hr.npz`` and ``NAME_droid.npz``: frames, one camera matrix for all
of them, and camera-to-world poses (OpenCV axes).

They carry neither times nor a rate, so frames count at ``FPS``.
"""

from pathlib import Path

import numpy as np
import torch

from fsm.datasets.base import Clip, MemoryClip, checked_cameras
from fsm.datasets.readers.npz import array_names, read_arrays
from fsm.errors import InputError

KEYS = ("images", "intrinsic", "cam_c2w")
FPS = 30.0
MOST_BYTES = 2 << 30  # of all frames


def is_megasam(path: Path) -> bool:
    """Whether an ``.npz`` file has these arrays."""
    return set(KEYS) <= array_names(path)


def read_megasam(id: str, path: Path) -> Clip:
    """The clip of a file, its frames in memory as bytes."""
    source = str(path)
    images, matrix, c2w = read_arrays(path, KEYS, MOST_BYTES)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(
            f"{source}: images has shape {images.shape} of {images.dtype}, expected bytes "
            "[frames height width 3]."
        )
    if matrix.shape != (3, 3) or c2w.shape != (len(images), 4, 4):
        raise InputError(
            f"{source}: intrinsic has shape {matrix.shape} and cam_c2w {c2w.shape}, expected 3x3 "
            f"and {len(images)}x4x4."
        )
    k = matrix.astype(np.float64)
    intrinsics = np.tile([k[0, 0], k[1, 1], k[0, 2], k[1, 2]], (len(images), 1))
    times = np.arange(len(images)) / FPS
    h, w = images.shape[1:3]
    cameras = checked_cameras(c2w.astype(np.float64), intrinsics, times, (h, w), source)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return MemoryClip(id, source, cameras, pixels, fps=FPS)
