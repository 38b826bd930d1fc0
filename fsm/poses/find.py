"""From a film or photos to a clip with cameras."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsm.errors import InputError
from fsm.files import atomic_folder
from fsm.poses.moving import moving_masks
from fsm.poses.pictures import Pictures, from_film, from_photos, is_film
from fsm.poses.place import similarity
from fsm.poses.solve import Solved, ask, available, solved
from fsm.poses.write import write_clip

LEAST_MOVING, MOST_MOVING = 0.002, 0.6  # shares of pixels between which masks are tried
WORSE = 1.05  # growth of the reprojection error up to which masks are kept
UNSURE_FOCAL = 0.02  # standard deviation over focal length, from which on it is not known


@dataclass(frozen=True)
class PoseOptions:
    """How cameras are sought."""

    frames: int = 120
    """Frames taken of a film, at most."""
    separate: bool = False
    """Photos of each folder are of a camera of their own."""
    fps: float | None = None
    """The folder holds the frames of a film, at so many a second, and not photos of one moment."""
    masks: Path | None = None
    """Folder of a mask for each picture (NAME.png or NAME.jpg.png, by the file's stem for photos
    and by frame number for films), black where nothing counts."""
    moving: bool = True
    """Mask what moves in a first solution, and solve again."""
    metres: tuple[str, str, float] | None = None
    """Two pictures by number or name, and the metres between their cameras."""


@dataclass(frozen=True)
class Found:
    """What was found."""

    asked: int
    registered: int
    error: float
    """Mean reprojection error in pixels."""
    points: int
    focals: tuple[tuple[float, float | None], ...]
    method: str
    parts: tuple[int, ...]
    moving: float | None
    """Share of pixels masked because they move; None: no masks of motion were used."""
    metric: bool

    def sentences(self) -> list[str]:
        """What a command says of it, warnings last."""
        focal = ", ".join(_focal(f, s) for f, s in self.focals[:4])
        lines = [
            f"{self.registered} of {self.asked} pictures registered, {self.points:,} points, "
            f"reprojection error {self.error:.2f} pixels; focal length {focal} ({self.method} "
            "mapping)"
        ]
        if self.moving is not None:
            lines.append(f"{self.moving:.1%} of the pixels move and were masked")
        if not self.metric:
            lines.append("the unit of length is unknown; --metres A B D sets it")
        if len(self.parts) > 1:
            others = ", ".join(str(n) for n in self.parts[1:6])
            lines.append(
                f"warning: the pictures fall into parts; this is the largest, others have {others}."
            )
        if any(s is not None and s > UNSURE_FOCAL * f for f, s in self.focals):
            lines.append(
                "warning: the focal length cannot be told from the motion (a straight or short "
                "path); give photos with EXIF data, or film on a curve."
            )
        return lines


def find_poses(source: Path, output: Path, options: PoseOptions | None = None) -> Found:
    """Write a clip of ``source``, a film or a folder of photos, into the folder ``output``:
    undistorted pictures, ``clip.json``, and COLMAP's model in ``sparse``.

    Raises ``InputError`` where cameras cannot be found, and for inputs that cannot be read.
    """
    options = PoseOptions() if options is None else options
    available()
    if options.frames < 3:
        raise InputError(f"--frames is {options.frames}; cameras are found from at least three.")
    if options.fps is not None and not 0 < options.fps <= 10_000:
        raise InputError(f"--fps is {options.fps}; give frames per second above 0.")
    if not is_film(source) and not source.is_dir():
        missing = "does not exist" if not source.exists() else "is neither a film nor a folder"
        raise InputError(f"{source} {missing}; give a film, or a folder of photos.")
    with atomic_folder(output) as target:
        work = target / "work"
        (work / "pictures").mkdir(parents=True)
        if is_film(source):
            pictures = from_film(source, work / "pictures", options.frames)
        else:
            folder = work / "pictures"
            pictures = from_photos(source, folder, options.separate, options.fps)
        solution, moving = _solve(pictures, work, options)
        scale = None if options.metres is None else _scale(solution, options.metres)
        request = {
            "task": "finish",
            "work": str(work),
            "images": str(pictures.folder),
            "model": str(solution.path),
            "output": str(target),
            "similarity": similarity(np.linalg.inv(solution.w2c), scale).tolist(),
        }
        write_clip(target, source, pictures, ask(request, work)["frames"], scale is not None)
        shutil.rmtree(work)
    return Found(
        len(pictures.items),
        len(solution.names),
        solution.error,
        solution.points,
        solution.focals,
        solution.method,
        solution.parts,
        moving,
        scale is not None,
    )


def _solve(pictures: Pictures, work: Path, options: PoseOptions) -> tuple[Solved, float | None]:
    """The solution, and the share of pixels that were masked because they move."""
    threads = os.cpu_count() or 1
    given = None if options.masks is None else _given_masks(pictures, options.masks, work / "given")
    first = solved(pictures, work, threads, given)
    if given is not None or not options.moving or not pictures.is_film:
        return first, None
    share = moving_masks(first, pictures.folder, work / "masks")
    if not LEAST_MOVING <= share <= MOST_MOVING:
        return first, None
    kept = work / "first"
    shutil.move(first.path, kept)
    first = Solved(**{**first.__dict__, "path": kept})
    try:
        second = solved(pictures, work, threads, work / "masks")
    except InputError:  # too little stands to find cameras by
        return first, None
    better = len(second.names) >= len(first.names) and second.error <= WORSE * first.error
    return (second, share) if better else (first, None)


def _given_masks(pictures: Pictures, folder: Path, output: Path) -> Path:
    """The masks of a user, under the names that COLMAP expects; upright pictures need upright
    masks.
    """
    from PIL import Image

    for item in pictures.items:
        path = Path(item.name)
        names = [f"{path}.png", str(path.with_suffix(".png")), f"{item.number}.png"]
        found = next((folder / n for n in names if (folder / n).is_file()), None)
        if found is None:
            raise InputError(
                f"--masks: {folder} has no mask for {item.name}; it would be {names[1]}."
            )
        with Image.open(found) as mask, Image.open(pictures.folder / item.name) as picture:
            if mask.size != picture.size:
                raise InputError(
                    f"--masks: {found} is {mask.size[0]} x {mask.size[1]} pixels, its picture "
                    f"{picture.size[0]} x {picture.size[1]}; bring it to that size."
                )
        target = output / f"{item.name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
    return output


def _scale(solution: Solved, metres: tuple[str, str, float]) -> float:
    """Metres per unit of a solution."""
    centres = np.linalg.inv(solution.w2c)[:, :3, 3]
    places = [_place(solution, name) for name in metres[:2]]
    apart = float(np.linalg.norm(centres[places[0]] - centres[places[1]]))
    if apart <= 1e-9 or not metres[2] > 0:
        raise InputError(
            f"--metres {' '.join(str(m) for m in metres)}: the two cameras must stand apart, by "
            "more than 0 metres."
        )
    return metres[2] / apart


def _place(solution: Solved, name: str) -> int:
    for i, found in enumerate(solution.names):
        stem = Path(found).stem
        if name in (found, stem) or (
            name.isdecimal() and stem.isdecimal() and int(stem) == int(name)
        ):
            return i
    raise InputError(
        f"--metres: no picture {name!r} was registered; there are {solution.names[0]} to "
        f"{solution.names[-1]}."
    )


def _focal(focal: float, spread: float | None) -> str:
    return f"{focal:.1f}" + ("" if spread is None else f" ± {spread:.1f}") + " pixels"
