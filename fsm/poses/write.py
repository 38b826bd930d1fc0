"""The clip that found cameras make: our clip format beside undistorted pictures."""

import hashlib
from pathlib import Path
from typing import Any

from fsm.errors import InputError
from fsm.files import read_json, write_json
from fsm.poses.pictures import Pictures, photos_in

CLIP = "clip.json"


def write_clip(
    folder: Path, source: Path, pictures: Pictures, frames: list[dict[str, Any]], metric: bool
) -> None:
    """Write ``clip.json`` for undistorted ``frames`` whose pictures lie in ``folder/images``.

    Raises ``InputError`` where their sizes differ.
    """
    numbers = {p.name: p.number for p in pictures.items}
    sizes = sorted({tuple(f["hw"]) for f in frames})
    if len(sizes) > 1:
        shown = ", ".join(f"{w} x {h}" for h, w in sizes[:4])
        raise InputError(
            f"{source}: undistorted pictures are of several sizes ({shown}); a clip has one, so "
            "take the photos of one camera."
        )
    entries = []
    for frame in sorted(frames, key=lambda f: numbers[f["name"]]):
        fx, fy, cx, cy = frame["params"]
        entry = {
            "frame_idx": numbers[frame["name"]],
            "file_path": f"images/{frame['name']}",
            "w2c": frame["w2c"],
            "fx": fx,
            "fy": fy,
            "cx": cx,
            "cy": cy,
            "h": frame["hw"][0],
            "w": frame["hw"][1],
        }
        entries.append(entry)
    value: dict[str, Any] = {"scene_name": source.stem, "unit": "metre" if metric else "unknown"}
    value["made_from"] = _stamp(source)
    if pictures.is_film:
        value["fps"] = pictures.fps
    else:
        value["static"] = True
    write_json(folder / CLIP, {**value, "frames": entries})


def made_from(folder: Path, source: Path) -> bool:
    """Whether ``folder`` is a clip that was made from the files of ``source`` as they are now."""
    file = folder / CLIP
    if not file.is_file() or not (folder / "sparse").is_dir():
        return False
    value = read_json(file)
    return isinstance(value, dict) and value.get("made_from") == _stamp(source)


def _stamp(source: Path) -> str:
    """A hash of names, sizes and times of change of the files of a film or of photos."""
    files = [source] if source.is_file() else photos_in(source)
    about = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]
