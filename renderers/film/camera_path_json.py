"""nerfstudio's ``camera_path.json``: camera paths that other tools write and read.

A camera is ``camera_to_world`` (16 numbers, row-major, OpenGL axes: +y up, +z back), ``fov``
(vertical, degrees), ``aspect`` and optionally ``render_time`` (0 to 1 over the clip). Pixels are
square, the principal point is the centre, so lens shift and oblong pixels are lost on writing; the
vertical field of view is kept. Beside ``render_time`` we write ``time`` in seconds. Format as in
``nerfstudio.cameras.camera_paths.get_path_from_json``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.files import read_json, write_json
from fsm.views import Views

FLIP_YZ = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
"""OpenGL to OpenCV camera axes and back: ``c2w @ FLIP_YZ``."""

_OWN_KEYS = (
    "camera_path",
    "keyframes",
    "fps",
    "render_height",
    "render_width",
    "seconds",
    "camera_type",
)
_MAX_PIXELS = 16384.0


@dataclass(frozen=True)
class CameraPathFile:
    """A camera path as a file holds it."""

    views: Views
    """The request: one view per frame, unbatched."""
    fps: float
    times_from: Literal["time", "render_time", "none"]
    """Where the views' times come from; ``none`` (not every camera has one) is a linear sweep over
    the clip.
    """
    keyframes: tuple[dict[str, Any], ...] = ()
    """Editor keyframes, exactly as in the file."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The file's other top-level values (default_fov, is_cycle, smoothness_value, crop, ...), kept
    for writing.
    """


def read_camera_path(path: Path | str, time_range: tuple[float, float]) -> CameraPathFile:
    """Read a path; ``time_range`` is the clip's first and last input time in seconds:
    ``render_time`` 0 and 1.

    ``time`` in seconds wins where every camera has it, then ``render_time`` (held to 0..1: splines
    overshoot) where every camera has it; otherwise times sweep the range. A malformed file, field
    or pose, or a camera type other than perspective, raises ``InputError``.
    """
    path = Path(path)
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} should hold a camera path object, found {type(data).__name__}.")
    kind = data.get("camera_type", "perspective")
    if kind != "perspective":
        raise InputError(f"{path}: camera_type is {kind!r}; only 'perspective' can be rendered.")
    size = [
        _number(path, data, name, 1.0, _MAX_PIXELS) for name in ("render_height", "render_width")
    ]
    if any(n != int(n) for n in size):
        raise InputError(
            f"{path}: render_height and render_width are {size}, expected whole pixels."
        )
    hw = (int(size[0]), int(size[1]))
    cameras = _objects(path, data, "camera_path")
    if not cameras:
        raise InputError(f"{path}: camera_path is empty; export a path with at least one camera.")
    poses, focal = [], []
    for i, camera in enumerate(cameras):
        where = f"{path}: camera_path[{i}]"
        poses.append(_pose(where, camera.get("camera_to_world")))
        fov = _number(where, camera, "fov", 1e-3, 179.0)
        focal.append(0.5 * hw[0] / math.tan(math.radians(fov) / 2))
    f = torch.tensor(focal, dtype=torch.float64)
    half = torch.ones_like(f)
    intrinsics = torch.stack([f, f, half * hw[1] / 2, half * hw[0] / 2], dim=-1)
    times, times_from = _times(path, cameras, time_range)
    return CameraPathFile(
        Views(torch.stack(poses), intrinsics.float(), times.float(), hw),
        fps=_number(path, data, "fps", 1e-3, 1000.0),
        times_from=times_from,
        keyframes=tuple(_objects(path, data, "keyframes")) if "keyframes" in data else (),
        settings={k: v for k, v in data.items() if k not in _OWN_KEYS},
    )


def write_camera_path(
    path: Path | str,
    views: Views,
    fps: float,
    time_range: tuple[float, float],
    keyframes: Sequence[dict[str, Any]] = (),
    settings: dict[str, Any] | None = None,
) -> None:
    """Write unbatched ``views`` as a path that nerfstudio reads; the inverse of
    ``read_camera_path``.

    ``time_range`` in seconds becomes ``render_time`` 0 to 1, held there; ``time`` keeps the
    seconds. ``keyframes`` and ``settings`` are written as they are. The file appears whole or not
    at all.
    """
    if views.c2w.ndim != 3 or len(views) == 0:
        raise InputError(
            f"a camera path file needs unbatched views, found poses {tuple(views.c2w.shape)}."
        )
    h, w = views.hw
    matrices = (views.c2w.double().cpu() @ FLIP_YZ.double()).flatten(-2).tolist()
    fovs = torch.rad2deg(2 * torch.atan(0.5 * h / views.intrinsics[:, 1].double().cpu())).tolist()
    first, last = time_range
    cameras = []
    for matrix, fov, seconds in zip(
        matrices, fovs, views.time.double().cpu().tolist(), strict=True
    ):
        fraction = (seconds - first) / (last - first) if last > first else 0.0
        cameras.append(
            {
                "camera_to_world": matrix,
                "fov": fov,
                "aspect": w / h,
                "render_time": min(max(fraction, 0.0), 1.0),
                "time": seconds,
            }
        )
    defaults = {
        "default_fov": fovs[0],
        "default_transition_sec": 2.0,
        "is_cycle": False,
        "smoothness_value": 0.0,
    }
    document = {
        **defaults,
        **(settings or {}),
        "camera_type": "perspective",
        "render_height": h,
        "render_width": w,
        "fps": fps,
        "seconds": len(views) / fps,
        "keyframes": list(keyframes),
        "camera_path": cameras,
    }
    write_json(path, document)


def _times(
    path: Path, cameras: list[dict[str, Any]], time_range: tuple[float, float]
) -> tuple[Float[Tensor, "n"], Literal["time", "render_time", "none"]]:
    first, last = time_range
    if all(camera.get("time") is not None for camera in cameras):
        seconds = [
            _number(f"{path}: camera_path[{i}]", c, "time", -1e9, 1e9)
            for i, c in enumerate(cameras)
        ]
        return torch.tensor(seconds, dtype=torch.float64), "time"
    if all(camera.get("render_time") is not None for camera in cameras):
        values = [
            _number(f"{path}: camera_path[{i}]", c, "render_time", -1e9, 1e9)
            for i, c in enumerate(cameras)
        ]
        fractions = torch.tensor(values, dtype=torch.float64).clamp(0, 1)
        return first + fractions * (last - first), "render_time"
    return torch.linspace(first, last, len(cameras), dtype=torch.float64), "none"


def _pose(where: str, value: Any) -> Float[Tensor, "4 4"]:
    """OpenCV camera-to-world from 16 OpenGL numbers, checked to be rigid."""
    flat = isinstance(value, list) and len(value) == 16
    if not flat or not all(_finite(n) for n in value):
        raise InputError(
            f"{where}: camera_to_world should be 16 finite numbers, found {_short(value)}."
        )
    pose = torch.tensor(value, dtype=torch.float64).view(4, 4)
    if not torch.allclose(pose[3], pose.new_tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-4):
        found = pose[3].tolist()
        raise InputError(
            f"{where}: camera_to_world ends in {found}, expected 0 0 0 1; write the matrix "
            "row by row."
        )
    R = pose[:3, :3]
    if (
        not torch.allclose(R @ R.T, torch.eye(3, dtype=R.dtype), atol=1e-3)
        or float(torch.linalg.det(R)) < 0
    ):
        raise InputError(
            f"{where}: camera_to_world does not hold a rotation (scale, shear or mirror); "
            "remove it."
        )
    return (pose @ FLIP_YZ.double()).float()


def _number(where: Path | str, values: dict[str, Any], name: str, low: float, high: float) -> float:
    if name not in values:
        raise InputError(f"{where} lacks {name!r}.")
    value = values[name]
    if not _finite(value) or not low <= value <= high:
        raise InputError(
            f"{where}: {name} is {_short(value)}, expected a number from {low:g} to {high:g}."
        )
    return float(value)


def _objects(path: Path, data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    value = data.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InputError(f"{path}: {name} should be a list of objects, found {_short(value)}.")
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
