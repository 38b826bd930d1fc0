"""What no splat format of other tools holds, motion: one PLY per frame, or our own safetensors
file.
"""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_file, atomic_folder, write_json
from fsm.renderers.splat_files.ply import write_ply
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.renderers.splat_files.table import SplatTable

OURS = re.compile(r"frame_\d{5,}\.ply|frames\.json|export\.yaml")
MAX_FRAMES = 100_000
MOVING_FORMAT = "fsm moving gaussians 1"


def frame_times(times: Float[Tensor, " v"], fps: float) -> list[float]:
    """Seconds of the frames of a clip with input ``times`` at ``fps``: from the first on, as far as
    the last.
    """
    first, last = float(times.min()), float(times.max())
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise InputError(f"fps is {fps}; choose a positive rate of at most 1000 frames per second.")
    count = math.floor((last - first) * fps + 1e-4) + 1
    if count < 2:
        raise InputError(
            f"the scene lasts {last - first:.3f} s, which at {fps:g} fps is one frame; "
            "write a single ply."
        )
    if count > MAX_FRAMES:
        raise InputError(
            f"the scene would take {count} frames at {fps:g} fps, more than {MAX_FRAMES}; "
            "lower fps."
        )
    return [min(first + i / fps, last) for i in range(count)]


def write_ply_sequence(
    folder: Path | str,
    frames: Iterable[tuple[float, SplatTable]],
    fps: float,
    extra: Callable[[Path], None] | None = None,
) -> list[int]:
    """Write ``frame_00000.ply`` ... and ``frames.json``, whole or not at all; returns the numbers
    of Gaussians.

    ``frames`` are seconds and tables, taken one at a time. ``extra`` may add a file to the folder
    before it appears. An older sequence is replaced; a folder that holds anything else is an
    ``InputError``.
    """
    folder = Path(folder)
    check_sequence_folder(folder)
    entries = []
    with atomic_folder(folder) as temporary:
        for i, (seconds, table) in enumerate(frames):
            name = f"frame_{i:05d}.ply"
            write_ply(temporary / name, table)
            entries.append({"file": name, "time": seconds, "gaussians": len(table)})
        document = {"fps": fps, "times": [e["time"] for e in entries], "frames": entries}
        write_json(temporary / "frames.json", document)
        if extra is not None:
            extra(temporary)
    return [e["gaussians"] for e in entries]


def check_sequence_folder(folder: Path) -> None:
    """Refuse a place that holds anything other than a PLY sequence."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the PLY sequence.")
    strangers = (
        sorted(p.name for p in folder.iterdir() if not OURS.fullmatch(p.name))
        if folder.exists()
        else []
    )
    if strangers:
        raise InputError(
            f"{folder} holds {strangers[0]!r}, not only a PLY sequence; name another folder."
        )


def write_moving(path: Path | str, tables: SceneTables) -> None:
    """Write the scene and its motion as one safetensors file (fields: ``SceneTables.tensors``),
    whole or not at all. Its metadata holds the clip's first and last second.
    """
    from safetensors.torch import save_file

    tensors = {k: t.detach().cpu().contiguous().clone() for k, t in tables.tensors().items()}
    first, last = tables.frame.seconds(tables.scales.new_tensor([-1.0, 1.0])).tolist()
    metadata = {"format": MOVING_FORMAT, "first": repr(first), "last": repr(last)}
    metadata["antialiased"] = str(tables.antialiased).lower()
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
