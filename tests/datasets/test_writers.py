"""Clips written in every format and read back: the same cameras, clock, pixels and masks."""

from pathlib import Path

import pytest
import torch

from fsm.cli import main
from fsm.datasets.base import Clip, IndexPlan, MemoryClip
from fsm.datasets.open import open_clip
from fsm.datasets.writers import frame_numbers, write_clip
from fsm.views import Views
from tests.datasets.contract import check_clip

HW = (24, 32)


def clip_of(times: list[float], masks: bool = False, fps: float | None = None, **more) -> Clip:
    n, generator = len(times), torch.Generator().manual_seed(0)
    c2w = torch.eye(4).repeat(n, 1, 1)
    turns, _ = torch.linalg.qr(torch.randn(n, 3, 3, generator=generator).double())
    c2w[:, :3, :3] = (turns * torch.linalg.det(turns)[:, None, None]).float()
    c2w[:, :3, 3] = torch.randn(n, 3, generator=generator)
    intrinsics = torch.tensor([30.0, 31.0, 16.5, 11.0]) + torch.arange(n)[:, None] * 0.25
    pixels = torch.randint(0, 256, (n, 3, *HW), generator=generator, dtype=torch.uint8)
    mask = torch.rand(n, 1, *HW, generator=generator) > 0.5 if masks else None
    views = Views(c2w, intrinsics, torch.tensor(times), HW)
    return MemoryClip("made", "made", views, pixels, mask, fps, **more)


def check_same(a: Clip, b: Clip) -> None:
    assert len(a) == len(b)
    assert torch.allclose(a.cameras.c2w, b.cameras.c2w, atol=1e-6)
    assert torch.allclose(a.cameras.intrinsics, b.cameras.intrinsics, atol=1e-5)
    first, second = a.views().rgb, b.views().rgb
    assert first is not None
    assert second is not None
    assert torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("format", ["fsm", "transforms", "colmap"])
@pytest.mark.parametrize("times", [[0.0] * 4, [0.0, 0.1, 0.2, 0.4], [0.0, 0.013, 0.5, 0.50007]])
def test_cameras_and_pictures_return(tmp_path: Path, format, times: list[float]):
    clip = clip_of(times, fps=10.0)
    lost = write_clip(clip, tmp_path / "out", format)
    found = open_clip(tmp_path / "out")
    check_clip(found)
    check_same(clip, found)
    if format == "colmap":
        assert found.static
        assert bool(lost) == (not clip.static)
    else:
        assert lost == []
        assert torch.allclose(found.cameras.time, clip.cameras.time, atol=2e-6)
        assert found.static == clip.static


def test_numbers_count_at_the_clips_rate_where_they_can():
    assert frame_numbers(clip_of([0.0, 0.1, 0.4], fps=10.0)) == ([0, 1, 4], 10.0)
    assert frame_numbers(clip_of([0.0, 0.013], fps=10.0)) == ([0, 13_000], 1e6)


@pytest.mark.parametrize("format", ["fsm", "transforms"])
def test_rigs_and_splits_return(tmp_path: Path, format):
    plan = IndexPlan((0, 1), (2, 3))
    clip = clip_of([0.0, 0.0, 0.5, 0.5], index_plan=plan, camera_ids=["l", "r", "l", "r"])
    write_clip(clip, tmp_path / "out", format)
    found = open_clip(tmp_path / "out")
    check_same(clip, found)
    assert found.camera_ids == clip.camera_ids
    assert found.index_plan == plan


def test_masks_return_in_transforms_and_are_named_elsewhere(tmp_path: Path):
    clip = clip_of([0.0, 0.1, 0.2, 0.3], masks=True)
    assert write_clip(clip, tmp_path / "t", "transforms") == []
    masks, given = open_clip(tmp_path / "t").views().mask, clip.views().mask
    assert masks is not None
    assert given is not None
    assert torch.equal(masks, given)
    assert "masks" in write_clip(clip, tmp_path / "f", "fsm")[0]


def test_command_converts_and_refuses_a_folder_that_is_there(tmp_path: Path, capsys):
    write_clip(clip_of([0.0, 0.1, 0.2]), tmp_path / "a", "fsm")
    arguments = ["convert", str(tmp_path / "a"), "-o", str(tmp_path / "b"), "--to", "transforms"]
    assert main(arguments) == 0
    assert "3 frames" in capsys.readouterr().out
    check_same(open_clip(tmp_path / "a"), open_clip(tmp_path / "b"))
    assert main(arguments) == 2
    assert "choose a new folder" in capsys.readouterr().err
