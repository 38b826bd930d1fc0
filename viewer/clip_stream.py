"""A clip read some frames at a time, with the scene as known after each."""

from collections.abc import Iterator, Sequence
from typing import Any

from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.model import FSM
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views

PUSH = 4
"""Frames at a time, for a model that writes all of them as one chunk."""


def scenes_of_clip(
    model: FSM, clip: Any, index: Sequence[int], hw: tuple[int, int], push: int | None = None
) -> Iterator[MemoryScene | GaussianScene]:
    """Read the frames ``index`` of ``clip`` in the order of time at working size ``hw``, ``push``
    at a time, and yield the scene after each.

    By default ``push`` is what the model writes at once. A clip's cameras are known before its
    pictures are read, so the normalisation is fitted on all of them: the last scene is, to the bit,
    what ``FSM.reconstruct`` makes of all frames. Raises ``InputError`` for a ``push`` below 1 and
    whatever the clip raises when its pictures are read.
    """
    if push is not None and push < 1:
        raise InputError(f"push is {push}; read at least 1 frame at a time.")
    index = sorted(index, key=lambda i: float(clip.cameras.time[i]))
    cameras: Views = clip.cameras[index].covering(hw)
    tokens = model.config.encoder.chunk_tokens
    size = push or (model.encoder.views_per_chunk(cameras) if tokens else PUSH)
    parts = (clip.views(index[i : i + size], hw) for i in range(0, len(index), size))
    return model.stream(parts, SceneFrame.fit(cameras.batched()))
