"""What pose estimators leave behind: folders of CUT3R and of MonST3R.

* CUT3R: ``color/000000.png`` and ``camera/000000.npz`` with ``pose`` (camera to world) and
  ``intrinsics`` (3x3).
* MonST3R: ``frame_0000.png``, ``pred_traj.txt`` with rows ``t x y z qw qx qy qz`` (camera to world;
  note that w comes first, unlike in TUM's format) and ``pred_intrinsics.txt`` with nine numbers a
  row.

Axes are OpenCV's. Neither carries times or a rate, so frames count at ``FPS``.
"""

from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.conventions import rotations
from fsm.datasets.readers.images import ImageClip, image_size
from fsm.datasets.readers.npz import read_arrays
from fsm.datasets.readers.single import pictures_in
from fsm.errors import InputError

FPS = 30.0
TRAJECTORY, INTRINSICS = "pred_traj.txt", "pred_intrinsics.txt"


def is_cut3r(path: Path) -> bool:
    """Whether a folder holds ``color`` and a camera for each picture."""
    return (path / "color").is_dir() and any((path / "camera").glob("*.npz"))


def is_monst3r(path: Path) -> bool:
    """Whether a folder holds a trajectory and intrinsics."""
    return (path / TRAJECTORY).is_file() and (path / INTRINSICS).is_file()


def read_cut3r(id: str, path: Path) -> Clip:
    """The clip of a folder of CUT3R."""
    images = pictures_in(path / "color")
    files = [path / "camera" / f"{image.stem}.npz" for image in images]
    poses, matrices = [], []
    for file in files:
        pose, matrix = read_arrays(file, ("pose", "intrinsics"))
        if pose.shape != (4, 4) or matrix.shape != (3, 3):
            raise InputError(
                f"{file}: pose has shape {pose.shape} and intrinsics {matrix.shape}, expected 4x4 "
                "and 3x3."
            )
        poses.append(pose)
        matrices.append(matrix)
    return _clip(id, path / "camera", images, np.array(poses), np.array(matrices))


def read_monst3r(id: str, path: Path) -> Clip:
    """The clip of a folder of MonST3R."""
    images = [image for image in pictures_in(path) if image.stem.startswith("frame_")]
    rows, matrices = _table(path / TRAJECTORY, 8), _table(path / INTRINSICS, 9)
    if not len(images) == len(rows) == len(matrices):
        raise InputError(
            f"{path} has {len(images)} pictures frame_*.png, {len(rows)} poses and "
            f"{len(matrices)} intrinsics; every picture needs one of each."
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = rotations(rows[:, 4:])
    poses[:, :3, 3] = rows[:, 1:4]
    return _clip(id, path / TRAJECTORY, images, poses, matrices.reshape(-1, 3, 3))


def _clip(
    id: str, source: Path, images: list[Path], poses: np.ndarray, matrices: np.ndarray
) -> Clip:
    if not images:
        raise InputError(f"{source} has no pictures beside it; a clip needs at least one.")
    k = matrices.astype(np.float64)
    intrinsics = np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], axis=1)
    times, hw = np.arange(len(images)) / FPS, image_size(images[0])
    cameras = checked_cameras(poses.astype(np.float64), intrinsics, times, hw, str(source))
    return ImageClip(id, str(source), cameras, images, fps=FPS)


def _table(path: Path, columns: int) -> np.ndarray:
    """Rows of numbers of a text file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [[float(n) for n in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} should hold {columns} numbers a line.") from error
    if not rows or any(len(row) != columns for row in rows):
        raise InputError(f"{path} should hold {columns} numbers a line.")
    return np.array(rows)
