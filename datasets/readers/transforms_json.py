"""``transforms.json`` and its relatives: nerfstudio, instant-ngp, DL3DV, Blender, D-NeRF; our
per-frame ``time``.
"""

from pathlib import Path, PurePosixPath

import numpy as np

from fsm.datasets.base import IndexPlan, checked_cameras, checked_poses
from fsm.datasets.conventions import focal_from_fov, opencv_from_opengl
from fsm.datasets.readers.fields import (
    Record,
    camera_names,
    inside,
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
from fsm.errors import InputError
from fsm.files import read_json

SPLITS = ("train", "val", "test")
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
SMALLER = ("images_2", "images_4", "images_8", "images_16")


class Transforms:
    """A folder with ``transforms.json``, or with ``transforms_train.json`` and others, or one such
    file.

    Splits become one clip each, on one clock. Poses are camera-to-world with OpenGL axes. ``time``
    (or ``timestamp``) of each frame is in seconds, or in units of ``time_unit`` seconds where the
    file says so; D-NeRF's 0..1 counts as seconds. Frames without times are photographs of one
    moment, in the order of their names, or frames of a film where the file states ``fps``.
    ``camera`` names who took a frame; frames of several cameras may share moments.
    """

    def __init__(self, path: Path | str, fix_poses: bool = False) -> None:
        path = Path(path)
        self.path, self.fix_poses = path, fix_poses
        self._splits = path.is_dir() and not (path / "transforms.json").is_file()
        if not path.is_dir():
            self._files = {
                path.parent.resolve().name if path.stem == "transforms" else path.stem: path
            }
        elif self._splits:
            named = {split: path / f"transforms_{split}.json" for split in SPLITS}
            self._files = {split: file for split, file in named.items() if file.is_file()}
        else:
            self._files = {path.resolve().name: path / "transforms.json"}
        if not self._files:
            raise InputError(
                f"{path} holds neither transforms.json nor transforms_train.json; check the path."
            )

    @property
    def ids(self) -> tuple[str, ...]:
        """The folder's name, or the names of the splits."""
        return tuple(self._files)

    def __len__(self) -> int:
        """Number of clips."""
        return len(self._files)

    def clip(self, id: str) -> ImageClip:
        """Open one clip; times of splits count from a common zero, so that a view of one can be
        asked of another.
        """
        if id not in self._files:
            raise InputError(f"{self.path} has no clip {id!r}; it has {', '.join(self.ids)}.")
        return read_transforms(
            id, self._files[id], self.fix_poses, time_start=0.0 if self._splits else None
        )


def read_transforms(
    id: str, path: Path, fix_poses: bool = False, time_start: float | None = None
) -> ImageClip:
    """One transforms file as a clip: undistorted pinhole pictures, intrinsics scaled to the images
    found.
    """
    source = str(path)
    value = record(read_json(path), source)
    model = value.get("camera_model", "OPENCV")
    if model not in PINHOLE_MODELS or value.get("is_fisheye"):
        raise InputError(
            f"{source}: camera_model {model!r} is not a pinhole with k1, k2, p1, p2; "
            "undistort the pictures first."
        )
    fps = rate(value, source)
    frames = records(value, "frames", source)
    times = _times(value, frames, source)
    name_of = [text(f, "file_path", f"{source}: frames[{i}]") for i, f in enumerate(frames)]
    order = sorted(
        range(len(frames)), key=(lambda i: name_of[i]) if times is None else (lambda i: times[i])
    )
    root = path.parent
    images = [_image(root, name_of[i], f"{source}: frames[{i}].file_path") for i in order]
    hw = image_size(images[0])
    lenses = [read_lens({**value, **frames[i]}, hw, f"{source}: frames[{i}]") for i in order]
    poses = np.stack(
        [matrix(frames[i], "transform_matrix", f"{source}: frames[{i}]") for i in order]
    )
    poses = checked_poses(poses, source, "transform_matrix", fix_poses)
    time = (
        seconds_without_times(value, len(order), source)
        if times is None
        else [times[i] for i in order]
    )
    pinholes = {lens: lens.undistorted(hw) for lens in set(lenses)}
    intrinsics = np.stack([pinholes[lens] for lens in lenses])
    cameras = checked_cameras(
        opencv_from_opengl(poses), intrinsics, np.array(time), hw, source, time_start=time_start
    )
    masks = _masks(root, [frames[i] for i in order], source)
    plan = _plan(value, [name_of[i] for i in order], source)
    rig = camera_names(
        [frames[i] for i in order], images, time, [f"{source}: frames[{i}]" for i in order]
    )
    return ImageClip(id, source, cameras, images, masks, lenses, fps, plan, camera_ids=rig)


def _times(value: Record, frames: list[Record], source: str) -> list[float] | None:
    key = next((k for k in ("time", "timestamp") if any(k in f for f in frames)), None)
    if key is None or is_static(value):
        return None
    unit = number(value, "time_unit", source) if "time_unit" in value else 1.0
    if unit <= 0:
        raise InputError(
            f"{source}: time_unit is {unit}, expected the number of seconds in one unit of time."
        )
    return [number(f, key, f"{source}: frames[{i}]") * unit for i, f in enumerate(frames)]


def read_lens(values: Record, hw: tuple[int, int], where: str) -> Lens:
    """Intrinsics of one frame (fl_x, cx, k1, w ...), scaled from the stated size to the picture's,
    ``hw``.
    """

    def get(key: str, default: float) -> float:
        return number(values, key, where) if key in values else default

    for key in ("k4", "k5", "k6"):
        if get(key, 0.0) != 0.0:
            raise InputError(
                f"{where}: {key} is {values[key]}, and only k1, k2, k3, p1, p2 are "
                "understood; undistort first."
            )
    w, h = get("w", float(hw[1])), get("h", float(hw[0]))
    if w <= 0 or h <= 0 or abs(h * hw[1] - w * hw[0]) > 2.0 * max(h, w):
        raise InputError(
            f"{where} states a size of {w:g} x {h:g}, but its picture is {hw[1]} x "
            f"{hw[0]}; check w and h."
        )
    if "fl_x" in values:
        fx = get("fl_x", 0.0)
    elif "camera_angle_x" in values:
        fx = focal_from_fov(number(values, "camera_angle_x", where), w)
    else:
        raise InputError(
            f"{where} has neither fl_x nor camera_angle_x; add the focal length in pixels as fl_x."
        )
    fy = get("fl_y", fx)
    if "fl_y" not in values and "fl_x" not in values and "camera_angle_y" in values:
        fy = focal_from_fov(number(values, "camera_angle_y", where), h)
    sx, sy = hw[1] / w, hw[0] / h
    pinhole = (fx * sx, fy * sy, get("cx", 0.5 * w) * sx, get("cy", 0.5 * h) * sy)
    return Lens(
        pinhole, (get("k1", 0.0), get("k2", 0.0), get("p1", 0.0), get("p2", 0.0), get("k3", 0.0))
    )


def _image(root: Path, name: str, where: str) -> Path:
    """The picture as named, with an extension added (Blender), or in a folder of reduced copies
    (DL3DV: images_4).
    """
    folder, *rest = PurePosixPath(name).parts or ("",)
    names = [name, *(name + suffix for suffix in (".png", ".jpg", ".jpeg"))]
    if folder == "images":
        names += [str(PurePosixPath(smaller, *rest)) for smaller in SMALLER]
    try:
        found = next((n for n in names if (root / n).is_file()), name)
    except (OSError, ValueError):
        found = name  # refused with a reason below
    return inside(root, root, found, where, by_name=False)


def _masks(root: Path, frames: list[Record], source: str) -> list[Path] | None:
    named = ["mask_path" in f for f in frames]
    if not any(named):
        return None
    if not all(named):
        lacking = frames[named.index(False)].get("file_path")
        raise InputError(
            f"{source}: frame {lacking!r} lacks mask_path, others have one; give all "
            "frames a mask or none."
        )
    where = f"{source}: mask_path"
    return [inside(root, root, text(f, "mask_path", source), where, by_name=False) for f in frames]


def _plan(value: Record, names: list[str], source: str) -> IndexPlan | None:
    """Inputs and targets from ``train_filenames`` and ``test_filenames`` (or ``val_filenames``)."""
    held_out = next((k for k in ("test_filenames", "val_filenames") if value.get(k)), None)
    if held_out is None or not value.get("train_filenames"):
        return None
    place = {name: i for i, name in enumerate(names)}
    chosen = []
    for key in ("train_filenames", held_out):
        listed = value[key] if isinstance(value[key], list) else []
        unknown = [name for name in listed if not isinstance(name, str) or name not in place]
        if unknown or not listed:
            raise InputError(
                f"{source}: {key} names {unknown[:1]}, which no frame has as file_path; "
                "list file_path values."
            )
        chosen.append(tuple(sorted({place[name] for name in listed})))
    return IndexPlan(*chosen)
