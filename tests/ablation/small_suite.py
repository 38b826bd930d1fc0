"""The smallest ablation: two steps a run on a clip of noise."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.ablation.clips import small_copies
from benchmarks.ablation.driver import Suite
from benchmarks.ablation.results import Result
from benchmarks.ablation.scores import Cell, StreamScore
from benchmarks.ablation.variants import Variant
from fsm.blocks import BlockConfig
from fsm.datasets.base import Clip
from fsm.encoder import EncoderConfig
from fsm.model import ModelConfig
from fsm.train.config import DataConfig, OptimConfig, TrainConfig
from fsm.views import Views
from tests.small import small_views

HW = (16, 16)
BLOCK = BlockConfig(dim=16, attention_head_dim=16, mlp_ratio=1, ns_dtype="float32")
BASE = TrainConfig(
    ModelConfig(EncoderConfig(BLOCK, layers=1, patch=8, chunk_tokens=16)),
    DataConfig(hw=HW, batch=1, inputs=(16,), targets=2, window=(20, 40)),
    OptimConfig(steps=2, warmup=1, lpips="none", l2_warmup=0, ema=0.5),
    precision="float32",
    log_every=1,
    save_every=1,
)


class NoiseClip(Clip):
    """130 frames of noise along an arc."""

    def __init__(self) -> None:
        self.frames = small_views(130, hw=HW)
        super().__init__("noise", "noise", self.frames.without_rgb(), fps=10.0)

    def observations(self, indices: list[int]) -> Iterator[Views]:
        yield self.frames[indices]


class OneClip:
    """A data set of one clip."""

    ids = ("noise",)

    def __len__(self) -> int:
        return 1

    def clip(self, id: str) -> Clip:
        assert id == "noise"
        return NoiseClip()


def small_suite(folder: Path, start_steps: int = 0, steps: int = 2) -> Suite:
    """A suite whose training and test clips lie in ``folder``."""
    clips = str(small_copies(OneClip(), HW, folder / "noise"))
    base = dataclasses.replace(BASE, optim=dataclasses.replace(BASE.optim, steps=steps))
    return Suite(folder / "suite", base, clips, clips, start_steps, worlds=())


def made_result(variant: Variant, seed: int, settings: str, level: float) -> Result:
    """A result whose every number follows from ``level``."""
    by_position = tuple(level + i for i in range(32))
    streams = {"own": (StreamScore("a", level, level + 1, level + 0.5, by_position),)}
    pull = () if variant.elastic is None else (level / 1000, level / 500)
    return Result(
        variant=variant,
        seed=seed,
        settings=settings,
        steps=2,
        skipped=0,
        seconds_per_step=0.1,
        train_psnr=level,
        torch="2",
        pull_ratio=None if variant.elastic is None else level / 1000,
        pull_by_chunk=pull,
        cells={
            k: Cell(("a", "b"), (level, level + 2), (0.5, 0.7))
            for k in ("spread", "consecutive", "random/1", "random/4")
        },
        counts={
            f"{k}/{n}": Cell(("a",), (level + n,), (0.5,))
            for k in ("spread", "consecutive")
            for n in (4, 8)
        },
        streams=streams,
    )


def plain_tree(folder: Path) -> dict[str, bytes]:
    """Result files by name."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob("results/*.json"))}


def without_times(content: bytes) -> dict:
    """A result less what no two runs share."""
    value = json.loads(content)
    assert np.isfinite(value.pop("seconds_per_step"))
    return value
