"""``cameras.json``: one entry a view, world-to-camera in OpenCV axes, beside images or a video;
``split`` train or test.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from fsm.datasets.base import Clip, IndexPlan, checked_cameras, checked_poses
from fsm.datasets.conventions import inverse
from fsm.datasets.readers.fields import (
    CAMERA_FIELDS,
    Record,
    camera_names,
    inside,
    integer,
    is_static,
    matrix,
    number,
    rate,
    record,
    records,
    seconds_without_times,
    text,
)
from fsm.datasets.readers.images import ImageClip, Lens, image_size
from fsm.datasets.readers.transforms_json import SPLITS, read_lens
from fsm.datasets.readers.video import VideoClip, VideoFrames
from fsm.errors import InputError
from fsm.files import read_json

NAME = "cameras.json"
TRACKS = "tracks.npz"
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")


class CamerasJson:
    """The views of one ``cameras.json``, or of the folder it lies in: ``{"frames": [{"file", "w2c",
    "fl_x", ...}]}``.

    ``file`` is an image, or for all views the same video, whose frame ``frame`` is meant. A
    ``tracks.npz`` beside such a video holds its 3D tracks. ``split`` makes an index plan: train
    views are inputs, test views targets. Views may share moments: ``camera`` names who took each.
    Splits of one camera each, which share moments only with each other, are a clip each, on one
    clock.

    Seconds: 0 for all views of a scene that is ``static``; else ``frame / fps`` where both are
    known; else ``time`` as it stands (0 to 1 counts as one second). Images without times are
    photographs of one moment, or consecutive frames at ``fps`` where that is stated.
    """

    def __init__(self, path: Path | str, fix_poses: bool = False) -> None:
        path = Path(path)
        self.path = path / NAME if path.is_dir() else path
        self.fix_poses = fix_poses
        self._source = str(self.path)
        self._value = record(read_json(self.path), self._source)
        self._frames = records(self._value, "frames", self._source)
        self._seconds = _seconds(self._value, self._frames, self._source)
        splits = [_split(f, f"{self._source}: frames[{i}]") for i, f in enumerate(self._frames)]
        everything = list(range(len(self._frames)))
        name = self.path.resolve().parent.name if self.path.name == NAME else self.path.stem
        films = {s: [i for i in everything if splits[i] == s] for s in SPLITS if s in splits}
        apart = None not in splits and _are_films(list(films.values()), self._frames, self._seconds)
        self._clips: dict[str, list[int]] = films if apart else {name: everything}
        self._splits = splits

    @property
    def ids(self) -> tuple[str, ...]:
        """The folder's name, or the names of the splits."""
        return tuple(self._clips)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._clips)

    def clip(self, id: str) -> Clip:
        """Open one clip."""
        if id not in self._clips:
            raise InputError(f"{self.path} has no clip {id!r}; it has {', '.join(self.ids)}.")
        order = sorted(self._clips[id], key=lambda i: self._seconds[i])
        source, root = self._source, self.path.parent
        frames, wheres = [self._frames[i] for i in order], [f"{source}: frames[{i}]" for i in order]
        w2c = np.stack([matrix(f, "w2c", where) for f, where in zip(frames, wheres, strict=True)])
        c2w = inverse(checked_poses(w2c, source, "w2c", self.fix_poses))
        named = [text(f, "file", where) for f, where in zip(frames, wheres, strict=True)]
        files = [
            inside(root, root, n, f"{w}.file", by_name=False)
            for n, w in zip(named, wheres, strict=True)
        ]
        moving = files[0].suffix.lower() in VIDEOS
        video = _video(files, wheres) if moving else None
        hw = image_size(files[0]) if video is None else video.hw
        lenses = [read_lens(f, hw, where) for f, where in zip(frames, wheres, strict=True)]
        seconds = np.array([self._seconds[i] for i in order])
        cameras = checked_cameras(
            c2w, _pinholes(lenses, hw), seconds, hw, source, time_start=min(self._seconds)
        )
        fps, plan = rate(self._value, source), _plan([self._splits[i] for i in order])
        if video is None:
            rig = camera_names(frames, files, seconds.tolist(), wheres)
            about = {"fps": fps, "index_plan": plan, "camera_ids": rig}
            return ImageClip(id, source, cameras, files, lenses=lenses, **about)
        if any(any(lens.distortion) for lens in lenses):
            raise InputError(
                f"{source} has lens distortion, which is not removed from videos; "
                "undistort the video first."
            )
        tracks = root / TRACKS if (root / TRACKS).is_file() else None
        return VideoClip(
            id, source, cameras, video, _numbers(video, frames, wheres), fps, plan, tracks
        )


def is_cameras_json(value: Any) -> bool:
    """Whether a JSON ``value`` is of this kind: frames with ``file`` and ``w2c``."""
    frames = value.get("frames") if isinstance(value, dict) else None
    return isinstance(frames, list) and any(
        isinstance(f, dict) and {"file", "w2c"} <= f.keys() for f in frames
    )


def _are_films(splits: list[list[int]], frames: list[Record], seconds: list[float]) -> bool:
    """Whether the splits are films of one camera each on one clock: views share moments with those
    of other splits only, and nothing names their cameras.
    """
    moments = [{seconds[i] for i in split} for split in splits]
    shared = 1 < len(set().union(*moments)) < len(frames)
    alone = all(len(m) == len(split) for m, split in zip(moments, splits, strict=True))
    return shared and alone and not any(CAMERA_FIELDS & f.keys() for f in frames)


def _seconds(value: Record, frames: list[Record], source: str) -> list[float]:
    """When each view was taken, in the order of the file."""
    if is_static(value):
        return [0.0] * len(frames)
    fps = rate(value, source)
    wheres = [f"{source}: frames[{i}]" for i in range(len(frames))]
    if fps is not None and all("frame" in f for f in frames):
        return [integer(f, "frame", where) / fps for f, where in zip(frames, wheres, strict=True)]
    if any("time" in f for f in frames):
        return [number(f, "time", where) for f, where in zip(frames, wheres, strict=True)]
    if Path(text(frames[0], "file", wheres[0])).suffix.lower() in VIDEOS:
        raise InputError(
            f'{source} has no times; give the file "fps" and every frame its number "frame", or '
            '"static": true.'
        )
    return seconds_without_times(value, len(frames), source)


def _split(frame: Record, where: str) -> str | None:
    if "split" not in frame:
        return None
    split = text(frame, "split", where)
    if split not in SPLITS:
        raise InputError(f"{where}: split is {split!r}, expected {', '.join(SPLITS)}.")
    return split


def _plan(splits: list[str | None]) -> IndexPlan | None:
    """Inputs from train, targets from test; None unless both are there."""
    inputs, targets = (
        tuple(i for i, s in enumerate(splits) if s == wanted) for wanted in ("train", "test")
    )
    return IndexPlan(inputs, targets) if inputs and targets else None


def _video(files: list[Path], wheres: list[str]) -> VideoFrames:
    """The one video of all views."""
    other = next((i for i, file in enumerate(files) if file != files[0]), None)
    if other is not None:
        raise InputError(
            f"{wheres[other]}: file is {files[other].name!r}, others {files[0].name!r}; "
            "use one video."
        )
    return VideoFrames(files[0])


def _numbers(video: VideoFrames, frames: list[Record], wheres: list[str]) -> list[int]:
    numbers = [integer(f, "frame", where) for f, where in zip(frames, wheres, strict=True)]
    for n, where in zip(numbers, wheres, strict=True):
        if n >= len(video):
            raise InputError(
                f"{where}: frame is {n}, but {video.path.name} has {len(video)} frames; "
                "use the complete video."
            )
    return numbers


def _pinholes(lenses: list[Lens], hw: tuple[int, int]) -> Float64[np.ndarray, "f 4"]:
    """Cameras of the undistorted pictures; usually one lens for all."""
    found = {lens: lens.undistorted(hw) for lens in set(lenses)}
    return np.stack([found[lens] for lens in lenses])
