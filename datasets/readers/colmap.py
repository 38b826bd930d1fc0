"""COLMAP models, binary and text, beside their pictures: a static capture.

Poses are world-to-camera, quaternions wxyz, OpenCV axes; the centre of the first pixel is at (0.5,
0.5). Points are not read.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.conventions import inverse, rotations
from fsm.datasets.readers.fields import inside
from fsm.datasets.readers.images import ImageClip, Lens
from fsm.datasets.readers.single import fitted
from fsm.errors import InputError

PLACES = (".", "sparse/0", "sparse", "colmap/sparse/0")
IMAGES = ("images", "../images", "../../images", "../../../images", ".")
# Number and parameters of the camera models.
MODELS = {
    "SIMPLE_PINHOLE": (0, 3), "PINHOLE": (1, 4), "SIMPLE_RADIAL": (2, 4), "RADIAL": (3, 5),
    "OPENCV": (4, 8), "OPENCV_FISHEYE": (5, 8), "FULL_OPENCV": (6, 12), "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4), "RADIAL_FISHEYE": (9, 5), "THIN_PRISM_FISHEYE": (10, 12),
}  # fmt: skip
NAMES = {number: name for name, (number, _) in MODELS.items()}
MOST = 10_000_000  # cameras or images that a header may declare
LONGEST = 4096  # bytes of a name


@dataclass(frozen=True)
class Camera:
    """A lens with the size of its pictures."""

    model: str
    hw: tuple[int, int]
    params: tuple[float, ...]

    def lens(self, where: str) -> Lens:
        """In OpenCV's numbers. ``InputError`` for lenses that these cannot hold."""
        p = self.params
        if self.model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
            return Lens((p[0], p[0], p[1], p[2]), _padded(p[3:]))
        if self.model in ("PINHOLE", "OPENCV"):
            return Lens((p[0], p[1], p[2], p[3]), _padded(p[4:]))
        if self.model == "FULL_OPENCV" and not any(p[9:]):
            return Lens((p[0], p[1], p[2], p[3]), _padded(p[4:9]))
        raise InputError(
            f"{where} has camera model {self.model}, which is not undistorted here; run "
            "colmap image_undistorter and open what it writes."
        )


def model_folder(path: Path) -> Path | None:
    """The folder in ``path`` that holds a COLMAP model."""
    for place in PLACES:
        folder = path / place
        for kind in ("bin", "txt"):
            if all((folder / f"{name}.{kind}").is_file() for name in ("cameras", "images")):
                return folder
    return None


def read_colmap(id: str, path: Path) -> Clip:
    """The clip of a folder with a model: all its registered images, by name."""
    folder = model_folder(path)
    assert folder is not None, "recognised by its model"
    kind = "bin" if (folder / "cameras.bin").is_file() else "txt"
    source = str(folder / f"images.{kind}")
    try:
        read = (_binary_cameras, _binary_images) if kind == "bin" else (_text_cameras, _text_images)
        cameras = dict(read[0](folder / f"cameras.{kind}"))
        images = sorted(read[1](folder / f"images.{kind}"), key=lambda image: image[0])
    except (struct.error, ValueError, IndexError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{folder} is no whole COLMAP model ({error}); copy it again.") from error
    if not images:
        raise InputError(f"{source} has no images; a clip needs at least one.")
    for name, camera, _ in images:
        if camera not in cameras:
            raise InputError(f"{source}: {name} has camera {camera}, which cameras.{kind} lacks.")
    files = _files(path, folder, [name for name, _, _ in images], source)
    used = [cameras[camera] for _, camera, _ in images]
    if len({c.hw for c in used}) > 1:
        raise InputError(
            f"{source} has pictures of several sizes; a clip has one, so take those of one camera."
        )
    lenses = [c.lens(f"{folder}: camera {k}") for c, (_, k, _) in zip(used, images, strict=True)]
    size = float(used[0].hw[0]), float(used[0].hw[1])
    pinholes, hw = fitted(np.array([lens.pinhole for lens in lenses]), size, files)
    lenses = [
        Lens((p[0], p[1], p[2], p[3]), lens.distortion)
        for p, lens in zip(pinholes.tolist(), lenses, strict=True)
    ]
    straight = {lens: lens.undistorted(hw) for lens in set(lenses)}
    intrinsics = np.stack([straight[lens] for lens in lenses])
    numbers = np.array([n for _, _, n in images])
    w2c = np.tile(np.eye(4), (len(images), 1, 1))
    w2c[:, :3, :3], w2c[:, :3, 3] = rotations(numbers[:, :4]), numbers[:, 4:]
    c2w = inverse(w2c)
    views = checked_cameras(c2w, intrinsics, np.zeros(len(images)), hw, source)
    return ImageClip(id, source, views, files, lenses=lenses)


def _files(path: Path, folder: Path, names: list[str], source: str) -> list[Path]:
    """The pictures of the model's images."""
    for place in IMAGES:
        base = path / place if place == "images" else folder / place
        if (base / names[0]).is_file():
            root = path if base.resolve().is_relative_to(path.resolve()) else base
            return [inside(root, base, n, f"{source}: image", by_name=False) for n in names]
    raise InputError(
        f"{path} is a COLMAP model without pictures: {names[0]} is neither in images/ nor beside "
        "the model; put them into images/."
    )


def _padded(values: tuple[float, ...]) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = (*values, 0.0, 0.0, 0.0, 0.0, 0.0)[:5]
    return a, b, c, d, e


def _count(file: io.BufferedReader, path: Path) -> int:
    (count,) = struct.unpack("<Q", file.read(8))
    if count > MOST:
        raise InputError(f"{path} declares {count} entries; it is no COLMAP model.")
    return count


def _binary_cameras(path: Path) -> Iterator[tuple[int, Camera]]:
    with path.open("rb") as file:
        for _ in range(_count(file, path)):
            number, model, w, h = struct.unpack("<iiQQ", file.read(24))
            name = NAMES[model]
            count = MODELS[name][1]
            params = struct.unpack(f"<{count}d", file.read(8 * count))
            yield number, Camera(name, (h, w), params)


def _binary_images(path: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    with path.open("rb") as file:
        for _ in range(_count(file, path)):
            numbers = struct.unpack("<i7di", file.read(64))
            name = bytearray()
            while (byte := file.read(1)) != b"\0":
                if not byte or len(name) > LONGEST:
                    raise ValueError("a name does not end")
                name += byte
            (points,) = struct.unpack("<Q", file.read(8))
            file.seek(24 * points, io.SEEK_CUR)
            yield name.decode(), numbers[8], numbers[1:8]


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#"):
                yield line.strip()


def _text_cameras(path: Path) -> Iterator[tuple[int, Camera]]:
    for line in filter(None, _lines(path)):
        number, model, w, h, *params = line.split()
        if len(params) != MODELS[model][1]:
            raise ValueError(f"camera {number} has {len(params)} parameters")
        yield int(number), Camera(model, (int(h), int(w)), tuple(float(p) for p in params))


def _text_images(path: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    # every image has two lines, the second one, of its points, may be empty
    lines = _lines(path)
    for line in lines:
        if not line:
            continue
        parts = line.split(maxsplit=9)
        yield parts[9], int(parts[8]), tuple(float(p) for p in parts[1:8])
        next(lines, None)
