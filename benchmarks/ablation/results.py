"""Results as values: one file per variant and seed, beside one file of what all of them share."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ablation.scores import Cell, StreamScore
from benchmarks.ablation.variants import Variant
from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.files import atomic_file, read_json
from fsm.runs import SETTINGS, Run
from fsm.train.config import SourceConfig, TrainConfig

RESULTS, BASELINES = "results", "baselines.json"


@dataclass(frozen=True)
class Settings:
    """What every variant of an ablation shares."""

    base: TrainConfig
    """The preset; a variant changes chunks, elastic prior and seed. Sources by file name only."""
    start_steps: int
    """Steps of the common start of a seed; 0: every variant starts from random weights."""
    train_clips: int
    """Clips trained on."""
    test_clips: tuple[str, ...]
    """Clips scored on."""
    worlds: tuple[int, ...]
    """Seeds of the procedural worlds whose streams are scored."""

    def without_paths(self) -> "Settings":
        """The same on any machine."""
        named = tuple(SourceConfig(Path(s.path).name, s.weight) for s in self.base.data.sources)
        return replace(self, base=replace(self.base, data=replace(self.base.data, sources=named)))


@dataclass(frozen=True)
class Result:
    """What one variant with one seed was trained to and how it scored."""

    variant: Variant
    seed: int
    settings: str
    """Hash of the settings file it belongs to."""
    steps: int
    """Training steps after the common start."""
    skipped: int
    """Steps skipped because of their gradients."""
    seconds_per_step: float
    train_psnr: float
    """Mean of the last fifth of the training log."""
    torch: str
    pull_ratio: float | None
    """‖pull‖ / ‖update‖, mean over layers and the chunks of the training's number of test inputs;
    None for LaCT.
    """
    pull_by_chunk: tuple[float, ...]
    """Likewise for each chunk of the longest test inputs."""
    cells: dict[str, Cell]
    """Keys ``spread`` and ``consecutive``, written as in training, and ``random/4``: in 4 chunks.
    """
    counts: dict[str, Cell]
    """Keys like ``spread/32``: which inputs and how many, chunks as long as in training."""
    streams: dict[str, tuple[StreamScore, ...]]
    """``own``: chunks as in training; ``chunked``: the chunks of the preset, where training had but
    one.
    """


@dataclass(frozen=True)
class BaselineScores:
    """What costs nothing, on the same frames."""

    settings: str
    """Hash of the settings file it belongs to."""
    cells: dict[str, dict[str, Cell]]
    """Baseline, then ``spread``, ``consecutive`` or ``random``."""


def claim(folder: Path, settings: Settings) -> str:
    """Note the settings in ``folder``, or check that those noted there are the same; their hash."""

    def up_to_date(stored: Any, where: str) -> dict[str, Any]:
        return to_dict(from_dict(Settings, stored, where))

    Run(folder, to_dict(settings.without_paths()), SETTINGS).claim(up_to_date)
    return settings_hash(folder)


def read_settings(folder: Path) -> Settings:
    """What the results in ``folder`` share."""
    path = folder / SETTINGS
    if not path.exists():
        raise InputError(
            f"{folder} holds no ablation: it lacks {SETTINGS}; name the folder that the "
            "runs wrote to."
        )
    return from_dict(Settings, read_json(path), str(path))


def settings_hash(folder: Path) -> str:
    """Hash of the settings as they stand in the file."""
    return hashlib.sha256(
        json.dumps(read_json(folder / SETTINGS), sort_keys=True).encode()
    ).hexdigest()[:16]


def result_path(folder: Path, variant: str, seed: int) -> Path:
    """Where the result of one run is kept."""
    return folder / RESULTS / f"{variant}-seed{seed}.json"


def save_result(folder: Path, result: Result) -> None:
    """Write one result, whole: a line per field, since a line per number would be a thousand."""
    lines = [
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}"
        for k, v in to_dict(result).items()
    ]
    with atomic_file(result_path(folder, result.variant.name, result.seed)) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def load_result(path: Path, settings: str) -> Result:
    """Read one result; one that belongs to other settings is an ``InputError``."""
    result = from_dict(Result, read_json(path), str(path))
    _check(path, result.settings, settings)
    return result


def load_baselines(folder: Path) -> BaselineScores | None:
    """The baselines of a folder, if they have been scored."""
    path = folder / BASELINES
    if not path.exists():
        return None
    scores = from_dict(BaselineScores, read_json(path), str(path))
    _check(path, scores.settings, settings_hash(folder))
    return scores


def _check(path: Path, found: str, settings: str) -> None:
    if found != settings:
        raise InputError(
            f"{path} belongs to settings {found}, but {SETTINGS} beside it hashes to "
            f"{settings}; keep the results of "
            "one ablation in one folder."
        )


def load_results(folder: Path) -> tuple[Result, ...]:
    """All results of a folder; ``InputError`` where there are none, or one is foreign."""
    read_settings(folder)
    paths = sorted((folder / RESULTS).glob("*.json"))
    if not paths:
        raise InputError(
            f"{folder / RESULTS} holds no results yet; run python -m benchmarks.ablation train "
            f"{folder} first."
        )
    found = settings_hash(folder)
    return tuple(load_result(p, found) for p in paths)
