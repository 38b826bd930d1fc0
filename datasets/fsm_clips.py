"""FSM clip files: one JSON per clip with world-to-camera poses beside a video or image folder, and lists of such files."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fsm.datasets.base import DECODE_BATCH, Clip, IndexPlan, checked_cameras, checked_poses
from fsm.datasets.images import image_size, read_rgb
from fsm.datasets.reading import Record, inside, integer, integers, matrix, number, record, records, text, unique_names
from fsm.datasets.video import VideoFrames
from fsm.errors import InputError
from fsm.files import read_json
from fsm.views import Views

# Published clips carry no frame rate; they were all written at 30 frames per second.
DEFAULT_FPS = 30.0


class FsmClips:
    """Clips named by a list (JSON array of paths; in a ``.jsonl`` also one JSON string a line), or a single clip JSON.

    Every file of the list must exist. Paths are relative to the list; one that does not exist there is looked for by its file
    name beside the list, since published lists are relative to another root. Nothing outside the list's folder is opened.
    """

    def __init__(self, path: Path | str, fix_poses: bool = False) -> None:
        self.path = Path(path)
        self.root = self.path.parent
        self.fix_poses = fix_poses
        value = _read(self.path)
        if isinstance(value, dict):
            files = [self.path]
        elif isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
            files = [inside(self.root, self.root, v, f"{self.path}: entry {i}") for i, v in enumerate(value)]
        else:
            raise InputError(f"{self.path} should hold one clip (an object with frames) or a list of clip paths.")
        self._files = dict(zip(unique_names(files, self.root), files, strict=True))

    @property
    def ids(self) -> tuple[str, ...]:
        """File names without suffix; relative paths where file names repeat."""
        return tuple(self._files)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._files)

    def clip(self, id: str) -> "FsmClip":
        """Open one clip."""
        if id not in self._files:
            raise InputError(f"{self.path} has no clip {id!r}; it has {', '.join(self.ids[:5])}{', ...' * (len(self) > 5)}.")
        return FsmClip(id, self._files[id], self.root, self.fix_poses)


class FsmClip(Clip):
    """One clip JSON: pictures from ``video_path``, or from a ``file_path`` per frame. Time is ``frame_idx / fps``."""

    def __init__(self, id: str, path: Path, root: Path, fix_poses: bool = False) -> None:
        source = str(path)
        value = record(_read(path), source)
        frames = records(value, "frames", source)
        self._video: VideoFrames | None = None
        self._images: list[Path] = []
        if "file_path" in frames[0]:
            named = enumerate(text(f, "file_path", f"{source}: frames[{i}]") for i, f in enumerate(frames))
            self._images = [inside(root, path.parent, name, f"{source}: frames[{i}].file_path") for i, name in named]
            hw = image_size(self._images[0])
        else:
            self._video = VideoFrames(inside(root, path.parent, text(value, "video_path", source), f"{source}: video_path"))
            hw = self._video.hw
        fps = number(value, "fps", source) if "fps" in value else DEFAULT_FPS
        if fps <= 0:
            raise InputError(f"{source}: fps is {fps}, expected frames per second above 0.")
        self._numbers = self._frame_numbers(value, frames, source)
        w2c = np.stack([matrix(f, "w2c", f"{source}: frames[{i}]") for i, f in enumerate(frames)])
        c2w = np.linalg.inv(checked_poses(w2c, source, "w2c", fix_poses))
        time = np.array(self._numbers, dtype=np.float64) / fps
        cameras = checked_cameras(c2w, _intrinsics(frames, hw, source), time, hw, source)
        super().__init__(id, source, cameras, fps, _index_plan(value, source))

    def _frame_numbers(self, value: Record, frames: list[Record], source: str) -> list[int]:
        if self._video is None:
            places = [f.get("frame_idx", i) for i, f in enumerate(frames)]
            return [integer({"frame_idx": n}, "frame_idx", f"{source}: frames[{i}]") for i, n in enumerate(places)]
        numbers = [integer(f, "frame_idx", f"{source}: frames[{i}]") for i, f in enumerate(frames)]
        stored = len(self._video)
        stated = integer(value, "num_video_frames", source) if "num_video_frames" in value else stored
        if stated != stored:
            raise InputError(
                f"{source}: num_video_frames is {stated}, but {self._video.path.name} has {stored} frames; "
                "the video is cut short or belongs to another clip."
            )
        for i, n in enumerate(numbers):
            if n >= stored:
                raise InputError(
                    f"{source}: frames[{i}].frame_idx is {n}, but {self._video.path.name} has {stored} frames; "
                    "remove the poses without pictures or use the complete video."
                )
        return numbers

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """Frames in batches, decoded in one pass."""
        for start in range(0, len(indices), DECODE_BATCH) if self._video is None else ():
            batch = indices[start : start + DECODE_BATCH]
            yield self._observed(batch, [read_rgb(self._images[i], self.cameras.hw) for i in batch])
        if self._video is not None:
            pixels: list[Tensor] = []
            done = 0
            for picture in self._video.stream([self._numbers[i] for i in indices]):
                pixels.append(picture)
                if len(pixels) == DECODE_BATCH or done + len(pixels) == len(indices):
                    yield self._observed(indices[done : done + len(pixels)], pixels)
                    done, pixels = done + len(pixels), []

    def _observed(self, indices: list[int], pixels: list[UInt8[Tensor, "3 h w"]]) -> Views:
        return replace(self.cameras[indices], rgb=torch.stack(pixels).float().div_(255.0))


def _read(path: Path) -> Any:
    if path.suffix != ".jsonl":
        return read_json(path)
    try:
        return read_json(path)  # published .jsonl clips hold one indented object
    except InputError:
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError, RecursionError):
            pass
        raise


def _intrinsics(frames: list[Record], hw: tuple[int, int], source: str) -> np.ndarray:
    """fx, fy, cx, cy in pixels of the stored pictures: stated for h x w of the frame, scaled where the pictures differ."""
    rows = []
    for i, frame in enumerate(frames):
        where = f"{source}: frames[{i}]"
        row = np.array([number(frame, name, where) for name in ("fx", "fy", "cx", "cy")])
        h, w = (integer(frame, "h", where), integer(frame, "w", where)) if "h" in frame or "w" in frame else hw
        if h * w == 0 or abs(h * hw[1] - w * hw[0]) > max(h, w):  # the aspect may differ by a pixel of rounding
            raise InputError(f"{where} states a size of {w} x {h}, but its picture is {hw[1]} x {hw[0]}; check h and w.")
        sx, sy = hw[1] / w, hw[0] / h
        rows.append(row * [sx, sy, sx, sy])
    return np.stack(rows)


def _index_plan(value: Record, source: str) -> IndexPlan | None:
    if value.get("index_plan") is None:
        return None
    plan, where = record(value["index_plan"], f"{source}: index_plan"), f"{source}: index_plan"
    try:
        return IndexPlan(integers(plan, "input_index", where), integers(plan, "target_index", where))
    except InputError as error:
        raise error if str(error).startswith(source) else InputError(f"{source}: {error}") from error
