"""Nerfies, HyperNeRF and DyCheck iPhone captures: ``dataset.json``, ``camera/*.json`` and pictures
at several scales.

A camera holds ``orientation`` (world-to-camera rotation, OpenCV axes), ``position`` (its centre),
``focal_length``, ``pixel_aspect_ratio``, ``skew``, ``principal_point`` and distortion, for pictures
of ``image_size``. ``metadata.json`` gives time (``warp_id``, or ``time_id``) and ``camera_id``.
Poses stay in the file's own space; ``scene.json`` is not applied.
"""

from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip, IndexPlan, checked_cameras
from fsm.datasets.conventions import inverse
from fsm.datasets.readers.fields import Record, integer, number, record
from fsm.datasets.readers.images import ImageClip, Lens, image_size
from fsm.errors import InputError
from fsm.files import read_json

SCALES = (1, 2, 4, 8, 16)
DEFAULT_FPS = 15.0
"""Frames per second that are taken where ``extra.json`` states none."""
TIMES, CAMERAS = ("warp_id", "time_id"), ("camera_id", "camera")


def is_nerfies(path: Path) -> bool:
    """Whether a folder is laid out in this way."""
    return (path / "dataset.json").is_file() and (path / "camera").is_dir()


def read_nerfies(id: str, path: Path) -> Clip:
    """The clip of such a folder; its training ids are inputs, its validation ids targets."""
    source = str(path / "dataset.json")
    value = record(read_json(path / "dataset.json"), source)
    ids = _names(value, "ids", source)
    about = record(read_json(path / "metadata.json"), str(path / "metadata.json"))
    scale, images = _pictures(path, ids)
    cameras = [_camera(path / "camera" / f"{name}.json", scale) for name in ids]
    wheres = [f"{path / 'metadata.json'}: {name}" for name in ids]
    entries = [record(about.get(n), w) for n, w in zip(ids, wheres, strict=True)]
    moments = [_first(e, TIMES, w) for e, w in zip(entries, wheres, strict=True)]
    rig = [str(_first(e, CAMERAS, w)) for e, w in zip(entries, wheres, strict=True)]
    hw = image_size(images[0])
    rate = _rate(path)
    intrinsics = np.stack([lens.undistorted(hw) for _, lens in cameras])
    w2c = np.stack([pose for pose, _ in cameras])
    views = checked_cameras(inverse(w2c), intrinsics, np.array(moments) / rate, hw, source)
    plan = None
    if value.get("val_ids"):
        place = {name: i for i, name in enumerate(ids)}
        train, held = _names(value, "train_ids", source), _names(value, "val_ids", source)
        lost = [n for n in (*train, *held) if n not in place]
        if lost:
            raise InputError(f"{source}: {lost[0]!r} is in a split, but not in ids.")
        plan = IndexPlan(tuple(place[n] for n in train), tuple(place[n] for n in held))
    lenses = [lens for _, lens in cameras]
    return ImageClip(
        id, source, views, images, lenses=lenses, fps=rate, index_plan=plan, camera_ids=rig
    )


def _pictures(path: Path, ids: list[str]) -> tuple[int, list[Path]]:
    """The largest scale that is there, and the pictures of ``ids``."""
    scale = next((s for s in SCALES if (path / "rgb" / f"{s}x").is_dir()), None)
    if scale is None:
        raise InputError(f"{path} has no pictures; they belong into rgb/1x, rgb/2x, ...")
    files = [path / "rgb" / f"{scale}x" / f"{name}.png" for name in ids]
    for file in files:
        if not file.resolve().is_relative_to(path.resolve()) or not file.is_file():
            raise InputError(f"{file} does not exist; dataset.json names it.")
    return scale, files


def _camera(path: Path, scale: int) -> tuple[np.ndarray, Lens]:
    """World-to-camera pose, and lens in pixels of pictures at 1/``scale``."""
    source = str(path)
    value = record(read_json(path), source)
    rotation = _numbers(value, "orientation", (3, 3), source)
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ _numbers(value, "position", (3,), source)
    if abs(float(value.get("skew", 0.0))) > 1e-9:
        raise InputError(f"{source}: skew is {value['skew']}; only cameras without it are read.")
    focal = number(value, "focal_length", source) / scale
    cx, cy = _numbers(value, "principal_point", (2,), source) / scale
    aspect = float(value.get("pixel_aspect_ratio", 1.0))
    k1, k2, k3 = _numbers(value, "radial_distortion", (3,), source, zero=True)
    key = "tangential_distortion" if "tangential_distortion" in value else "tangential"
    p1, p2 = _numbers(value, key, None, source, zero=True)[:2]
    return pose, Lens((focal, focal * aspect, cx, cy), (k1, k2, p1, p2, k3))


def _numbers(
    value: Record, key: str, shape: tuple[int, ...] | None, source: str, zero: bool = False
) -> np.ndarray:
    if key not in value and zero:
        return np.zeros(shape or 2)
    try:
        found = np.array(value.get(key), dtype=np.float64)
    except (TypeError, ValueError):
        found = np.zeros(0)
    if found.size < 2 or (shape is not None and found.shape != shape):
        raise InputError(f"{source}: {key} is {value.get(key)!r:.60}, expected numbers {shape}.")
    return found


def _names(value: Record, key: str, source: str) -> list[str]:
    found = value.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
        raise InputError(f"{source}: {key} must be a list of names.")
    return found


def _first(entry: Record, keys: tuple[str, ...], where: str) -> int:
    key = next((k for k in keys if k in entry), keys[0])
    return integer(entry, key, where)


def _rate(path: Path) -> float:
    extra = path / "extra.json"
    if not extra.is_file():
        return DEFAULT_FPS
    fps = number(record(read_json(extra), str(extra)), "fps", str(extra))
    if fps <= 0:
        raise InputError(f"{extra}: fps is {fps}, expected frames per second above 0.")
    return fps
