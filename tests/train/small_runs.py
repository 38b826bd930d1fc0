"""The smallest run that has everything, and how to read what it left."""

import dataclasses
import json
from pathlib import Path

from fsm.blocks import BlockConfig
from fsm.config import from_dict
from fsm.encoder import EncoderConfig
from fsm.model import ModelConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.renderers.stereo.config import StereoConfig, SweepConfig
from fsm.train.config import DataConfig, OptimConfig, StageConfig, TrainConfig
from fsm.train.throughput import MEASURED
from fsm.ttt import ElasticConfig

BLOCK = BlockConfig(
    dim=32, attention_head_dim=16, mlp_ratio=2, ns_dtype="float32", elastic=ElasticConfig("mas")
)
MODEL = ModelConfig(EncoderConfig(BLOCK, layers=1, patch=8, chunk_tokens=32))
STEREO = StereoConfig(sources=2, sweep=SweepConfig(planes=4))
HEAD = ReferenceHeadConfig(
    references=2, hidden=16, stereo=STEREO, refinements=(4,), refinement_width=8
)
DATA = DataConfig(
    hw=(32, 32), batch=1, inputs=(2, 3), targets=2, window=(6, 8), even=1.0, mirror=True
)
OPTIM = OptimConfig(steps=6, lr=1e-2, warmup=2, lpips="none", l2_warmup=0, clip_from=100, ema=0.9)
CONFIG = TrainConfig(MODEL, DATA, OPTIM, seed=1, precision="float32", log_every=1, save_every=2)


def changed(config: TrainConfig = CONFIG, **optim) -> TrainConfig:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))


def stage(from_step: int, **values) -> StageConfig:
    """A stage as a file writes it."""
    return from_dict(StageConfig, {"from_step": from_step, **values}, "stage")


def read_log(out: Path) -> list[dict]:
    """Log lines without the numbers that are not reproducible."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in e.items() if k not in MEASURED} for e in entries]
