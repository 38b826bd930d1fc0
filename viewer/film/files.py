"""What a film tab sends to the browser and takes from it: a rendered film, a saved path, a loaded
one.
"""

import contextlib
import re
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fsm.errors import InputError
from fsm.renderers.film.film import FRAMES, VIDEO, write_film
from fsm.viewer.film.keyframes import FilmPlan
from fsm.viewer.film.plan_json import read_plan, write_plan

Kind = Literal["mp4", "PNG sequence"]
MAX_FILM = 1 << 30
"""Bytes: it goes to the browser in one piece."""
MAX_UPLOAD = 32_000_000
"""Bytes of a path that is loaded: hours of one."""
LOOK = 16
"""Frames between looks at how large it has become."""


@dataclass(frozen=True)
class Parcel:
    """A file for the browser."""

    name: str
    content: bytes
    note: str
    """What it is, in a few words."""


def make_film(
    plan: FilmPlan,
    kind: Kind,
    scene: Any,
    turn: AbstractContextManager[Any],
    folder: Path,
    cancelled: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> Parcel | None:
    """Render the whole plan, exactly as ``fsm render`` does; None when ``cancelled``.

    ``turn`` is held batch by batch, so that live pictures come in between; ``progress`` gets frames
    done and frames in all.
    """
    views = plan.frames()
    film = write_film(scene, views, plan.fps, folder, "mp4" if kind == "mp4" else "png", turn=turn)
    with contextlib.closing(film):
        for count in film:
            if cancelled():
                return None
            progress(count, len(views))
            if count % LOOK == 0:
                _check_size(
                    sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                )
    h, w = plan.hw
    file = folder / VIDEO if kind == "mp4" else _zipped(folder / FRAMES)
    size = file.stat().st_size
    _check_size(size)
    note = f"{_frames(len(views))} of {w} x {h} px at {plan.fps:g} fps, {size / 1e6:.1f} MB"
    return Parcel("film.mp4" if kind == "mp4" else "film.zip", file.read_bytes(), note)


def save_path(plan: FilmPlan, time_range: tuple[float, float], folder: Path) -> Parcel:
    """The plan as ``camera_path.json``."""
    file = folder / "camera_path.json"
    write_plan(file, plan, time_range)
    return Parcel(
        file.name, file.read_bytes(), f"{len(plan)} keyframes, {_frames(len(plan.moments))}"
    )


def load_path(
    name: str, content: bytes, time_range: tuple[float, float], folder: Path
) -> tuple[FilmPlan, str]:
    """The plan of an uploaded file, and a sentence about it; ``InputError`` says its name, not
    where it lay.
    """
    name = re.sub(r"[^\w.-]", "_", Path(name).name)[:80] or "the file"
    file = folder / "uploaded.json"
    file.write_bytes(content)
    try:
        plan, message = read_plan(file, time_range)
    except InputError as error:
        raise InputError(str(error).replace(str(file), name)) from error
    return plan, f"{name}: {message}."


def _zipped(folder: Path) -> Path:
    """One file of all in ``folder``; stored, as pictures are compressed already."""
    file = folder.parent / "film.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for entry in sorted(folder.iterdir()):
            archive.write(entry, f"film/{entry.name}")
    return file


def _check_size(size: int) -> None:
    if size > MAX_FILM:
        raise InputError(
            f"the film is larger than {MAX_FILM >> 20} MB, too large to send; save the "
            "path and use fsm render --path."
        )


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
