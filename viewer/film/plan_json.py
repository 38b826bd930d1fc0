"""A film plan as nerfstudio's ``camera_path.json``, and back, with the times that its keyframes are
about.

Keyframes are written in nerfstudio's fields (``matrix``: OpenGL, row by row; ``fov``: vertical,
degrees; ``aspect``; ``override_transition_sec``: seconds from the keyframe before, of the first one
from the last; ``render_time``: 0 to 1 over the clip) and with ``time``, seconds of the clip. Of
files of other programs we take ``time``, else ``render_time``, else the time of the path's camera
that stands where the keyframe does (nerfview drops the keyframes' times, not the path's). A path
without keyframes gets some: cameras picked evenly, at most ``PICKED``.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.camera_path_json import (
    FLIP_YZ,
    CameraPathFile,
    read_camera_path,
    write_camera_path,
)
from fsm.renderers.film.splines import quaternions
from fsm.viewer.cameras import FIELDS_OF_VIEW, MAX_ASPECT, Camera
from fsm.viewer.film.keyframes import MAX_KEYFRAMES, TRANSITION, TRANSITIONS, FilmPlan, Keyframe

PICKED = 24
"""Most keyframes that a path without any is given, about one a second."""


def write_plan(path: Path, plan: FilmPlan, time_range: tuple[float, float]) -> None:
    """Write the whole film: its frames as a camera path, and its keyframes; ``time_range``: first
    and last input time.
    """
    first, last = time_range
    keyframes = []
    for i, key in enumerate(plan.keyframes):
        fraction = (key.seconds - first) / (last - first) if last > first else 0.0
        keyframes.append(
            {
                "matrix": (key.camera.c2w @ FLIP_YZ.double()).flatten().tolist(),
                "fov": math.degrees(key.camera.fov),
                "aspect": key.camera.aspect,
                "override_transition_enabled": True,
                "override_transition_sec": plan.keyframes[i - 1].transition,
                "render_time": min(max(fraction, 0.0), 1.0),
                "override_time_enabled": True,
                "time": key.seconds,
            }
        )
    settings = {
        "default_fov": math.degrees(plan.keyframes[0].camera.fov) if plan.keyframes else 50.0,
        "default_time": 0.0,
        "default_transition_sec": TRANSITION,
        "is_cycle": plan.loop,
        "smoothness_value": plan.tension,
    }
    write_camera_path(path, plan.frames(), plan.fps, time_range, keyframes, settings)


def read_plan(path: Path, time_range: tuple[float, float]) -> tuple[FilmPlan, str]:
    """The plan that a file holds, and a sentence about where it came from. ``InputError`` names
    file and field.
    """
    file = read_camera_path(path, time_range)
    loop = file.settings.get("is_cycle", False)
    if not isinstance(loop, bool):
        raise InputError(f"{path}: is_cycle is {loop!r}, expected true or false.")
    tension = _number(str(path), file.settings, "smoothness_value", (0.0, 1.0), 0.0)
    plan = FilmPlan((), file.fps, file.views.hw, loop, tension)
    if not file.keyframes:
        keys = _picked(file, loop)
        return plan.with_keyframes(
            keys
        ), f"a path without keyframes: {len(keys)} picked evenly of {len(file.views)}"
    if len(file.keyframes) > MAX_KEYFRAMES:
        raise InputError(
            f"{path}: there are {len(file.keyframes)} keyframes, more than "
            f"{MAX_KEYFRAMES}; remove some."
        )
    keys = _keyframes(path, file, loop, time_range)
    return plan.with_keyframes(keys), f"{len(keys)} keyframes"


def _keyframes(
    path: Path, file: CameraPathFile, loop: bool, time_range: tuple[float, float]
) -> tuple[Keyframe, ...]:
    entries = [(f"{path}: keyframes[{i}]", entry) for i, entry in enumerate(file.keyframes)]
    cameras = [_camera(where, entry) for where, entry in entries]
    spans = len(entries) if loop else max(1, len(entries) - 1)
    even = min(max(len(file.views) / file.fps / spans, TRANSITIONS[0]), TRANSITIONS[1])
    default = _number(str(path), file.settings, "default_transition_sec", TRANSITIONS, even)
    until = [_transition(where, entry, default) for where, entry in entries]
    until = [*until[1:], until[0]]  # the file says it of the one that is arrived at
    unplaced = FilmPlan(
        tuple(Keyframe(c, 0.0, t) for c, t in zip(cameras, until, strict=True)), file.fps, loop=loop
    )
    times = [
        _seconds(
            where,
            entry,
            file,
            cameras[i],
            unplaced.knots[i] / max(unplaced.duration, 1e-9),
            time_range,
        )
        for i, (where, entry) in enumerate(entries)
    ]
    return tuple(
        dataclasses.replace(k, seconds=t) for k, t in zip(unplaced.keyframes, times, strict=True)
    )


def _camera(where: str, entry: dict[str, Any]) -> Camera:
    pose = _matrix(where, entry.get("matrix"))
    fov = math.radians(
        _number(where, entry, "fov", tuple(math.degrees(f) for f in FIELDS_OF_VIEW), None)
    )
    aspect = _number(where, entry, "aspect", (1 / MAX_ASPECT, MAX_ASPECT), 1.0)
    wxyz = tuple(quaternions(pose[:3, :3]).tolist())
    return Camera(wxyz, tuple(pose[:3, 3].tolist()), fov, aspect)  # pyright: ignore[reportArgumentType]


def _matrix(where: str, value: Any) -> Float[Tensor, "4 4"]:
    """OpenCV camera-to-world, float64; text (nerfstudio before 1.0) holds it column by column, a
    list row by row.
    """
    columns = isinstance(value, str)
    try:
        numbers = json.loads(value) if columns else value
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or len(numbers) != 16 or not all(_finite(n) for n in numbers):
        raise InputError(f"{where}: matrix should be 16 finite numbers, found {_short(value)}.")
    pose = torch.tensor(numbers, dtype=torch.float64).view(4, 4)
    pose = pose.T if columns else pose
    rotation, last = pose[:3, :3], pose.new_tensor([0.0, 0.0, 0.0, 1.0])
    eye = torch.eye(3, dtype=torch.float64)
    rigid = (
        torch.allclose(rotation @ rotation.T, eye, atol=1e-3)
        and float(torch.linalg.det(rotation)) > 0
    )
    if not rigid or not torch.allclose(pose[3], last, atol=1e-4):
        raise InputError(
            f"{where}: matrix is no rotation and position; write a rigid pose row by row."
        )
    return pose @ FLIP_YZ.double()


def _transition(where: str, entry: dict[str, Any], default: float) -> float:
    if not entry.get("override_transition_enabled"):
        return default
    return _number(where, entry, "override_transition_sec", TRANSITIONS, default)


def _seconds(
    where: str,
    entry: dict[str, Any],
    file: CameraPathFile,
    camera: Camera,
    share: float,
    time_range: tuple[float, float],
) -> float:
    """The keyframe's moment; ``share`` is how far into the film it comes, which decides between
    places passed twice.
    """
    if entry.get("time") is not None:
        return _number(where, entry, "time", (-1e9, 1e9), None)
    if entry.get("render_time") is not None:
        first, last = time_range
        fraction = _number(where, entry, "render_time", (-1e9, 1e9), None)
        return first + min(max(fraction, 0.0), 1.0) * (last - first)
    c2w = file.views.c2w.double()
    extent = float((c2w[:, :3, 3] - c2w[:, :3, 3].mean(0)).norm(dim=-1).max())
    off = c2w - camera.c2w
    apart = off[:, :3, :3].norm(dim=(-2, -1)) + off[:, :3, 3].norm(dim=-1) / max(extent, 1e-9)
    early = (torch.linspace(0, 1, len(c2w), dtype=torch.float64) - share).abs()
    return float(file.views.time[int((apart + 1e-2 * early).argmin())])


def _picked(file: CameraPathFile, loop: bool) -> tuple[Keyframe, ...]:
    """Keyframes at cameras of the path, evenly picked, about one a second."""
    count = len(file.views)
    length = (count if loop else count - 1) / file.fps
    keys = min(count, PICKED, max(2, round(length) + 1))
    rows = torch.linspace(0, count - 1, keys).round().long().tolist()
    gaps = [b - a for a, b in itertools.pairwise(rows)] + [count - rows[-1]]
    held = [min(max(gap / file.fps, TRANSITIONS[0]), TRANSITIONS[1]) for gap in gaps]
    times: Sequence[float] = file.views.time[rows].tolist()
    cameras = [Camera.of_view(file.views, row) for row in rows]
    return tuple(Keyframe(c, t, gap) for c, t, gap in zip(cameras, times, held, strict=True))


def _number(
    where: str, values: dict[str, Any], name: str, limits: tuple[float, ...], default: float | None
) -> float:
    """A number of ``values`` within ``limits``; where it is missing, ``default``, or an
    ``InputError`` for None.
    """
    value = values.get(name)
    if value is None and default is not None:
        return default
    if value is None or not _finite(value) or not limits[0] <= value <= limits[1]:
        raise InputError(
            f"{where}: {name} is {_short(value)}, expected a number from {limits[0]:g} to "
            f"{limits[1]:g}."
        )
    return float(value)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
