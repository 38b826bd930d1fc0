"""pixelSplat chunks ``NAME.torch`` of RealEstate10K and ACID: many clips a file, their frames as
JPEG bytes.

A chunk is a list of clips with ``key``, ``timestamps`` (microseconds), ``cameras`` [n 18] (focal
lengths and principal point as shares of width and height, two zeros, a 3x4 world-to-camera pose in
OpenCV axes) and ``images``. Only plain tensors are read; nothing in the file is run.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.conventions import inverse
from fsm.datasets.readers.re10k import MICROSECOND
from fsm.errors import InputError
from fsm.files import read_plain
from fsm.views import Views

FIELDS = ("key", "timestamps", "cameras", "images")
COLUMNS = 18
MOST_BYTES = 2 << 30
MOST_PIXELS = 1 << 26  # of a frame


class PixelSplatChunk:
    """The clips of a chunk, by their keys."""

    kind = "pixelSplat chunk"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES >> 30} GiB; it is no chunk.")
        value = read_plain(self.path)
        entries = value if isinstance(value, list) else []
        if not entries or not all(isinstance(e, dict) and set(FIELDS) <= e.keys() for e in entries):
            raise InputError(f"{path} is not a pixelSplat chunk: a list of {', '.join(FIELDS)}.")
        self._clips = {str(e["key"]): e for e in entries}

    @property
    def ids(self) -> tuple[str, ...]:
        """Keys of the clips."""
        return tuple(self._clips)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._clips)

    def clip(self, id: str) -> Clip:
        """Open one clip."""
        if id not in self._clips:
            raise InputError(f"{self.path} has no clip {id!r}; it has {', '.join(self.ids[:5])}.")
        entry, source = self._clips[id], f"{self.path}: {id}"
        images = entry["images"]
        rows, stamps = (_numbers(entry, k, source) for k in ("cameras", "timestamps"))
        if (
            rows.ndim != 2
            or rows.shape[1] != COLUMNS
            or not len(rows) == len(stamps) == len(images)
        ):
            raise InputError(
                f"{source}: cameras has shape {rows.shape} for {len(stamps)} times and "
                f"{len(images)} images, expected {COLUMNS} numbers an image."
            )
        h, w = hw = tuple(_decoded(images[0], source).shape[:2])
        w2c = np.tile(np.eye(4), (len(rows), 1, 1))
        w2c[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
        times = (stamps - stamps[0]) * MICROSECOND
        cameras = checked_cameras(inverse(w2c), rows[:, :4] * [w, h, w, h], times, hw, source)
        return _EncodedClip(id, source, cameras, images)


class _EncodedClip(Clip):
    """Frames as bytes of picture files in memory, decoded when asked for."""

    def __init__(self, id: str, source: str, cameras: Views, images: list[Tensor]) -> None:
        super().__init__(id, source, cameras, camera_ids=["0"] * len(images))
        self._images = images

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """One frame at a time."""
        for i in indices:
            pixels = _decoded(self._images[i], f"{self.source}: image {i}")
            if pixels.shape[:2] != self.cameras.hw:
                raise InputError(f"{self.source}: image {i} has another size than image 0.")
            rgb = torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)))
            yield replace(self.cameras[i], rgb=rgb[None].float().div_(255.0))


def _numbers(entry: dict[str, Any], key: str, source: str) -> np.ndarray:
    value = entry[key]
    if not isinstance(value, Tensor):
        raise InputError(f"{source}: {key} should be a tensor of numbers.")
    return value.double().numpy()


def _decoded(data: Any, where: str) -> np.ndarray:
    """Bytes [h w 3], blue first."""
    import cv2

    found = None
    if isinstance(data, Tensor) and data.dtype == torch.uint8 and data.ndim == 1 and len(data):
        found = cv2.imdecode(data.numpy(), cv2.IMREAD_COLOR)
    if found is None or found.shape[0] * found.shape[1] > MOST_PIXELS:
        raise InputError(f"{where} cannot be decoded as a picture; make the chunk again.")
    return found
