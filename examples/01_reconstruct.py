"""Reconstruct a clip

Read every second frame of a clip into a scene memory, then render the frames that were left out.

* `open_clip` opens any supported clip: a file, a folder, or a built-in name such as `demo`.
* `reconstruct` reads posed frames in one pass. `render` then answers for any camera and moment.
* A request never carries pixels. `without_rgb()` makes one from an observation.
* A saved scene reopens with `open_scene` and renders the same pictures.
"""

from pathlib import Path

import tyro
from PIL import Image

from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.evaluate.metrics import psnr
from fsm.renderers.film.video import to_uint8


def main(clip: str = "demo", size: int = 128, out: Path = Path("outputs/01")) -> float:
    """Reconstruct CLIP at SIZE pixels and return the mean PSNR of the frames left out."""
    frames = open_clip(clip)
    inputs = frames.views(range(0, len(frames), 2), hw=(size, size))
    truth = frames.views(range(1, len(frames), 8), hw=(size, size))

    model = FSM.from_pretrained("fsm-tiny")
    scene = model.reconstruct(inputs)
    pictures = scene.render(truth.without_rgb()).rgb

    scene.save(out / "scene")
    Image.fromarray(to_uint8(pictures[0])).save(out / "rendered.png")
    Image.fromarray(to_uint8(truth.rgb[0])).save(out / "truth.png")

    mean = float(psnr(pictures, truth.rgb).mean())
    print(f"{len(inputs)} frames read, {len(truth)} others rendered at {mean:.2f} dB")
    return mean


if __name__ == "__main__":
    tyro.cli(main)
