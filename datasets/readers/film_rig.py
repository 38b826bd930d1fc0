"""Rigs of films: one video a camera, all of one length, as Neural 3D Video is published
(``cam00.mp4`` ... beside ``poses_bounds.npy``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fsm.datasets.base import Clip, IndexPlan, checked_cameras
from fsm.datasets.conventions import opencv_from_llff
from fsm.datasets.readers.llff import FILE, read_rows
from fsm.datasets.readers.video import BATCH, VideoFrames
from fsm.errors import InputError
from fsm.views import Views

DEFAULT_FPS = 30.0


class FilmRigClip(Clip):
    """A clip of several videos of one length: all frames of the first camera, then of the next."""

    def __init__(
        self,
        id: str,
        source: str,
        cameras: Views,
        videos: Sequence[VideoFrames],
        names: Sequence[str],
        fps: float,
        index_plan: IndexPlan | None = None,
    ) -> None:
        moments = len(cameras) // len(videos)
        rig = [name for name in names for _ in range(moments)]
        super().__init__(id, source, cameras, fps, index_plan, rig)
        self._videos, self._moments = videos, moments

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """Frames in batches, each video decoded in one pass."""
        for k, video in enumerate(self._videos):
            start = k * self._moments
            mine = [i for i in indices if start <= i < start + self._moments]
            pictures = video.stream([i - start for i in mine])
            for first in range(0, len(mine), BATCH):
                batch = mine[first : first + BATCH]
                rgb = torch.stack([next(pictures) for _ in batch]).float().div_(255.0)
                yield replace(self.cameras[batch], rgb=rgb)


def films_in(folder: Path) -> list[Path]:
    """Films ``cam*.mp4`` directly in a folder, by name."""
    return sorted(folder.glob("cam*.mp4"))


def read_film_rig(id: str, path: Path) -> Clip:
    """The clip of a folder of ``cam*.mp4`` with a row of ``poses_bounds.npy`` each, in the order of
    their names. The first camera is the target, the others are inputs, as published.
    """
    file, films = path / FILE, films_in(path)
    rows = read_rows(file)
    if len(rows) != len(films):
        raise InputError(
            f"{file} has {len(rows)} rows, but {path} holds {len(films)} films cam*.mp4; every "
            "film needs one row."
        )
    videos = [VideoFrames(film) for film in films]
    for video in videos[1:]:
        if (len(video), video.hw) != (len(videos[0]), videos[0].hw):
            raise InputError(
                f"{video.path} has {len(video)} frames of {video.hw[1]} x {video.hw[0]} pixels, "
                f"{videos[0].path.name} has {len(videos[0])} of {videos[0].hw[1]} x "
                f"{videos[0].hw[0]}; films of a rig are of one length and size."
            )
    moments, fps = len(videos[0]), videos[0].fps or DEFAULT_FPS
    c2w, lens = opencv_from_llff(rows[:, :15].reshape(-1, 3, 5))
    h, w = hw = videos[0].hw
    focal = lens[:, 2] * (w / lens[:, 1])
    intrinsics = np.stack(
        [focal, focal, np.full_like(focal, w / 2), np.full_like(focal, h / 2)], axis=1
    )
    times = np.tile(np.arange(moments) / fps, len(videos))
    poses, lenses = (np.repeat(a, moments, axis=0) for a in (c2w, intrinsics))
    cameras = checked_cameras(poses, lenses, times, hw, str(file))
    plan = IndexPlan(tuple(range(moments, len(cameras))), tuple(range(moments)))
    names = [film.stem for film in films]
    return FilmRigClip(id, str(file), cameras, videos, names, fps, plan if len(films) > 1 else None)
