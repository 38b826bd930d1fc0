"""A request, frame by frame, to the files of a film: what ``fsm render`` and the viewer write, with
the same pixels.
"""

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from fsm.renderers.base import Scene
from fsm.renderers.film.exr import exr_sequence_writer
from fsm.renderers.film.gif import gif_writer
from fsm.renderers.film.sequence import BATCH, colourise_depth, depth_range, render_sequence
from fsm.renderers.film.video import png_sequence_writer, video_writer
from fsm.views import Views

Format = Literal["mp4", "webm", "gif", "png", "exr", "both"]
VIDEO, FRAMES = "video.mp4", "frames"
"""What is written into the folder: H.264 video, PNG sequence with its cameras."""
NAMES = {"colour": ("video", FRAMES), "depth": ("depth", "depth")}


def write_film(
    scene: Scene,
    request: Views,
    fps: float,
    folder: Path,
    format: Format = "mp4",
    *,
    depth: bool = False,
    batch: int = BATCH,
    turn: AbstractContextManager[Any] | None = None,
) -> Generator[int, None, None]:
    """Render unbatched ``request`` into ``folder`` and yield the number of frames done after each.

    The files appear when the last number has been taken; close the generator earlier and there are
    none. ``depth`` adds depth in colours (``InputError`` where the scene has none). Pixels depend
    on the request and ``batch`` alone; ``turn`` is held as in ``render_sequence``.
    """
    limits = None
    if depth:
        with contextlib.nullcontext() if turn is None else turn:
            limits = depth_range(scene, request)
    kinds = ["colour"] if limits is None else ["colour", "depth"]
    with contextlib.ExitStack() as files:
        sinks = {kind: [] for kind in kinds}
        for kind in kinds:
            video, pictures = (folder / name for name in NAMES[kind])
            if format in ("mp4", "webm", "both"):
                suffix = ".webm" if format == "webm" else ".mp4"
                writer = video_writer(video.with_suffix(suffix), fps)
                sinks[kind].append(files.enter_context(writer))
            if format == "gif":
                writer = gif_writer(video.with_suffix(".gif"), fps)
                sinks[kind].append(files.enter_context(writer))
            if format in ("png", "both") or (format == "exr" and kind == "depth"):
                sinks[kind].append(files.enter_context(png_sequence_writer(pictures, request)))
        whole = None
        if format == "exr":
            whole = files.enter_context(exr_sequence_writer(folder / FRAMES, request))
        for done, rendering in enumerate(render_sequence(scene, request, batch, turn), start=1):
            frame = {"colour": rendering.rgb[0]}
            if limits is not None and rendering.depth is not None:
                frame["depth"] = colourise_depth(rendering.depth[0], *limits)
            for kind in kinds:
                for write in sinks[kind]:
                    write(frame[kind])
            if whole is not None:
                whole(rendering)
            yield done
