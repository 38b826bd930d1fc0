"""The film on the first page: a camera orbit at one moment, then the same orbit while time runs.

    fsm reconstruct demo --decoder lrm --inputs 0 --hold-out 8 -o scene/
    fsm refine scene/ demo --hold-out 8 -o sharp/
    python docs/make_film.py sharp/ --output docs/images/demo.webp --size 320

Any scene will do: a scene memory, Gaussians, or a splat file.
"""

from pathlib import Path

import tyro
from PIL import Image

from fsm.errors import InputError
from fsm.open_scene import open_scene
from fsm.renderers.film.camera_paths import make_path
from fsm.renderers.film.sequence import render_sequence
from fsm.renderers.film.video import to_uint8
from fsm.views import Views

MEGABYTE = 1_000_000
QUALITIES = (90, 80, 70, 60, 50, 40)


def main(
    scene: tyro.conf.Positional[Path],
    output: Path = Path("docs/images/demo.webp"),
    size: int = 320,
    frames: int = 48,
    fps: float = 16.0,
    most: float = 4.0,
) -> int:
    """Render SCENE as an animated WebP of FRAMES frames per part, at most MOST megabytes."""
    opened = open_scene(scene)
    inputs = opened.inputs.to("cpu")
    middle = float(inputs.time.mean())
    parts = [
        make_path("orbit", time, inputs, frames, (size, size), fps)
        for time in (f"freeze={middle}", "sweep")
    ]
    pictures = [
        Image.fromarray(to_uint8(rendering.rgb[0]))
        for rendering in render_sequence(opened, Views.cat(parts))
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    for quality in QUALITIES:
        pictures[0].save(
            output,
            save_all=True,
            append_images=pictures[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=quality,
            method=6,
        )
        written = output.stat().st_size
        if written <= most * MEGABYTE:
            print(f"{len(pictures)} frames of {size}x{size}, {written:,} bytes in {output}")
            return written
    raise InputError(f"{output} has {written:,} bytes at the lowest quality; lower --size.")


if __name__ == "__main__":
    tyro.cli(main)
