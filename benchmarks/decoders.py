"""Decoders at equal compute: one trunk, one recipe, the same time of training from random weights
for each; what comes out.

Every decoder is trained at 64² for about the same time (steps are counted out beforehand from the
median of some, so that each schedule ends; the CPU time that a training took is in its row), and
scored on held-out clips (sparse and dense) and on held-out worlds from beside the path, next to the
trivial baselines. Writes runs, evaluations and decoders.json to OUT; a second call goes on where
the first one stopped.

    python -m benchmarks.decoders OUT --train train.json --test val_moving.json --minutes 5
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import cpu_name, start
from fsm.blocks import BlockConfig
from fsm.datasets.open import open_dataset
from fsm.encoder import EncoderConfig
from fsm.errors import InputError
from fsm.evaluate.metrics import Metrics
from fsm.evaluate.protocols import Dense, Novel, Protocol, Sparse
from fsm.evaluate.results import MODEL_ROW, ModelInfo
from fsm.evaluate.run import Evaluation, evaluate
from fsm.evaluate.scoring import Method
from fsm.files import read_json, write_json
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.train.config import DataConfig, OptimConfig, SourceConfig, StageConfig, TrainConfig
from fsm.train.loop import train

HW = (64, 64)
# their cameras move
WORLDS = tuple(f"world-{seed}" for seed in (1001, 1002, 1005, 1008, 1012, 1013, 1014, 1015))
TIMED = 24  # steps whose median says how many fit into the time
STEREO_SHARE = 0.25  # of the time, for decoders that learn depth from the frames first
SEED = 42
BLOCK = BlockConfig(dim=128, attention_head_dim=32, ttt_heads=4, mlp_ratio=2)
TRUNK = EncoderConfig(BLOCK, layers=4, patch=8, chunk_tokens=128)
DECODERS = {
    "direct, plain": ModelConfig(TRUNK),
    "direct, reference": ModelConfig(
        TRUNK, ReferenceHeadConfig(hidden=128, refinement_width=32, synthesis_width=32)
    ),
    "Gaussians, published (fsm)": ModelConfig(
        dataclasses.replace(TRUNK, input_layout="lrm10"), LrmHeadConfig()
    ),
    "Gaussians, pixel": ModelConfig(TRUNK, PixelGaussianHeadConfig(hidden=128)),
}
STEREO = ("direct, reference", "Gaussians, pixel")


def main() -> None:
    """Train, score, print."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("out", type=Path)
    arguments.add_argument(
        "--train",
        required=True,
        help="list of clips trained on, half of the samples; worlds are the rest",
    )
    arguments.add_argument("--test", required=True, help="list of clips scored on")
    arguments.add_argument("--minutes", type=float, default=5.0, help="of each training")
    given = arguments.parse_args()
    start(
        "Decoders at equal compute",
        trunk="4 blocks of width 128, patch 8",
        pictures="64²",
        minutes=given.minutes,
    )
    report = {
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "threads": 1,
        "precision": "bfloat16",
        "minutes": given.minutes,
    }
    rows = {}
    for name in DECODERS:
        rows[name] = trained_and_scored(name, given)
        write_json(given.out / "decoders.json", {**report, "decoders": rows})
    print_rows(rows)


def trained_and_scored(name: str, given: argparse.Namespace) -> dict:
    """One decoder's row; trained and scored only where that is still to do."""
    folder = given.out / "".join(c if c.isalnum() else "-" for c in name)
    plan = folder / "plan.json"
    asked = {"minutes": given.minutes, "train": given.train}
    if not plan.exists():
        write_json(plan, {**asked, **planned(name, given, folder)})
    counted = read_json(plan)
    if any(counted[k] != v for k, v in asked.items()):
        raise InputError(f"{plan} was made with other options than {asked}; choose another folder.")
    config = run_config(name, given.train, counted["stereo_steps"], counted["steps"])
    began, fresh = time.process_time(), not (folder / "run" / "state.pt").exists()
    model = train(config, folder / "run").eval()
    row = {"parameters": sum(p.numel() for p in model.parameters()), **counted}
    if fresh:
        write_json(folder / "cpu_seconds.json", round(time.process_time() - began, 1))
    if (folder / "cpu_seconds.json").exists():  # unknown of a training that was stopped on its way
        row["cpu_seconds"] = read_json(folder / "cpu_seconds.json")
    for label, protocol, source, ids in (
        ("sparse", Sparse(hw=HW), given.test, None),
        ("dense", Dense(hw=HW), given.test, None),
        ("novel", Novel(hw=HW), "world:1000-1015", WORLDS),
    ):
        row[label] = scores(model, name, protocol, source, ids, folder / label)
    return row


def scores(
    model: FSM, name: str, protocol: Protocol, source: str, ids: tuple[str, ...] | None, out: Path
) -> dict:
    """Mean PSNR and SSIM of the model and of each baseline."""
    info = ModelInfo(name, "trained here", "cpu", "float32")
    method = Method(model.reconstruct, info)
    result = evaluate(method, open_dataset(source), Evaluation(protocol, Metrics()), out, ids=ids)
    return {
        row: {"psnr": round(s.psnr, 3), "ssim": round(s.ssim, 4)} for row, s in result.mean.items()
    }


def planned(name: str, given: argparse.Namespace, folder: Path) -> dict:
    """How many steps of each kind fit into the time, from the seconds that some of them took."""
    budget = given.minutes * 60.0
    share = STEREO_SHARE if name in STEREO else 0.0
    whole = timed(run_config(name, given.train, 0, 10**6), folder / "timing")
    stereo = (
        timed(run_config(name, given.train, 10**6, 10**6), folder / "timing-stereo")
        if share
        else 0.0
    )
    stereo_steps = round(share * budget / stereo) if share else 0
    steps = stereo_steps + max(1, round((1.0 - share) * budget / whole))
    return {"seconds_per_step": round(whole, 4), "stereo_seconds_per_step": round(stereo, 4)} | {
        "stereo_steps": stereo_steps,
        "steps": steps,
    }


def timed(config: TrainConfig, out: Path) -> float:
    """Seconds of a step: the median, since the first of every shape counts its FLOPs."""
    train(dataclasses.replace(config, log_every=1), out, stop_after=TIMED)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return statistics.median(entry["seconds"] for entry in entries)


def run_config(name: str, clips: str, stereo_steps: int, steps: int) -> TrainConfig:
    """The one recipe."""
    stages = ()
    if stereo_steps:
        begin = StageConfig(0, learn="stereo", lr=6e-4, warmup=20)
        stages = (
            (begin,)
            if stereo_steps >= steps
            else (begin, StageConfig(stereo_steps, lr=1e-3, warmup=20))
        )
    data = DataConfig(
        sources=(SourceConfig(clips), SourceConfig("world")),
        hw=HW,
        batch=2,
        inputs=(4, 8, 16),
        chunks=(1, 2, 4),
        targets=4,
        window=(12, 136),
        even=0.5,
        zoom=1.25,
        mirror=True,
    )
    optim = OptimConfig(
        steps, 1e-3, warmup=20, lpips="none", clip_from=20, ema=0.98, depth_weight=0.03
    )
    return TrainConfig(DECODERS[name], data, optim, stages, seed=SEED, log_every=10, save_every=100)


def print_rows(rows: dict) -> None:
    """PSNR of every decoder, and of the baselines that every evaluation has beside it."""
    print(
        f"  {'PSNR [dB]':28s} {'steps':>6s} {'s/step':>7s} {'sparse':>7s} {'dense':>7s} "
        f"{'novel':>7s}"
    )
    for name, row in rows.items():
        numbers = [f"{row[kind][MODEL_ROW]['psnr']:7.2f}" for kind in ("sparse", "dense", "novel")]
        print(f"  {name:28s} {row['steps']:6d} {row['seconds_per_step']:7.2f} {' '.join(numbers)}")
    first = next(iter(rows.values()))
    for baseline in (r for r in first["sparse"] if r != MODEL_ROW):
        numbers = [f"{first[kind][baseline]['psnr']:7.2f}" for kind in ("sparse", "dense", "novel")]
        print(f"  {baseline:28s} {'':6s} {'':7s} {' '.join(numbers)}")


if __name__ == "__main__":
    sys.exit(main())
