"""Which frames are refined on and which are held out, for every kind of clip."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fsm.datasets.base import IndexPlan, MemoryClip
from fsm.datasets.open import open_clip, open_dataset
from fsm.errors import InputError
from fsm.refine.split import Frames, Split, split_clip
from tests.refine.small_scenes import ring

FRAMES = 12


def _clip(name: str = "walk", plan: IndexPlan | None = None) -> MemoryClip:
    cameras = ring(FRAMES)
    return MemoryClip(
        name,
        f"{name}.json",
        cameras,
        torch.zeros(FRAMES, 3, *cameras.hw, dtype=torch.uint8),
        index_plan=plan,
    )


class _Clips:
    def __init__(self, *clips: MemoryClip) -> None:
        self.clips = {c.id: c for c in clips}
        self.ids = tuple(self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, id: str) -> MemoryClip:
        return self.clips[id]


SEEN = (0, 2, 4, 6, 8, 10)


@pytest.mark.parametrize(
    ("frames", "hold_out", "inputs", "held_out"),
    [
        ("inputs", None, SEEN, (1, 3, 5, 7, 9, 11)),
        ("auto", None, SEEN, (1, 3, 5, 7, 9, 11)),
        ("auto", 4, (0, 4, 8), (2, 6, 10)),
        ("inputs", 4, (0, 4, 8), (2, 6, 10)),
        ("inputs", 0, SEEN, ()),
        ("all", None, (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11), (4,)),
        ("all", 3, (0, 2, 3, 5, 6, 8, 9, 11), (1, 4, 7, 10)),
        ("all", 0, tuple(range(12)), ()),
    ],
)
def test_frames_of_a_plain_clip(
    frames, hold_out, inputs: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    clip = _clip()
    split = split_clip(_Clips(clip), clip, clip.cameras[list(SEEN)], frames, hold_out)
    assert (split.inputs, split.held_out, split.judge) == (inputs, held_out, clip)


@pytest.mark.parametrize(
    ("frames", "inputs"), [("inputs", (0, 2)), ("all", (0, 1, 2, 3)), ("auto", (0, 1, 2, 3))]
)
def test_the_clips_own_split_comes_first(frames, inputs: tuple[int, ...]) -> None:
    clip = _clip(plan=IndexPlan((0, 1, 2, 3), (6, 7)))
    split = split_clip(_Clips(clip), clip, clip.cameras[list(SEEN)], frames, None)
    assert (split.inputs, split.held_out) == (inputs, (6, 7))


def test_a_training_split_is_judged_by_the_test_split() -> None:
    train, test = _clip("train"), _clip("test")
    all_of_it = tuple(range(12))
    cases: list[tuple[Frames, tuple[int, ...] | None, tuple[int, ...]]]
    cases = [("all", None, all_of_it), ("inputs", SEEN, SEEN), ("auto", SEEN, all_of_it)]
    for frames, seen, inputs in cases:
        split = split_clip(
            _Clips(train, test), train, train.cameras[list(seen)] if seen else None, frames, None
        )
        assert (split.inputs, split.judge, split.held_out) == (inputs, test, all_of_it)
    assert split_clip(_Clips(train, test), train, None, "all", 6).judge is train


def test_d_nerf_as_it_is_on_disk(shared_data: Path) -> None:
    path = shared_data / "dnerf_mutant_256"
    split = split_clip(open_dataset(path), open_clip(path), None, "all", None)
    assert (len(split.inputs), len(split.held_out)) == (150, 20)
    assert split.judge.source.endswith("transforms_test.json")


def test_frames_that_are_not_the_clips_are_refused() -> None:
    clip = _clip()
    seen = clip.cameras[[1, 5]]
    moved = seen.c2w.clone()
    moved[1, 0, 3] += 0.5
    for strange in (replace(seen, c2w=moved), replace(seen, time=seen.time + 0.2)):
        with pytest.raises(
            InputError,
            match=r"walk\.json: the scene's input view . .* is none of the clip's frames",
        ):
            split_clip(_Clips(clip), clip, strange, "inputs", None)
        assert len(split_clip(_Clips(clip), clip, strange, "all", 0).inputs) == FRAMES


def test_splits_that_mean_nothing_are_refused() -> None:
    clip = _clip()
    with pytest.raises(InputError, match="both refined on and held out"):
        Split(clip, (0, 1, 2), clip, (2, 3))
    with pytest.raises(InputError, match="every frame is held out"):
        Split(clip, (), clip, (2, 3))
    for hold_out in (1, -3):
        with pytest.raises(InputError, match="give 0, or a number of at least 2"):
            split_clip(_Clips(clip), clip, None, "all", hold_out)
