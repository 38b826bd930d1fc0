"""Which frames a scene is refined on and which it is judged by; the two never meet."""

from dataclasses import dataclass
from typing import Literal

import torch

from fsm.datasets.base import Clip, ClipDataset
from fsm.errors import InputError
from fsm.views import Views

DEFAULT_HOLD_OUT = 8
Frames = Literal["auto", "inputs", "all"]


@dataclass(frozen=True)
class Split:
    """Frames of a clip to refine on, and frames (of the same clip, or of another on the same clock)
    to be judged by.
    """

    clip: Clip
    inputs: tuple[int, ...]
    judge: Clip
    held_out: tuple[int, ...]

    def __post_init__(self) -> None:
        shared = set(self.inputs) & set(self.held_out) if self.judge is self.clip else set()
        if shared:
            raise InputError(
                f"{self.clip.source}: frames {sorted(shared)[:8]} are both refined on and held out."
            )
        if not self.inputs:
            raise InputError(
                f"{self.clip.source}: every frame is held out; there is nothing to refine on."
            )


def split_clip(
    dataset: ClipDataset, clip: Clip, seen: Views | None, frames: Frames, hold_out: int | None
) -> Split:
    """The frames to refine on and those held out.

    ``frames`` inputs: those the scene was read from (``seen``); all: every frame that is not held
    out; auto: all where the clip brings frames to be judged by, or where there is no scene, else
    inputs. Held out are every ``hold_out``-th frame where that is given; else the test split of a
    D-NeRF folder; else the targets of the clip's own split; else, of inputs, the frames the scene
    was not read from, and of all, every 8th.
    """
    everything, judge, held_out = set(range(len(clip))), clip, None
    if hold_out is not None:
        held_out = _every(hold_out, clip)
    elif clip.id == "train" and "test" in dataset.ids:
        judge = dataset.clip("test")
        held_out = set(range(len(judge)))
    elif clip.index_plan is not None:
        everything, held_out = set(clip.index_plan.input_index), set(clip.index_plan.target_index)
    brought = hold_out is None and held_out is not None
    if seen is None or frames == "all" or (frames == "auto" and brought):
        used = everything
    else:
        used = everything & set(_frames_of(clip, seen))
        held_out = everything - used if held_out is None else held_out
    held_out = _every(DEFAULT_HOLD_OUT, clip) if held_out is None else held_out
    return Split(
        clip,
        tuple(sorted(used - held_out if judge is clip else used)),
        judge,
        tuple(sorted(held_out)),
    )


def _every(k: int, clip: Clip) -> set[int]:
    if k == 1 or k < 0:
        raise InputError(f"--hold-out is {k}; give 0, or a number of at least 2.")
    return {i for i in range(len(clip)) if k and i % k == k // 2}


def _frames_of(clip: Clip, seen: Views) -> list[int]:
    """Numbers of the frames that ``seen`` are; a view that is none of the clip's frames is an
    ``InputError``.
    """
    time, c2w = clip.cameras.time, clip.cameras.c2w
    spacing = float((time[1:] - time[:-1]).min()) if len(time) > 1 else 1.0
    found = []
    for i in range(len(seen)):
        at = int((time - seen.time[i].cpu()).abs().argmin())
        late = abs(float(time[at] - seen.time[i])) > 0.1 * spacing
        if late or not torch.allclose(c2w[at], seen.c2w[i].cpu(), rtol=1e-4, atol=1e-4):
            raise InputError(
                f"{clip.source}: the scene's input view {i} (at {float(seen.time[i]):.4g} "
                "s) is none of the clip's frames; "
                "name the clip it was made from, or refine on --frames all of this one."
            )
        found.append(at)
    return found
