"""A data set of one clip, and what several formats of folders share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fsm.datasets.base import Clip
from fsm.datasets.readers.images import image_size
from fsm.errors import InputError

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class SingleClip:
    """The one clip of a file or folder, opened when it is asked for."""

    path: Path
    read: Callable[[str, Path], Clip]
    """From its name and ``path`` to the clip."""
    kind: str
    """Name of the format."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The name of the folder or file."""
        return (self.path.resolve().stem if self.path.is_file() else self.path.resolve().name,)

    def __len__(self) -> int:
        """One."""
        return 1

    def clip(self, id: str) -> Clip:
        """Open it."""
        if id not in self.ids:
            raise InputError(f"{self.path} has no clip {id!r}; it has {self.ids[0]}.")
        return self.read(id, self.path)


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly in a folder, by name."""
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES and f.is_file())


def fitted(
    intrinsics: Float64[np.ndarray, "f 4"], stated: tuple[float, float], images: Sequence[Path]
) -> tuple[Float64[np.ndarray, "f 4"], tuple[int, int]]:
    """Pixel intrinsics of pictures that may be smaller than ``stated`` height and width, and their
    size. Raises ``InputError`` where their shape differs by more than rounding.
    """
    h, w = image_size(images[0])
    sx, sy = w / stated[1], h / stated[0]
    if abs(sx * stated[0] - h) > 2.0 and abs(sy * stated[1] - w) > 2.0:
        raise InputError(
            f"{images[0]} is {w} x {h} pixels, but its camera is of {stated[1]:.0f} x "
            f"{stated[0]:.0f}; take pictures of that shape."
        )
    return intrinsics * [sx, sy, sx, sy], (h, w)
