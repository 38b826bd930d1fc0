"""Small copies hold the same cameras, moments and, to eight bits, the same pixels."""

from pathlib import Path

import torch

from benchmarks.ablation.clips import small_copies
from fsm.datasets.open import open_dataset
from tests.ablation.small_suite import HW, NoiseClip, OneClip


def test_a_small_copy_is_the_clip(tmp_path: Path) -> None:
    path = small_copies(OneClip(), HW, tmp_path / "copies")
    dataset = open_dataset(path)
    assert tuple(dataset.ids) == ("noise",)
    copy, original = dataset.clip("noise").views(), NoiseClip().frames
    torch.testing.assert_close(copy.c2w, original.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(copy.intrinsics, original.intrinsics)
    torch.testing.assert_close(copy.time, original.time)
    assert copy.rgb is not None
    assert original.rgb is not None
    assert (copy.rgb - original.rgb).abs().max() <= 0.5 / 255 + 1e-6
    written = path.stat().st_mtime_ns
    assert small_copies(OneClip(), HW, tmp_path / "copies").stat().st_mtime_ns == written
