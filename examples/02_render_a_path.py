"""Render a camera path

Render a film of a scene. The camera orbits, and the clip's time runs on meanwhile.

* `make_path` makes the request: `orbit`, `spiral`, `interpolate`, or the clip's own `input` path.
* Its time is `sweep` (first to last moment), `follow` (the clip's pace) or `freeze=SECONDS`.
* `write_film` writes an H.264 video, a folder of pictures, or both.
"""

from pathlib import Path

import tyro

from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.renderers.film.camera_paths import make_path
from fsm.renderers.film.film import write_film


def main(
    clip: str = "demo",
    size: int = 128,
    frames: int = 48,
    time: str = "sweep",
    out: Path = Path("outputs/02"),
) -> Path:
    """Render FRAMES frames around CLIP and return the film's file."""
    source = open_clip(clip)
    model = FSM.from_pretrained("fsm-tiny")
    scene = model.reconstruct(source.views(range(0, len(source), 4), hw=(size, size)))

    request = make_path("orbit", time, scene.inputs, frames, (size, size), fps=24.0)
    for done in write_film(scene, request, 24.0, out, format="mp4"):
        print(f"\rframe {done} of {len(request)}", end="")

    print(f"\nfilm in {out / 'video.mp4'}")
    return out / "video.mp4"


if __name__ == "__main__":
    tyro.cli(main)
