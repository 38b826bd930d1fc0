"""LLFF ``poses_bounds.npy`` beside a folder of pictures: forward-facing photos, a static capture.

A row of 17 numbers an image: 3x5 [rotation | centre | height, width, focal length], then near and
far. Columns of the rotation are the camera's down, right and backward axes.
"""

from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.conventions import opencv_from_llff
from fsm.datasets.readers.images import ImageClip
from fsm.datasets.readers.single import fitted, pictures_in
from fsm.errors import InputError

FILE = "poses_bounds.npy"
MOST_BYTES = 64 << 20
FOLDERS = ("images", "images_2", "images_4", "images_8")


def read_llff(id: str, path: Path) -> Clip:
    """The clip of a folder with ``poses_bounds.npy``; pictures of ``images`` or the largest of
    ``images_2``, ``images_4`` and ``images_8``, by name.
    """
    file = path / FILE
    rows = read_rows(file)
    folder = next((path / f for f in FOLDERS if (path / f).is_dir()), None)
    images = [] if folder is None else pictures_in(folder)
    if len(images) != len(rows):
        raise InputError(
            f"{file} has {len(rows)} rows, but there are {len(images)} pictures in "
            f"{folder or path / FOLDERS[0]}; every picture needs one row."
        )
    c2w, lens = opencv_from_llff(rows[:, :15].reshape(-1, 3, 5))
    (h, w), focal = lens[0, :2].tolist(), lens[:, 2]
    stated = np.stack([focal, focal, np.full_like(focal, w / 2), np.full_like(focal, h / 2)], 1)
    intrinsics, hw = fitted(stated, (h, w), images)
    views = checked_cameras(c2w, intrinsics, np.zeros(len(rows)), hw, str(file))
    return ImageClip(id, str(file), views, images)


def read_rows(file: Path) -> np.ndarray:
    """The numbers [n 17] of a file, whose size is checked first."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{file} is larger than {MOST_BYTES >> 20} MB; it is no table of poses."
            )
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is not a readable .npy file; copy it again.") from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind != "f" or len(rows) == 0:
        raise InputError(f"{file} has shape {rows.shape}, expected 17 numbers an image.")
    return rows.astype(np.float64)
