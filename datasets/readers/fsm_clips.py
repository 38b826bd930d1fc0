"""FSM clip files: one JSON per clip, world-to-camera poses beside a video or image folder; lists of
such files.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from fsm.datasets.base import Clip, IndexPlan, checked_cameras, checked_poses
from fsm.datasets.conventions import inverse
from fsm.datasets.readers.fields import (
    Record,
    camera_names,
    inside,
    integer,
    integers,
    is_static,
    matrix,
    number,
    rate,
    record,
    records,
    text,
    unique_names,
)
from fsm.datasets.readers.images import ImageClip, image_size
from fsm.datasets.readers.video import VideoClip, VideoFrames
from fsm.errors import InputError
from fsm.files import read_json

# Published clips carry no frame rate; they were all written at 30 frames per second.
DEFAULT_FPS = 30.0


class FsmClips:
    """Clips named by a list (JSON array of paths; in a ``.jsonl`` also one JSON string a line), or
    a single clip JSON.

    Every file of the list must exist. Paths are relative to the list; one that does not exist there
    is looked for by its file name beside the list, since published lists are relative to another
    root. Nothing outside the list's folder is opened.
    """

    def __init__(self, path: Path | str, fix_poses: bool = False) -> None:
        self.path = Path(path)
        self.root = self.path.parent
        self.fix_poses = fix_poses
        value = _read(self.path)
        if isinstance(value, dict):
            files = [self.path]
        elif isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
            files = [
                inside(self.root, self.root, v, f"{self.path}: entry {i}")
                for i, v in enumerate(value)
            ]
        else:
            raise InputError(
                f"{self.path} should hold one clip (an object with frames) or a list of clip paths."
            )
        self._files = dict(zip(unique_names(files, self.root, str(self.path)), files, strict=True))

    @property
    def ids(self) -> tuple[str, ...]:
        """File names without suffix; relative paths where file names repeat."""
        return tuple(self._files)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._files)

    def clip(self, id: str) -> Clip:
        """Open one clip."""
        if id not in self._files:
            raise InputError(
                f"{self.path} has no clip {id!r}; it has "
                f"{', '.join(self.ids[:5])}{', ...' * (len(self) > 5)}."
            )
        return read_fsm_clip(id, self._files[id], self.root, self.fix_poses)


def read_fsm_clip(id: str, path: Path, root: Path, fix_poses: bool = False) -> Clip:
    """One clip file: pictures from ``video_path``, or from a ``file_path`` per frame; time is
    ``frame_idx / fps``. Frames of files may share moments where they are of several cameras.
    """
    source = str(path)
    value = record(_read(path), source)
    frames = records(value, "frames", source)
    fps = rate(value, source) or DEFAULT_FPS
    standing = is_static(value)
    w2c = np.stack([matrix(f, "w2c", f"{source}: frames[{i}]") for i, f in enumerate(frames)])
    c2w = inverse(checked_poses(w2c, source, "w2c", fix_poses))
    plan = _index_plan(value, source)
    if "file_path" in frames[0]:
        wheres = [f"{source}: frames[{i}]" for i in range(len(frames))]
        names = [text(f, "file_path", where) for f, where in zip(frames, wheres, strict=True)]
        images = [
            inside(root, path.parent, n, f"{where}.file_path")
            for n, where in zip(names, wheres, strict=True)
        ]
        numbers = [
            integer(f, "frame_idx", wheres[i]) if "frame_idx" in f else i
            for i, f in enumerate(frames)
        ]
        hw = image_size(images[0])
        times = np.zeros(len(numbers)) if standing else np.array(numbers) / fps
        cameras = checked_cameras(c2w, _intrinsics(frames, hw, source), times, hw, source)
        rig = camera_names(frames, images, times.tolist(), wheres)
        return ImageClip(id, source, cameras, images, fps=fps, index_plan=plan, camera_ids=rig)
    video = VideoFrames(
        inside(root, path.parent, text(value, "video_path", source), f"{source}: video_path")
    )
    numbers = _frame_numbers(value, frames, video, source)
    times = np.zeros(len(numbers)) if standing else np.array(numbers) / fps
    cameras = checked_cameras(c2w, _intrinsics(frames, video.hw, source), times, video.hw, source)
    return VideoClip(id, source, cameras, video, numbers, fps, plan)


def _frame_numbers(
    value: Record, frames: list[Record], video: VideoFrames, source: str
) -> list[int]:
    numbers = [integer(f, "frame_idx", f"{source}: frames[{i}]") for i, f in enumerate(frames)]
    stated = (
        integer(value, "num_video_frames", source) if "num_video_frames" in value else len(video)
    )
    if stated != len(video):
        raise InputError(
            f"{source}: num_video_frames is {stated}, but {video.path.name} has "
            f"{len(video)} frames; "
            "the video is cut short or belongs to another clip."
        )
    for i, n in enumerate(numbers):
        if n >= len(video):
            raise InputError(
                f"{source}: frames[{i}].frame_idx is {n}, but {video.path.name} has "
                f"{len(video)} frames; "
                "remove the poses without pictures or use the complete video."
            )
    return numbers


def _read(path: Path) -> Any:
    if path.suffix != ".jsonl":
        return read_json(path)
    try:
        return read_json(path)  # published .jsonl clips hold one indented object
    except InputError:
        try:
            return [
                json.loads(line)
                for line in path.read_text(encoding="utf-8").splitlines()
                if line.strip()
            ]
        except (OSError, ValueError, RecursionError):
            pass
        raise


def _intrinsics(
    frames: list[Record], hw: tuple[int, int], source: str
) -> Float64[np.ndarray, "f 4"]:
    """fx, fy, cx, cy in pixels of the stored pictures: stated for the frame's h x w, scaled where
    pictures differ.
    """
    rows = []
    for i, frame in enumerate(frames):
        where = f"{source}: frames[{i}]"
        row = np.array([number(frame, name, where) for name in ("fx", "fy", "cx", "cy")])
        h, w = (
            (integer(frame, "h", where), integer(frame, "w", where))
            if "h" in frame or "w" in frame
            else hw
        )
        # the aspect may differ by a pixel of rounding
        if h * w == 0 or abs(h * hw[1] - w * hw[0]) > max(h, w):
            raise InputError(
                f"{where} states a size of {w} x {h}, but its picture is {hw[1]} x "
                f"{hw[0]}; check h and w."
            )
        sx, sy = hw[1] / w, hw[0] / h
        rows.append(row * [sx, sy, sx, sy])
    return np.stack(rows)


def _index_plan(value: Record, source: str) -> IndexPlan | None:
    if value.get("index_plan") is None:
        return None
    plan, where = record(value["index_plan"], f"{source}: index_plan"), f"{source}: index_plan"
    try:
        return IndexPlan(
            integers(plan, "input_index", where), integers(plan, "target_index", where)
        )
    except InputError as error:
        raise (
            error if str(error).startswith(source) else InputError(f"{source}: {error}")
        ) from error
