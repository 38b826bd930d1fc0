"""A film as phones make them, of a procedural world: a lens with distortion, exposure that drifts,
H.264 with B-frames, stored lying on its side with a flag that says so. No cameras beside it.

    python -m benchmarks.phone_film demo phone.mp4
    fsm reconstruct phone.mp4 -o scene/ && fsm render scene/ --path orbit -o orbit/
"""

import math
import struct
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import parser, start
from fsm.datasets.open import open_clip
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.files import atomic_file

BEND = 0.08
"""k1 of the lens: normalised radii r of the ideal picture are seen at r (1 + k1 r^2)."""
FPS = 15
QUARTER = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
"""Display matrix of a track header: show it turned clockwise by 90 degrees."""


def bent(picture: np.ndarray, focal: float) -> np.ndarray:
    """A picture [h w 3] as a lens with distortion shows it."""
    import cv2

    h, w = picture.shape[:2]
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    u, v = (x + 0.5 - w / 2) / focal, (y + 0.5 - h / 2) / focal
    ideal_u, ideal_v = u, v
    for _ in range(5):
        stretch = 1.0 + BEND * (ideal_u**2 + ideal_v**2)
        ideal_u, ideal_v = u / stretch, v / stretch
    at = ideal_u * focal + w / 2 - 0.5, ideal_v * focal + h / 2 - 0.5
    x, y = (np.ascontiguousarray(a).astype(np.float32) for a in at)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def film(clip: RenderedClip, height: int, output: Path) -> None:
    """Write the film."""
    import av

    h, w = clip.cameras.hw
    hw = (height, round(height * w / h / 2) * 2)
    views = clip.cameras.covering(hw)
    focal = float(views.intrinsics[0, 0])
    with atomic_file(output) as temporary:
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream("h264", rate=FPS)
            # what is shown upright lies on its side in the file
            stream.height, stream.width, stream.pix_fmt = hw[1], hw[0], "yuv420p"
            stream.options = {"crf": "18", "bf": "2"}
            for i in range(len(views)):
                shown = clip.truth(views[[i]]).rgb[0].permute(1, 2, 0).numpy()
                exposure = 2.0 ** (0.25 * math.sin(2.0 * math.pi * i / len(views)))
                shown = bent(np.clip(shown * exposure, 0.0, 1.0), focal)
                lying = np.rot90((shown * 255).round().astype(np.uint8))
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(lying), format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        data = bytearray(temporary.read_bytes())
        at = data.index(b"tkhd") + 4 + 40
        data[at : at + 36] = struct.pack(">9i", *QUARTER)
        temporary.write_bytes(bytes(data))


def main() -> None:
    """Write a film and say where."""
    args = parser(__doc__)
    args.add_argument("world")
    args.add_argument("output", type=Path)
    args.add_argument("--height", type=int, default=256)
    options = args.parse_args()
    start("phone film", height=options.height)
    clip = open_clip(options.world)
    if not isinstance(clip, RenderedClip):
        raise InputError(f"{options.world} is not a world; name one, as in world:3101.")
    with torch.no_grad():
        film(clip, options.height, options.output)
    print(f"{len(clip)} frames in {options.output}")


if __name__ == "__main__":
    main()
