"""Export splat files

Write one moment of a moving scene as a splat file, and the whole clip as a PLY sequence.

* `SceneTables` turns Gaussians into metres and seconds once. `at` gives those of one moment.
* `write_table` chooses the format by the file's suffix: `.ply`, `.splat` or `.spz`.
* A splat file opens as a scene like any other, without motion.
"""

from pathlib import Path

import tyro

from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.open_scene import open_scene
from fsm.renderers.splat_files import write_table
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.renderers.splat_files.sequence import frame_times, write_ply_sequence


def main(
    clip: str = "demo", size: int = 128, fps: float = 5.0, out: Path = Path("outputs/04")
) -> list[Path]:
    """Export CLIP's middle moment in three formats, and FPS moments a second; return the files."""
    source = open_clip(clip)
    model = FSM.from_pretrained("fsm-tiny-lrm")
    scene = model.reconstruct(source.views(range(0, len(source), 4), hw=(size, size)))

    tables = SceneTables.of(scene)
    middle = float(scene.inputs.time.mean())
    out.mkdir(parents=True, exist_ok=True)
    files = [out / name for name in ("moment.ply", "moment.splat", "moment.spz")]
    for file in files:
        write_table(file, tables.at(middle))
        print(f"{file}: {file.stat().st_size:,} bytes")

    times = frame_times(scene.inputs.time, fps)
    counts = write_ply_sequence(out / "frames", ((t, tables.at(t)) for t in times), fps)
    print(f"{len(counts)} files of up to {max(counts):,} Gaussians in {out / 'frames'}")

    reopened = open_scene(files[0])
    print(f"{files[0].name} reopens with {len(reopened.gaussians):,} Gaussians")
    return files


if __name__ == "__main__":
    tyro.cli(main)
