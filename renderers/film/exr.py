"""OpenEXR pictures: colour in linear light, alpha and depth as floats in one file a frame.

Single part, scan lines, not compressed, channels in alphabetical order, as every reader takes them.
Facts: openexr.com, "OpenEXR File Layout".
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_folder, write_json
from fsm.renderers.film.video import cameras_document, refuse_foreign
from fsm.views import Rendering, Views

MAGIC = struct.pack("<II", 20000630, 2)
FLOAT = 2


@contextlib.contextmanager
def exr_sequence_writer(
    folder: Path | str, cameras: Views
) -> Iterator[Callable[[Rendering], None]]:
    """Yield a function that writes one view as ``frame_00000.exr``, ...; ``cameras.json`` beside.

    R, G and B are in linear light over the scene's background. A and Z (the clip's length along
    the camera's axis) are there where the scene gives them. The folder appears when all is written,
    in place of an older sequence; a folder that holds anything else is refused.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    count = 0
    with atomic_folder(folder) as temporary:

        def write(rendering: Rendering) -> None:
            nonlocal count
            channels = {"A": rendering.alpha, "Z": rendering.depth}
            planes = {name: plane[0, 0] for name, plane in channels.items() if plane is not None}
            planes |= dict(zip("RGB", linear(rendering.rgb[0]), strict=True))
            (temporary / f"frame_{count:05d}.exr").write_bytes(encoded(planes))
            count += 1

        yield write
        if count != len(cameras) or count == 0:
            raise InputError(f"{folder}: {count} frames came for {len(cameras)} cameras.")
        document = cameras_document(cameras)
        for frame in document["frames"]:
            frame["file"] = frame["file"].replace(".png", ".exr")
        write_json(temporary / "cameras.json", document)


def linear(srgb: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Linear light of sRGB values (IEC 61966-2-1); negative values are 0."""
    srgb = srgb.detach().float().clamp_min(0.0)
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(planes: dict[str, Float[Tensor, "h w"]]) -> bytes:
    """An EXR file of float32 channels."""
    names = sorted(planes)
    rows = np.stack([planes[n].detach().float().cpu().numpy() for n in names], 1).astype("<f4")
    h, _, w = rows.shape
    channels = b"".join(
        name.encode() + b"\0" + struct.pack("<IBxxxII", FLOAT, 0, 1, 1) for name in names
    )
    window = struct.pack("<iiii", 0, 0, w - 1, h - 1)
    header = (
        _attribute("channels", "chlist", channels + b"\0")
        + _attribute("compression", "compression", b"\0")
        + _attribute("dataWindow", "box2i", window)
        + _attribute("displayWindow", "box2i", window)
        + _attribute("lineOrder", "lineOrder", b"\0")
        + _attribute("pixelAspectRatio", "float", struct.pack("<f", 1.0))
        + _attribute("screenWindowCenter", "v2f", struct.pack("<ff", 0.0, 0.0))
        + _attribute("screenWindowWidth", "float", struct.pack("<f", 1.0))
        + b"\0"
    )
    size = rows[0].nbytes
    first = len(MAGIC) + len(header) + 8 * h
    offsets = first + (8 + size) * np.arange(h, dtype="<u8")
    lines = b"".join(struct.pack("<ii", y, size) + rows[y].tobytes() for y in range(h))
    return MAGIC + header + offsets.tobytes() + lines


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
