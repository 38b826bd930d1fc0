"""Which frames are refined on and which are held out, for every kind of clip."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fsm.datasets.base import IndexPlan, MemoryClip
from fsm.datasets.open import open_clip, open_dataset
from fsm.errors import InputError
from fsm.refine.split import Frames, Split, split_clip
from fsm.renderers.gaussians.scene import GaussianScene
from tests.refine.small_scenes import ring, scene_of, some_gaussians

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


def _scene(clip: MemoryClip, seen: tuple[int, ...] = SEEN) -> GaussianScene:
    return scene_of(some_gaussians(2), clip.cameras[list(seen)])


@pytest.mark.parametrize(
    ("frames", "hold_out", "inputs", "held_out"),
    [
        ("inputs", None, SEEN, (1, 3, 5, 7, 9, 11)),
        ("auto", None, SEEN, (1, 3, 5, 7, 9, 11)),
        ("inputs", 0, SEEN, ()),
        ("all", 0, tuple(range(12)), ()),
    ],
)
def test_frames_of_a_plain_clip(
    frames, hold_out, inputs: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    clip = _clip()
    split = split_clip(_Clips(clip), clip, _scene(clip), frames, hold_out)
    assert (split.inputs, split.held_out, split.judge) == (inputs, held_out, clip)


@pytest.mark.parametrize(
    ("frames", "hold_out", "inputs", "held_out"),
    [
        ("auto", 3, (0, 2, 3, 5, 6, 8, 9, 11), (1, 4, 7, 10)),
        ("inputs", 3, (0, 2, 3, 5, 6, 8, 9, 11), (1, 4, 7, 10)),
        ("all", 3, (0, 2, 3, 5, 6, 8, 9, 11), (1, 4, 7, 10)),
        ("all", None, (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11), (4,)),
    ],
)
def test_frames_held_out_before(
    frames, hold_out, inputs: tuple[int, ...], held_out: tuple[int, ...]
) -> None:
    """Of a scene made without them every third or eighth frame is held out again."""
    clip = _clip()
    seen = tuple(i for i in range(FRAMES) if i % (hold_out or 8) != (hold_out or 8) // 2)
    split = split_clip(_Clips(clip), clip, _scene(clip, seen), frames, hold_out)
    assert (split.inputs, split.held_out) == (inputs, held_out)


def test_no_frame_that_a_scene_has_seen_is_held_out() -> None:
    clip = _clip()
    for frames in ("auto", "inputs", "all"):
        with pytest.raises(
            InputError, match=r"walk\.json: the scene has seen the frames \[2, 6, 10\]"
        ):
            split_clip(_Clips(clip), clip, _scene(clip), frames, 4)
    # Unless told which, only unseen frames are taken; of a scene that has seen all, none.
    all_seen = _scene(clip, tuple(range(FRAMES)))
    for frames in ("auto", "inputs", "all"):
        assert split_clip(_Clips(clip), clip, all_seen, frames, None).held_out == ()
    assert split_clip(_Clips(clip), clip, _scene(clip), "all", None).held_out == ()


def test_a_scene_that_has_seen_the_clips_test_split_is_refused() -> None:
    clip = _clip(plan=IndexPlan((0, 1, 2, 3), (6, 7)))
    with pytest.raises(InputError, match=r"seen the frames \[6\]"):
        split_clip(_Clips(clip), clip, _scene(clip), "auto", None)
    assert split_clip(_Clips(clip), clip, _scene(clip), "auto", 0).held_out == ()
    train, test = _clip("train"), _clip("test")
    with pytest.raises(InputError, match=r"test\.json: the scene has seen the frames \[3\]"):
        split_clip(_Clips(train, test), train, _scene(test, (3,)), "all", None)


def test_a_scene_that_records_nothing_is_refused() -> None:
    clip = _clip()
    scene = scene_of(some_gaussians(2), ring(4))
    assert scene.frames_seen is None
    cases: list[tuple[Frames, int | None]]
    cases = [("auto", None), ("inputs", 0), ("all", 4), ("all", None)]
    for frames, hold_out in cases:
        with pytest.raises(InputError, match="does not record which frames it has seen"):
            split_clip(_Clips(clip), clip, scene, frames, hold_out)
    assert len(split_clip(_Clips(clip), clip, scene, "all", 0).inputs) == FRAMES


@pytest.mark.parametrize(
    ("frames", "inputs"), [("inputs", (0, 2)), ("all", (0, 1, 2, 3)), ("auto", (0, 1, 2, 3))]
)
def test_the_clips_own_split_comes_first(frames, inputs: tuple[int, ...]) -> None:
    clip = _clip(plan=IndexPlan((0, 1, 2, 3), (6, 7)))
    split = split_clip(_Clips(clip), clip, _scene(clip, (0, 2, 4)), frames, None)
    assert (split.inputs, split.held_out) == (inputs, (6, 7))


def test_a_training_split_is_judged_by_the_test_split() -> None:
    train, test = _clip("train"), _clip("test")
    all_of_it = tuple(range(12))
    cases: list[tuple[Frames, tuple[int, ...] | None, tuple[int, ...]]]
    cases = [("all", None, all_of_it), ("inputs", SEEN, SEEN), ("auto", SEEN, all_of_it)]
    for frames, seen, inputs in cases:
        split = split_clip(
            _Clips(train, test), train, _scene(train, seen) if seen else None, frames, None
        )
        assert (split.inputs, split.judge, split.held_out) == (inputs, test, all_of_it)
    assert split_clip(_Clips(train, test), train, None, "all", 6).judge is train


def test_d_nerf_as_it_is_on_disk(shared_data: Path) -> None:
    path = shared_data / "dnerf_mutant_256"
    split = split_clip(open_dataset(path), open_clip(path), None, "all", None)
    assert (len(split.inputs), len(split.held_out)) == (150, 20)
    assert split.judge.source.endswith("transforms_test.json")


def test_a_scene_of_another_clip_is_refused() -> None:
    clip = _clip()
    scene = _scene(_clip("run"))
    for frames in ("auto", "inputs"):
        with pytest.raises(InputError, match=r"walk\.json: the scene has seen no frame of this"):
            split_clip(_Clips(clip), clip, scene, frames, None)
    assert split_clip(_Clips(clip), clip, scene, "all", 4).held_out == (2, 6, 10)


def test_splits_that_mean_nothing_are_refused() -> None:
    clip = _clip()
    with pytest.raises(InputError, match="both refined on and held out"):
        Split(clip, (0, 1, 2), clip, (2, 3))
    with pytest.raises(InputError, match="every frame is held out"):
        Split(clip, (), clip, (2, 3))
    for hold_out in (1, -3):
        with pytest.raises(InputError, match="give 0, or a number of at least 2"):
            split_clip(_Clips(clip), clip, None, "all", hold_out)


def _rig() -> MemoryClip:
    """Three cameras at four moments."""
    cameras = ring(FRAMES)
    cameras = dataclasses.replace(cameras, time=torch.arange(FRAMES) // 3 / 10)
    pictures = torch.zeros(FRAMES, 3, *cameras.hw, dtype=torch.uint8)
    names = ("left", "middle", "right") * 4
    return MemoryClip("rig", "rig.json", cameras, pictures, camera_ids=names)


@pytest.mark.parametrize("wanted", ["middle", "1"])
def test_whole_cameras_are_held_out(wanted: str) -> None:
    clip = _rig()
    split = split_clip(_Clips(clip), clip, None, "auto", None, [wanted])
    assert split.held_out == (1, 4, 7, 10)
    assert split.inputs == (0, 2, 3, 5, 6, 8, 9, 11)
    seen = _scene(clip, (0, 2, 6, 8))
    split = split_clip(_Clips(clip), clip, seen, "auto", None, [wanted])
    assert (split.inputs, split.held_out) == ((0, 2, 6, 8), (1, 4, 7, 10))


def test_a_camera_that_was_seen_or_is_not_there_is_not_held_out() -> None:
    clip = _rig()
    with pytest.raises(InputError, match="seen"):
        split_clip(_Clips(clip), clip, _scene(clip, (0, 1, 2)), "auto", None, ["middle"])
    with pytest.raises(InputError, match="no camera 'top'"):
        split_clip(_Clips(clip), clip, None, "auto", None, ["top"])
    with pytest.raises(InputError, match="give one"):
        split_clip(_Clips(clip), clip, None, "auto", 4, ["middle"])
