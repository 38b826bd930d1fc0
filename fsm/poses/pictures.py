"""The pictures that cameras are sought for: chosen frames of a film, or photos of a folder, written
upright into a folder of their own.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsm.datasets.open import FILMS, PHOTOS
from fsm.datasets.readers.video import VideoFrames
from fsm.errors import InputError
from fsm.runs import tracked

if TYPE_CHECKING:
    from PIL.Image import Image

LOOKED_AT = 1200  # most frames of a film that are compared before some are chosen
SMALL = 160  # pixels of the longer side of the pictures that are compared
STILL = 0.25  # pixels of motion at that size that every frame counts for, however still it is
QUALITY = 95
FULL_FRAME = 36.0  # millimetres across, to which EXIF's equivalent focal length refers
FOCAL_35, EXIF = 0xA405, 0x8769  # tags


@dataclass(frozen=True)
class Picture:
    """One picture that a camera is sought for."""

    name: str
    """File name below the folder of pictures; its folder is its camera."""
    number: int
    """Frame of the film, or place among the photos."""
    focal: float | None = None
    """Focal length in pixels that its EXIF data state."""


@dataclass(frozen=True)
class Pictures:
    """What cameras are sought for."""

    folder: Path
    items: tuple[Picture, ...]
    fps: float | None
    """Of a film; None: photos, which may have been taken in any order."""

    @property
    def is_film(self) -> bool:
        """Whether they are frames of a film, in order."""
        return self.fps is not None

    @property
    def cameras(self) -> dict[str, list[Picture]]:
        """Pictures by the folder they lie in, which is a camera."""
        groups: dict[str, list[Picture]] = {}
        for item in self.items:
            groups.setdefault(os.path.dirname(item.name), []).append(item)
        return groups


def is_film(path: Path) -> bool:
    """Whether a file is named as films are."""
    return path.is_file() and path.suffix.lower() in FILMS


def photos_in(folder: Path) -> list[Path]:
    """Photos of a folder and of the folders in it, by name."""
    found = [*folder.iterdir(), *(f for d in folder.iterdir() if d.is_dir() for f in d.iterdir())]
    return sorted(f for f in found if f.suffix.lower() in PHOTOS and f.is_file())


def from_film(path: Path, folder: Path, count: int) -> Pictures:
    """At most ``count`` frames of a film, sharp ones and about as much motion apart from one to the
    next, upright as JPEG files.

    Raises ``InputError`` for a film that cannot be read, and for one of fewer than three frames.
    """
    video = VideoFrames(path, upright=True)
    if len(video) < 3:
        raise InputError(f"{path} has {len(video)} frames; cameras are found from at least three.")
    step = max(1, len(video) // LOOKED_AT)
    numbers = list(range(0, len(video), step))
    sharpness, motion = _looked_at(video, numbers)
    chosen = [numbers[i] for i in choose(sharpness, motion, count)]
    items = []
    for number, picture in zip(chosen, video.stream(chosen), strict=True):
        items.append(Picture(f"{number:06d}.jpg", number))
        _save(_image(picture.permute(1, 2, 0).numpy()), folder / items[-1].name)
    return Pictures(folder, tuple(items), video.fps or 30.0)


def from_photos(path: Path, folder: Path, separate: bool, fps: float | None = None) -> Pictures:
    """All photos of a folder, upright; those of each folder in it are one camera where
    ``separate``, else all are. With ``fps`` they are the frames of a film in the order of their
    names.

    Raises ``InputError`` where there are fewer than three, and where photos of one camera differ in
    size.
    """
    from PIL import Image, ImageOps

    files = photos_in(path)
    if len(files) < 3:
        raise InputError(
            f"{path} holds {len(files)} photos; cameras are found from at least three. "
            f"Photos end in {', '.join(PHOTOS)}."
        )
    items, sizes = [], {}
    for i, file in enumerate(tracked(files, "Reading photos", len(files))):
        relative = file.relative_to(path)
        name = str(relative) if separate else "_".join(relative.parts)
        try:
            with Image.open(file) as stored:
                image = ImageOps.exif_transpose(stored)
                focal = stated_focal(stored)
                size = sizes.setdefault(os.path.dirname(name), (image.size, relative))
                if size[0] != image.size:
                    raise InputError(
                        f"{file} is {image.size[0]} x {image.size[1]} pixels, but {size[1]} is "
                        f"{size[0][0]} x {size[0][1]}; put the photos of each camera into a folder "
                        "of its own and pass --cameras folder, or bring them to one size."
                    )
                name = str(Path(name).with_suffix(".jpg"))
                _save(image.convert("RGB"), folder / name)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(f"{file} cannot be read as a photo; remove or replace it.") from error
        items.append(Picture(name, i, focal))
    return Pictures(folder, tuple(items), fps)


def stated_focal(image: "Image") -> float | None:
    """Focal length in pixels of the upright photo, from the equivalent focal length in EXIF."""
    try:
        value = float(image.getexif().get_ifd(EXIF).get(FOCAL_35, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return value / FULL_FRAME * max(image.size) if 1 < value < 2000 else None


def choose(sharpness: np.ndarray, motion: np.ndarray, count: int) -> list[int]:
    """Places of at most ``count`` frames: as much ``motion`` lies between one and the next, and of
    the frames about each such place the sharpest is taken.

    ``motion[i]`` is that from frame i to the next; the first and last frames bound the choice.
    """
    n = len(sharpness)
    if n <= count:
        return list(range(n))
    way = np.concatenate([[0.0], np.cumsum(motion[: n - 1] + STILL)])
    edges = np.searchsorted(way, np.linspace(0.0, way[-1], count + 1)[1:-1])
    chosen = []
    for start, stop in zip([0, *edges], [*edges, n], strict=True):
        if stop > start:
            chosen.append(int(start + np.argmax(sharpness[start:stop])))
    return chosen


def _looked_at(video: VideoFrames, numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness of frames (variance of the Laplacian), and median motion to the next in pixels."""
    import cv2

    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # pyright: ignore[reportAttributeAccessIssue]
    sharp, moved, last = [], [], None
    for grey in tracked(_greys(video, numbers), "Choosing frames", len(numbers)):
        sharp.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()))
        if last is not None:
            moved.append(float(np.median(np.linalg.norm(flow.calc(last, grey, None), axis=-1))))
        last = grey
    return np.array(sharp), np.array([*moved, 0.0])


def _greys(video: VideoFrames, numbers: list[int]) -> Iterator[np.ndarray]:
    import cv2

    for picture in video.stream(numbers):
        rgb = picture.permute(1, 2, 0).numpy()
        scale = SMALL / max(rgb.shape[:2])
        size = (max(16, round(rgb.shape[1] * scale)), max(16, round(rgb.shape[0] * scale)))
        yield cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)


def _image(rgb: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(rgb)


def _save(image: "Image", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=QUALITY, subsampling=0)
