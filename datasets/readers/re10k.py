"""RealEstate10K: a text file of cameras beside a folder of frames.

The first line is the address of the film. Every other line has a time in microseconds, the focal
lengths and principal point as shares of width and height, two zeros, and a 3x4 world-to-camera pose
(OpenCV axes). Frames lie in a folder named as the file, called by their times.
"""

from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.conventions import inverse
from fsm.datasets.readers.images import ImageClip, image_size
from fsm.datasets.readers.single import pictures_in
from fsm.errors import InputError

MICROSECOND = 1e-6
COLUMNS = 19


def is_re10k(path: Path) -> bool:
    """Whether a text file starts as these do: an address, then 19 numbers a line."""
    try:
        with path.open(encoding="utf-8") as file:
            first, second = file.readline(4096), file.readline(4096)
    except (OSError, UnicodeDecodeError):
        return False
    return first.startswith("http") and len(second.split()) == COLUMNS


def read_re10k(id: str, path: Path) -> Clip:
    """The clip of a file, of the frames that lie beside it; nothing moves in these films, but they
    keep their clock.
    """
    source = str(path)
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    try:
        rows = np.array([[float(x) for x in line.split()] for line in lines if line.strip()])
    except ValueError as error:
        raise InputError(f"{source}: a line is not {COLUMNS} numbers; copy it again.") from error
    folder = path.with_suffix("")
    pictures = {f.stem: f for f in pictures_in(folder)} if folder.is_dir() else {}
    kept = [i for i in range(len(rows)) if str(int(rows[i, 0])) in pictures]
    if not kept:
        raise InputError(
            f"{source} has no frames: none of its times names a picture in {folder}; extract the "
            "film's frames there as TIME.jpg, in microseconds."
        )
    rows = rows[kept]
    images = [pictures[str(int(t))] for t in rows[:, 0]]
    h, w = hw = image_size(images[0])
    w2c = np.tile(np.eye(4), (len(rows), 1, 1))
    w2c[:, :3] = rows[:, 7:].reshape(-1, 3, 4)
    times = (rows[:, 0] - rows[0, 0]) * MICROSECOND
    views = checked_cameras(inverse(w2c), rows[:, 1:5] * [w, h, w, h], times, hw, source)
    fps = 1.0 / float(np.median(np.diff(times))) if len(times) > 1 else None
    return ImageClip(id, source, views, images, fps=fps, camera_ids=["0"] * len(images))
