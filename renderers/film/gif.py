"""Animated GIF: 256 colours a frame, for pages that show nothing else."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.renderers.film.video import Write, to_uint8

# viewers slow down frames that are shorter than 2 hundredths of a second
FASTEST = 50.0
# a GIF is put together at its end: bytes of all frames at one a pixel
MOST = 1 << 30


@contextlib.contextmanager
def gif_writer(path: Path | str, fps: float) -> Iterator[Write]:
    """Yield a function that appends frames to a GIF that plays for ever.

    Frames last whole hundredths of a second, which add up to the rate. Raises ``InputError`` above
    50 frames per second, for more than 1 GiB of pixels, and for frames of several sizes.
    """
    from PIL import Image

    path = Path(path)
    if not 0 < fps <= FASTEST:
        raise InputError(f"fps is {fps:g}; a GIF plays at most {FASTEST:g} frames per second.")
    pictures: list[Any] = []
    with atomic_file(path) as temporary:

        def write(frame: Tensor) -> None:
            picture = Image.fromarray(to_uint8(frame))
            if pictures and picture.size != pictures[0].size:
                raise InputError(f"{path}: a frame is not of the size of the first.")
            if (len(pictures) + 1) * picture.width * picture.height > MOST:
                raise InputError(
                    f"{path}: {len(pictures) + 1} frames of {picture.width}x{picture.height} are "
                    "too many for a GIF; write an mp4 or webm."
                )
            pictures.append(picture.quantize(256))

        yield write
        if not pictures:
            raise InputError(f"{path}: there are no frames to write.")
        ends = [round(100.0 * (i + 1) / fps) for i in range(len(pictures))]
        lasts = [10 * (end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        pictures[0].save(
            temporary, save_all=True, append_images=pictures[1:], duration=lasts, loop=0
        )
