"""Stereo4D as published: an annotation ``.npz`` per clip and the rectified left-eye video made from
it.
"""

import math
from pathlib import Path

import numpy as np

from fsm.datasets.base import checked_cameras
from fsm.datasets.conventions import focal_from_fov
from fsm.datasets.readers.fields import unique_names
from fsm.datasets.readers.npz import array_names, read_arrays
from fsm.datasets.readers.tracks import PUBLISHED
from fsm.datasets.readers.video import VideoClip, VideoFrames
from fsm.errors import InputError

MICROSECOND = 1e-6
VIDEO_NAMES = ("{}-left_rectified.mp4", "{}.mp4")
# The field of view the published rectification script uses unless told otherwise; annotations do
# not record it.
DEFAULT_HFOV_DEG = 60.0


class Stereo4D:
    """Clips of a folder of annotations ``<id>.npz``, or of one such file.

    The video ``<id>-left_rectified.mp4`` or ``<id>.mp4`` lies beside each. ``hfov_deg`` is the
    horizontal field of view the videos were rectified to. Poses are pseudo-metric (metres, assuming
    eyes 0.063 m apart); times are the annotation's own irregular timestamps, not the video's
    nominal rate. ``Clip.tracks`` gives the 3D tracks.
    """

    def __init__(
        self, path: Path | str, hfov_deg: float = DEFAULT_HFOV_DEG, fix_poses: bool = False
    ) -> None:
        path = Path(path)
        if not 1.0 <= hfov_deg <= 170.0:
            raise InputError(f"hfov_deg is {hfov_deg}, expected degrees between 1 and 170.")
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path} holds no .npz annotations; check the path.")
        self.path, self.hfov_deg, self.fix_poses = path, hfov_deg, fix_poses
        self._files = dict(zip(unique_names(files, path, str(path)), files, strict=True))

    @property
    def ids(self) -> tuple[str, ...]:
        """File names without suffix."""
        return tuple(self._files)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._files)

    def clip(self, id: str) -> VideoClip:
        """Open one clip; the numbers of poses, timestamps and video frames must agree."""
        if id not in self._files:
            raise InputError(
                f"{self.path} has no clip {id!r}; it has "
                f"{', '.join(self.ids[:5])}{', ...' * (len(self) > 5)}."
            )
        path = self._files[id]
        source = str(path)
        stamps, stored = read_arrays(path, ("timestamps", "camera2world"))
        if stamps.ndim != 1 or stamps.dtype.kind not in "iuf":
            raise InputError(
                f"{source}: timestamps has shape {stamps.shape}, expected one number of "
                "microseconds a frame."
            )
        if stored.ndim != 3 or stored.shape[1:] not in ((3, 4), (4, 4)) or stored.dtype.kind != "f":
            raise InputError(
                f"{source}: camera2world has shape {stored.shape}, expected 3x4 numbers a frame."
            )
        video = VideoFrames(_video_beside(path))
        if not len(stamps) == len(stored) == len(video):
            raise InputError(
                f"{source} has {len(stored)} poses and {len(stamps)} timestamps, {video.path.name} "
                f"{len(video)} frames; make the video again from this annotation."
            )
        c2w = np.tile(np.eye(4), (len(stored), 1, 1))
        c2w[:, : stored.shape[1]] = stored
        h, w = video.hw
        focal = focal_from_fov(math.radians(self.hfov_deg), w)
        intrinsics = np.tile([focal, focal, 0.5 * w, 0.5 * h], (len(stored), 1))
        # Differences before scaling: timestamps since the video's start are large.
        time = (stamps - stamps[0]).astype(np.float64) * MICROSECOND if len(stamps) else np.zeros(0)
        cameras = checked_cameras(
            c2w, intrinsics, time, video.hw, source, self.fix_poses, "camera2world"
        )
        fps = 1.0 / float(np.median(np.diff(time))) if len(time) > 1 else None
        tracks = path if array_names(path) >= set(PUBLISHED) else None
        return VideoClip(id, source, cameras, video, list(range(len(video))), fps, tracks=tracks)


def _video_beside(path: Path) -> Path:
    names = [name.format(path.stem) for name in VIDEO_NAMES]
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise InputError(f"{path} has no video beside it; expected {' or '.join(names)}.")
