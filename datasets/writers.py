"""Any clip as a folder that others read: undistorted pictures as PNG files, and their cameras as an
FSM clip, a ``transforms.json`` (nerfstudio and others) or a COLMAP model.

What is written is read back with the same cameras, to 1e-6, and the same pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from fsm.datasets.base import Clip
from fsm.datasets.conventions import inverse, opengl_from_opencv, quaternions
from fsm.errors import InputError
from fsm.files import atomic_folder, slug, write_json
from fsm.runs import tracked

Format = Literal["fsm", "transforms", "colmap"]
EXACT = 1e-6  # seconds up to which a time counts as a frame number over a rate
TICKS = 1_000_000.0  # frames per second where times keep no rate: frame numbers are microseconds


def write_clip(clip: Clip, folder: Path, format: Format) -> list[str]:
    """Write all frames of ``clip`` into a new folder, and return what the format cannot hold.

    Raises ``InputError`` for pixels that cannot be read.
    """
    lost = _lost(clip, format)
    with atomic_folder(folder) as target:
        names = _names(clip)
        masks = _write_pictures(clip, target, names)
        write: dict[Format, Callable[[Clip, Path, list[str], bool], None]] = {
            "fsm": _write_fsm,
            "transforms": _write_transforms,
            "colmap": _write_colmap,
        }
        write[format](clip, target, names, masks)
    return lost


def _lost(clip: Clip, format: Format) -> list[str]:
    lost = []
    if format == "colmap" and not clip.static:
        lost.append("times: a COLMAP model has none, so it is read as a static capture")
    if format == "colmap" and clip.index_plan is not None:
        lost.append("the split into inputs and targets")
    if format != "transforms" and clip.views([0]).mask is not None:
        lost.append("masks (they are written beside the pictures)")
    return lost


def _names(clip: Clip) -> list[str]:
    """A file name for every frame: in a folder of its own for every camera of a rig."""
    several = len(set(clip.camera_ids)) > 1 and not clip.static
    return [
        f"{slug(camera)}/{i:05d}.png" if several else f"{i:05d}.png"
        for i, camera in enumerate(clip.camera_ids)
    ]


def _write_pictures(clip: Clip, folder: Path, names: list[str]) -> bool:
    """Write pictures and masks; whether there are masks."""
    import cv2

    masked = False
    for i, name in enumerate(tracked(names, "Writing pictures", len(names))):
        view = clip.views([i])
        assert view.rgb is not None
        rgb = (view.rgb[0] * 255.0).round().byte().permute(1, 2, 0).numpy()
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        if view.mask is not None:
            masked = True
            path = folder / "masks" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, view.mask[0, 0].numpy().astype(np.uint8) * 255)
    return masked


def _save(path: Path, picture: np.ndarray) -> None:
    import cv2

    if not cv2.imwrite(str(path), picture):
        raise InputError(f"{path} could not be written; is there room on the disk?")


def _poses(clip: Clip) -> Float64[np.ndarray, "f 4 4"]:
    """Camera-to-world."""
    return clip.cameras.c2w.double().numpy()


def _lens(clip: Clip, i: int) -> list[float]:
    return [float(x) for x in clip.cameras.intrinsics[i].double()]


def _write_fsm(clip: Clip, folder: Path, names: list[str], masks: bool) -> None:
    (h, w), w2c = clip.cameras.hw, inverse(_poses(clip))
    numbers, fps = frame_numbers(clip)
    value: dict[str, Any] = {"scene_name": clip.id, "fps": fps}
    if clip.static:
        value["static"] = True
    if clip.index_plan is not None:
        value["index_plan"] = {
            "input_index": list(clip.index_plan.input_index),
            "target_index": list(clip.index_plan.target_index),
        }
    frames = []
    for i, name in enumerate(names):
        fx, fy, cx, cy = _lens(clip, i)
        frame = {"frame_idx": numbers[i], "file_path": f"images/{name}", "w2c": w2c[i].tolist()}
        frame |= {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "h": h, "w": w}
        frames.append(frame | {"camera": clip.camera_ids[i]})
    write_json(folder / "clip.json", {**value, "frames": frames})


def frame_numbers(clip: Clip) -> tuple[list[int], float]:
    """Frame numbers and a rate that give the clip's times: at its own rate where they lie on its
    frames, else microseconds.
    """
    times = clip.cameras.time.double().numpy()
    for fps in (clip.fps, TICKS):
        if fps is not None:
            numbers = np.round(times * fps)
            if np.abs(numbers / fps - times).max() <= EXACT or fps == TICKS:
                return numbers.astype(int).tolist(), fps
    return list(range(len(clip))), 1.0


def _write_transforms(clip: Clip, folder: Path, names: list[str], masks: bool) -> None:
    (h, w), c2w = clip.cameras.hw, opengl_from_opencv(_poses(clip))
    value: dict[str, Any] = {"camera_model": "PINHOLE", "w": w, "h": h}
    if clip.static:
        value["static"] = True
    elif clip.fps is not None:
        value["fps"] = clip.fps
    frames = []
    for i, name in enumerate(names):
        fx, fy, cx, cy = _lens(clip, i)
        frame: dict[str, Any] = {"file_path": f"images/{name}"}
        if masks:
            frame["mask_path"] = f"masks/{name}"
        frame |= {"transform_matrix": c2w[i].tolist(), "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        if not clip.static:
            frame |= {"time": float(clip.cameras.time[i]), "camera": clip.camera_ids[i]}
        frames.append(frame)
    if clip.index_plan is not None:
        for key, index in (
            ("train_filenames", clip.index_plan.input_index),
            ("test_filenames", clip.index_plan.target_index),
        ):
            value[key] = [f"images/{names[i]}" for i in index]
    write_json(folder / "transforms.json", {**value, "frames": frames})


def _write_colmap(clip: Clip, folder: Path, names: list[str], masks: bool) -> None:
    (h, w), w2c = clip.cameras.hw, inverse(_poses(clip))
    quats = quaternions(w2c[:, :3, :3])
    lenses = [tuple(_lens(clip, i)) for i in range(len(clip))]
    number = {lens: k + 1 for k, lens in enumerate(dict.fromkeys(lenses))}
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    cameras = [f"{k} PINHOLE {w} {h} {_row(lens)}" for lens, k in number.items()]
    images = []
    for i, name in enumerate(names):
        images += [f"{i + 1} {_row(quats[i])} {_row(w2c[i, :3, 3])} {number[lenses[i]]} {name}", ""]
    for file, lines in (("cameras", cameras), ("images", images), ("points3D", [])):
        (model / f"{file}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def _row(values) -> str:
    return " ".join(repr(float(v)) for v in values)
