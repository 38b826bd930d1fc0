"""Which frames a scene is refined on and which it is judged by; the two never meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fsm.datasets.base import Clip, ClipDataset
from fsm.errors import InputError
from fsm.evaluate.rigs import frames_of
from fsm.frame_ids import among, check_unseen
from fsm.renderers.base import Scene

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
    dataset: ClipDataset,
    clip: Clip,
    scene: Scene | None,
    frames: Frames,
    hold_out: int | None,
    hold_cameras: Sequence[str] = (),
) -> Split:
    """The frames to refine ``scene`` on (None: there is none yet) and those held out.

    ``frames`` inputs: those of the clip that the scene has seen; all: every frame that is not held
    out; auto: all where the clip brings frames to be judged by, or where there is no scene, else
    inputs. Held out are all frames of the cameras ``hold_cameras``, by name or by place from 0;
    else every ``hold_out``-th frame where that is given; else the test split of a D-NeRF folder;
    else the targets of the clip's own split; else, of inputs, the frames the scene
    has not seen, and of all, every 8th of those that it has not seen.

    Raises ``InputError`` where a frame that the scene has seen would be held out, and where the
    scene does not record what it has seen.
    """
    everything, judge, held_out = set(range(len(clip))), clip, None
    if hold_cameras and hold_out is not None:
        raise InputError("--hold-out and --hold-cameras both say what is held out; give one.")
    if hold_cameras:
        held_out = frames_of(clip, hold_cameras)
    elif hold_out is not None:
        held_out = every(hold_out, len(clip))
    elif clip.id == "train" and "test" in dataset.ids:
        judge = dataset.clip("test")
        held_out = set(range(len(judge)))
    elif clip.index_plan is not None:
        everything, held_out = set(clip.index_plan.input_index), set(clip.index_plan.target_index)
    brought = hold_out is None and held_out is not None and not hold_cameras
    seen = set() if scene is None else _frames_seen(scene, clip, frames, hold_out)
    if scene is None or frames == "all" or (frames == "auto" and brought):
        used = everything
    else:
        used = everything & seen
        held_out = everything - used if held_out is None else held_out
    held_out = every(DEFAULT_HOLD_OUT, len(clip)) - seen if held_out is None else held_out
    inputs = used - held_out if judge is clip else used
    split = Split(clip, tuple(sorted(inputs)), judge, tuple(sorted(held_out)))
    if scene is not None and split.held_out:
        check_unseen(judge.cameras[list(split.held_out)].frame_ids, scene.frames_seen, judge.source)
    return split


def every(k: int, frames: int) -> set[int]:
    """Every ``k``-th of a clip's frames, none for 0: those that ``--hold-out`` leaves out."""
    if k == 1 or k < 0:
        raise InputError(f"--hold-out is {k}; give 0, or a number of at least 2.")
    return {i for i in range(frames) if k and i % k == k // 2}


def _frames_seen(scene: Scene, clip: Clip, frames: Frames, hold_out: int | None) -> set[int]:
    """Numbers of the frames of ``clip`` that the scene was made from."""
    if scene.frames_seen is None:
        if frames == "all" and hold_out == 0:
            return set()
        raise InputError(
            "the scene does not record which frames it has seen, so none can be called held out; "
            "make it again with fsm reconstruct, or give --frames all --hold-out 0."
        )
    ids = clip.cameras.frame_ids
    assert ids is not None, "the frames of a clip have ids"
    seen = set(among(ids, scene.frames_seen).nonzero()[:, 0].tolist())
    if not seen and frames != "all":
        raise InputError(
            f"{clip.source}: the scene has seen no frame of this clip; name the clip it was made "
            "from, or give --frames all."
        )
    return seen
