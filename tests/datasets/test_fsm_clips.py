from pathlib import Path

import pytest
import torch

from fsm.datasets.fsm_clips import FsmClips
from tests.datasets.contract import check_clip
from tests.datasets.media import read_counter, write_fsm_clip


def test_a_clip_file_opens_as_a_clip(tmp_path: Path) -> None:
    clips = FsmClips(write_fsm_clip(tmp_path))
    assert clips.ids == ("clip",)
    clip = clips.clip("clip")
    check_clip(clip)
    assert clip.fps == 30
    assert torch.allclose(clip.cameras.time, torch.arange(20) / 30)
    views = clip.views([7, 3])
    assert views.rgb is not None
    assert [read_counter((f * 255).numpy()) for f in views.rgb] == [7, 3]


@pytest.mark.parametrize("name", ["train.json", "val.json", "val_moving.json"])
def test_real_lists(shared_data: Path, name: str) -> None:
    clips = FsmClips(shared_data / "stereo4d_256" / name)
    assert len(clips) == {"train.json": 64, "val.json": 14, "val_moving.json": 9}[name]
    check_clip(clips.clip(clips.ids[-1]))


def test_cached_clip_is_the_same_clip(tmp_path: Path) -> None:
    clip = FsmClips(write_fsm_clip(tmp_path)).clip("clip")
    cached = clip.cached((32, 32))
    check_clip(cached)
    live, kept = clip.views(hw=(32, 32)), cached.views()
    assert live.rgb is not None
    assert kept.rgb is not None
    assert (live.rgb - kept.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(live.intrinsics, kept.intrinsics)
