"""Train and score what is missing. Any number of processes may share a folder; each run is
resumable, each result whole.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.ablation.clips import small_copies
from benchmarks.ablation.results import (
    BASELINES,
    BaselineScores,
    Result,
    Settings,
    claim,
    load_baselines,
    load_result,
    result_path,
    save_result,
)
from benchmarks.ablation.scores import (
    LoadedClip,
    load_clip,
    pull_by_chunk,
    rendering,
    score_baselines,
    score_chunks,
    score_counts,
    score_kinds,
    score_streams,
)
from benchmarks.ablation.variants import (
    Variant,
    chunk_tokens,
    start_config,
    variant_config,
    with_data,
)
from fsm.config import to_dict
from fsm.datasets.open import open_dataset
from fsm.datasets.world.clip import WorldClip
from fsm.files import read_json, write_json
from fsm.model import FSM
from fsm.runs import locked
from fsm.shards import WHOLE, Shard
from fsm.train.config import TrainConfig
from fsm.train.loop import train

WORLD_FRAMES = 192
TEST_CHUNKS = (1, 4, 16)


@dataclass(frozen=True)
class Suite:
    """One ablation: what is trained on what, and where it is kept."""

    folder: Path
    base: TrainConfig
    train_clips: str
    """List of clips trained on."""
    test_clips: str
    """List of clips scored on."""
    start_steps: int
    worlds: tuple[int, ...]

    def settings(self) -> Settings:
        """What its results share; opens both lists."""
        trained, tested = open_dataset(self.train_clips), open_dataset(self.test_clips)
        return Settings(
            with_data(self.base, self.train_clips),
            self.start_steps,
            len(trained),
            tuple(tested.ids),
            self.worlds,
        )


def run(
    suite: Suite, variants: Sequence[Variant], seeds: Sequence[int], shard: Shard = WHOLE
) -> None:
    """Do this process's part of the runs, variant by variant, all seeds of one before the next."""
    settings = suite.settings()
    suite.folder.mkdir(parents=True, exist_ok=True)
    with locked(suite.folder, wait=True):
        hashed = claim(suite.folder, settings)
        copies = small_copies(
            open_dataset(suite.train_clips), suite.base.data.hw, suite.folder / "clips"
        )
        if load_baselines(suite.folder) is None:
            scores = score_baselines(_clips(suite), suite.base.data.inputs[0])
            write_json(suite.folder / BASELINES, to_dict(BaselineScores(hashed, scores)))
    base = with_data(suite.base, str(copies))
    tasks = [(v, s) for v in variants for s in seeds]
    clips: list[LoadedClip] = []
    worlds: list[LoadedClip] = []
    for variant, seed in shard.part(tasks):
        path = result_path(suite.folder, variant.name, seed)
        if path.exists():
            load_result(path, hashed)
            continue
        model, log = _trained(suite, base, variant, seed)
        clips, worlds = clips or _clips(suite), worlds or _worlds(suite)
        save_result(suite.folder, _scored(suite, variant, seed, hashed, model, clips, worlds, log))
        print(f"{variant.name}, seed {seed}: {path}", flush=True)


def _trained(
    suite: Suite, base: TrainConfig, variant: Variant, seed: int
) -> tuple[FSM, list[dict]]:
    """The trained model and its log, from the common start of its seed."""
    start = _start(suite, base, seed) if suite.start_steps else None
    out = suite.folder / "runs" / f"{variant.name}-seed{seed}"
    model = train(variant_config(base, variant, seed, start), out)
    return model.eval(), [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def _start(suite: Suite, base: TrainConfig, seed: int) -> Path:
    """The weights all variants of a seed start from; whoever comes first trains them, others
    wait.
    """
    folder = suite.folder / "starts" / f"seed{seed}"
    with locked(folder, wait=True):
        done = folder / "done.json"
        if not done.exists() or read_json(done) != suite.start_steps:
            train(start_config(base, seed, suite.start_steps), folder / "run")
            write_json(done, suite.start_steps)
    return folder / "run" / "model"


def _clips(suite: Suite) -> list[LoadedClip]:
    tested = open_dataset(suite.test_clips)
    return [load_clip(tested.clip(id), suite.base.data.hw) for id in tested.ids]


def _worlds(suite: Suite) -> list[LoadedClip]:
    hw = suite.base.data.hw
    return [load_clip(WorldClip(seed, WORLD_FRAMES, hw, fps=24.0), hw) for seed in suite.worlds]


def _scored(
    suite: Suite,
    variant: Variant,
    seed: int,
    hashed: str,
    model: FSM,
    clips: list[LoadedClip],
    worlds: list[LoadedClip],
    log: list[dict],
) -> Result:
    base, inputs = suite.base, suite.base.data.inputs[0]
    chunks = {n: chunk_tokens(base, inputs, n) for n in TEST_CHUNKS}
    streams = {"own": score_streams(rendering(model), [*clips, *worlds])}
    if variant.chunks == 1:
        chunked = rendering(model, base.model.encoder.chunk_tokens)
        streams["chunked"] = score_streams(chunked, [*clips, *worlds])
    short, long = pull_by_chunk(model, clips, inputs), pull_by_chunk(model, clips, 64)
    tail = log[-max(1, len(log) // 5) :]
    return Result(
        variant=variant,
        seed=seed,
        settings=hashed,
        steps=base.optim.steps,
        skipped=log[-1]["skipped"],
        seconds_per_step=round(statistics.median(e["seconds"] for e in log), 4),
        train_psnr=round(statistics.fmean(e["psnr"] for e in tail), 4),
        torch=torch.__version__,
        pull_ratio=round(statistics.fmean(short), 6) if short else None,
        pull_by_chunk=long,
        cells=score_kinds(model, clips, inputs) | score_chunks(model, clips, inputs, chunks),
        counts=score_counts(model, clips),
        streams=streams,
    )
