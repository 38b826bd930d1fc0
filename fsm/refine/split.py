"""Which frames a scene is refined on and which it is judged by; the two never meet."""

from dataclasses import dataclass
from typing import Literal

import torch

from fsm.datasets.base import Clip, ClipDataset
from fsm.errors import InputError
from fsm.views import Views

DEFAULT_HOLD_OUT = 8


@dataclass(frozen=True)
class Split:
    """Frames of a clip to refine on, and frames (of the same clip, or of another on the same clock) to be judged by."""

    clip: Clip
    inputs: tuple[int, ...]
    judge: Clip
    held_out: tuple[int, ...]

    def __post_init__(self) -> None:
        shared = set(self.inputs) & set(self.held_out) if self.judge is self.clip else set()
        if shared:
            raise InputError(f"{self.clip.source}: frames {sorted(shared)[:8]} are both refined on and held out.")
        if not self.inputs:
            raise InputError(f"{self.clip.source}: every frame is held out; there is nothing to refine on.")


def split_clip(
    dataset: ClipDataset, clip: Clip, seen: Views | None, frames: Literal["inputs", "all"], hold_out: int | None
) -> Split:
    """The frames to refine on and those held out.

    ``frames`` inputs: the frames the scene was read from (``seen``); all: every frame that is not held out. Held out are, in
    this order of preference: every ``hold_out``-th frame where that is given; the test split of a D-NeRF folder; the targets of
    the clip's own split; the frames the scene was not read from (inputs); every 8th frame (all).
    """
    everything = range(len(clip))
    used = set(everything) if frames == "all" or seen is None else set(_frames_of(clip, seen))
    if hold_out is None and clip.id == "train" and "test" in dataset.ids:
        judge = dataset.clip("test")
        return Split(clip, tuple(sorted(used)), judge, tuple(range(len(judge))))
    if hold_out is None and clip.index_plan is not None:
        used &= set(clip.index_plan.input_index)
        held_out = set(clip.index_plan.target_index)
    elif hold_out is None and frames == "inputs" and seen is not None:
        held_out = set(everything) - used
    else:
        every = DEFAULT_HOLD_OUT if hold_out is None else hold_out
        if every == 1 or every < 0:
            raise InputError(f"--hold-out is {every}; give 0, or a number of at least 2.")
        held_out = {i for i in everything if every and i % every == every // 2}
    return Split(clip, tuple(sorted(used - held_out)), clip, tuple(sorted(held_out)))


def _frames_of(clip: Clip, seen: Views) -> list[int]:
    """Numbers of the frames that ``seen`` are; a view that is none of the clip's frames is an ``InputError``."""
    time, c2w = clip.cameras.time, clip.cameras.c2w
    spacing = float((time[1:] - time[:-1]).min()) if len(time) > 1 else 1.0
    found = []
    for i in range(len(seen)):
        at = int((time - seen.time[i].cpu()).abs().argmin())
        late = abs(float(time[at] - seen.time[i])) > 0.1 * spacing
        if late or not torch.allclose(c2w[at], seen.c2w[i].cpu(), rtol=1e-4, atol=1e-4):
            raise InputError(
                f"{clip.source}: the scene's input view {i} (at {float(seen.time[i]):.4g} s) is none of the clip's frames; "
                "name the clip it was made from, or refine on --frames all of this one."
            )
        found.append(at)
    return found
