"""Add a dataset

Teach the toolkit a new format in one class. Here a clip is a folder with `clip.npz` and pictures.

* Subclass `Clip`. Give it all cameras, in the conventions of `Views`, and yield pixels on demand.
* `checked_cameras` refuses wrong poses with a sentence that names file, frame and field.
* Everything else then works: `reconstruct`, `evaluate`, `refine`, the viewer.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from fsm import FSM, Views
from fsm.datasets.base import Clip, checked_cameras
from fsm.datasets.open import open_clip
from fsm.renderers.film.video import to_uint8


class NpzClip(Clip):
    """`clip.npz` holds c2w [f 4 4], intrinsics [f 4] and time [f]; pictures are `00000.png` on."""

    def __init__(self, folder: Path) -> None:
        stored, self.folder = np.load(folder / "clip.npz"), folder
        with Image.open(folder / "00000.png") as first:
            hw = (first.height, first.width)
        arrays = (stored[name].astype(np.float64) for name in ("c2w", "intrinsics", "time"))
        super().__init__(folder.name, str(folder), checked_cameras(*arrays, hw, str(folder)))

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """One frame at a time, so that a long clip never fills the memory."""
        for i in indices:
            picture = torch.from_numpy(np.array(Image.open(self.folder / f"{i:05d}.png")))
            rgb = picture.permute(2, 0, 1)[None] / 255.0
            yield dataclasses.replace(self.cameras[i], rgb=rgb)


def main(clip: str = "demo", size: int = 64, out: Path = Path("outputs/08")) -> int:
    """Write 8 frames of CLIP in the new format, read them back, and return how many were read."""
    views = open_clip(clip).views(range(8), hw=(size, size))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "clip.npz", c2w=views.c2w, intrinsics=views.intrinsics, time=views.time)
    for i, picture in enumerate(views.rgb):
        Image.fromarray(to_uint8(picture)).save(out / f"{i:05d}.png")

    scene = FSM.from_pretrained("fsm-tiny").reconstruct(NpzClip(out).views())
    print(f"{len(scene.inputs)} frames of the new format read into a scene")
    return len(scene.inputs)


if __name__ == "__main__":
    tyro.cli(main)
