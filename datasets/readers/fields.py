"""Fields and paths out of files that others wrote: strict types, and nothing outside the data set's
own folder.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from fsm.errors import InputError

Record = dict[str, Any]
CAMERA_FIELDS = {"camera", "camera_id"}
"""Fields of a frame that name the camera that took it."""


def record(value: Any, where: str) -> Record:
    """A JSON object, or an ``InputError`` that says where something else was found."""
    if not isinstance(value, dict):
        raise InputError(f"{where} should be a JSON object, found {type(value).__name__}.")
    return value


def records(parent: Record, key: str, where: str) -> list[Record]:
    """A non-empty list of JSON objects under ``key``."""
    value = _get(parent, key, where)
    if not isinstance(value, list) or not value:
        raise InputError(
            f"{where}: {key} should be a list with at least one entry, found {_shown(value)}."
        )
    return [record(v, f"{where}: {key}[{i}]") for i, v in enumerate(value)]


def number(parent: Record, key: str, where: str) -> float:
    """A finite number under ``key``."""
    value = _get(parent, key, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {key} is {_shown(value)}, expected a finite number.")
    return float(value)


def integer(parent: Record, key: str, where: str) -> int:
    """A whole number of at least 0 under ``key``; 512.0 counts as one."""
    value = number(parent, key, where)
    if value != int(value) or value < 0:
        raise InputError(f"{where}: {key} is {value}, expected a whole number of at least 0.")
    return int(value)


def integers(parent: Record, key: str, where: str) -> tuple[int, ...]:
    """A list of whole numbers of at least 0 under ``key``."""
    value = _get(parent, key, where)
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} is {_shown(value)}, expected a list of whole numbers.")
    return tuple(integer({str(i): v}, str(i), f"{where}: {key}") for i, v in enumerate(value))


def text(parent: Record, key: str, where: str) -> str:
    """A non-empty string under ``key``."""
    value = _get(parent, key, where)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key} is {_shown(value)}, expected text.")
    return value


def matrix(parent: Record, key: str, where: str) -> Float64[np.ndarray, "4 4"]:
    """A 4x4 (or 3x4, completed) matrix of numbers under ``key``; NaN passes, for the pose check to
    name.
    """
    value = _get(parent, key, where)
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{where}: {key} is {_shown(value)}, expected a 4x4 matrix of numbers."
        ) from error
    if found.shape == (3, 4):
        found = np.concatenate([found, [[0.0, 0.0, 0.0, 1.0]]])
    if found.shape != (4, 4):
        raise InputError(f"{where}: {key} has shape {found.shape}, expected a 4x4 matrix.")
    return found


def inside(root: Path, base: Path, name: str, where: str, by_name: bool = True) -> Path:
    """The existing file ``name`` (relative to ``base``), which must lie inside ``root`` once links
    are followed.

    With ``by_name`` a path that does not exist there, or leads out of ``root``, stands for the file
    of the same name directly in ``base``: published clips name paths of the machine that made them.
    Otherwise ``InputError``.
    """
    try:
        limit = root.resolve()
        named = base / name
        for candidate in (named, base / Path(name).name) if by_name else (named,):
            if candidate.is_file() and candidate.resolve().is_relative_to(limit):
                return candidate
        outside = not named.resolve().is_relative_to(limit)
    except (OSError, ValueError, RuntimeError) as error:  # too long, embedded NUL, link loop
        raise InputError(f"{where}: {name!r} is not a usable path ({error}).") from error
    if outside:
        raise InputError(
            f"{where}: {name!r} leads out of the data folder {root}; put the file inside it."
        )
    raise InputError(f"{where}: {name!r} does not exist in {base}; check the path.")


def camera_names(
    frames: Sequence[Record], files: Sequence[Path], times: Sequence[float], wheres: Sequence[str]
) -> list[str] | None:
    """Which camera took each frame, by the field ``camera`` or ``camera_id``; else, where frames
    share moments, by the folder of its file. None where neither tells them apart.
    """
    key = next((k for k in sorted(CAMERA_FIELDS) if any(k in f for f in frames)), None)
    if key is not None:
        return [_camera_name(f, key, where) for f, where in zip(frames, wheres, strict=True)]
    folders = [str(file.parent) for file in files]
    apart = len(set(zip(folders, times, strict=True))) == len(files)
    if not apart or len(set(times)) == len(times):
        return None
    return [Path(folder).name for folder in folders] if _distinct(folders) else folders


def is_static(value: Record) -> bool:
    """Whether a file says that its frames are of one moment."""
    return value.get("static") is True


def seconds_without_times(value: Record, count: int, source: str) -> list[float]:
    """Times of ``count`` pictures that state none: 0, for photographs of one moment; consecutive at
    ``fps`` where the file gives a rate and does not say that it is static.
    """
    fps = None if is_static(value) else rate(value, source)
    return [0.0] * count if fps is None else [i / fps for i in range(count)]


def rate(value: Record, source: str) -> float | None:
    """Frames per second of a file's field ``fps``; None where it has none."""
    fps = number(value, "fps", source) if value.get("fps") is not None else None
    if fps is not None and fps <= 0:
        raise InputError(f"{source}: fps is {fps}, expected frames per second above 0.")
    return fps


def unique_names(files: Sequence[Path], root: Path, where: str) -> list[str]:
    """File names without suffix; where two agree, paths relative to ``root``. A repeated file is an
    error.
    """
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [file.relative_to(root).with_suffix("").as_posix() for file in files]
    if len(set(names)) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{where}: clip {repeated!r} is listed twice; list every clip once.")
    return names


def _camera_name(frame: Record, key: str, where: str) -> str:
    name = frame.get(key)
    return str(name) if isinstance(name, int) else text(frame, key, where)


def _distinct(folders: Sequence[str]) -> bool:
    """Whether different folders have different names."""
    whole = set(folders)
    return len({Path(folder).name for folder in whole}) == len(whole)


def _get(parent: Record, key: str, where: str) -> Any:
    if key not in parent:
        raise InputError(
            f"{where} lacks the field {key!r}; found {', '.join(list(parent)[:8]) or 'nothing'}."
        )
    return parent[key]


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
