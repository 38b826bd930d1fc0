"""Results as values: per image, per scene, mean; their JSON and CSV forms."""

import csv
import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.evaluate.metrics import METRIC_NAMES, ImageScore, mean_score
from fsm.files import atomic_file, read_json, write_json

MODEL_ROW = "model"
"""Key of the evaluated model's row; its display name stands in the header."""


@dataclass(frozen=True)
class ModelInfo:
    """Where a model's numbers come from; strings only, for the header."""

    name: str
    weights: str
    """Hash of the weights."""
    device: str
    dtype: str


@dataclass(frozen=True)
class Timings:
    """Wall-clock costs of one scene; None without a model."""

    encode_seconds: float | None
    """From input views to scene."""
    render_seconds_per_frame: float | None
    peak_memory_mb: float
    """Peak resident memory of the process so far."""
    peak_device_memory_mb: float | None = None
    """Peak memory torch held on a CUDA device during the scene."""


@dataclass(frozen=True)
class SceneResult:
    """Scores of one clip: for each row (model and baselines) one score per target, in the order of
    ``target_index``.
    """

    id: str
    frames: int
    """Length of the clip."""
    input_index: tuple[int, ...]
    target_index: tuple[int, ...]
    target_time: tuple[float, ...]
    """Seconds since the clip's first frame."""
    pictures: tuple[int, ...]
    """Targets whose pictures were kept for the report."""
    scores: dict[str, tuple[ImageScore, ...]]
    timings: Timings

    @property
    def mean(self) -> dict[str, ImageScore]:
        """Mean over the scene's images for each row."""
        return {row: mean_score(scores) for row, scores in self.scores.items()}


@dataclass(frozen=True)
class MissingScene:
    """A clip that gave no numbers, and why."""

    id: str
    reason: str
    pending: bool = False
    """Not tried yet: another process has it."""


@dataclass(frozen=True)
class EvaluationResult:
    """Everything a report needs. Means run over the scored scenes; ``missing`` says which ones they
    leave out.
    """

    header: dict[str, Any]
    scenes: tuple[SceneResult, ...]
    missing: tuple[MissingScene, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Row names: the model first where there is one, then the baselines."""
        return tuple(self.scenes[0].scores) if self.scenes else ()

    @property
    def pending(self) -> tuple[MissingScene, ...]:
        """Scenes that other processes have still to do."""
        return tuple(m for m in self.missing if m.pending)

    @property
    def mean(self) -> dict[str, ImageScore]:
        """Mean over scenes of the scenes' means, for each row."""
        means = [scene.mean for scene in self.scenes]
        return {row: mean_score(tuple(m[row] for m in means)) for row in self.rows}

    @property
    def timings(self) -> Timings:
        """Median costs of a scene, and the largest peaks of memory."""

        def known(name: str) -> list[float]:
            return [v for s in self.scenes if (v := getattr(s.timings, name)) is not None]

        encode, render = known("encode_seconds"), known("render_seconds_per_frame")
        return Timings(
            statistics.median(encode) if encode else None,
            statistics.median(render) if render else None,
            max(known("peak_memory_mb")),
            max(known("peak_device_memory_mb"), default=None),
        )

    def label(self, row: str) -> str:
        """Display name of a row."""
        model = self.header.get("model")
        return model["name"] if row == MODEL_ROW and model else row

    def save(self, folder: Path) -> None:
        """Write ``results.json`` and ``results.csv``."""
        count = {"expected": len(self.scenes) + len(self.missing), "scored": len(self.scenes)}
        value = {
            "header": self.header,
            "scenes_counted": count,
            "missing": [to_dict(m) for m in self.missing],
            "mean": {row: to_dict(score) for row, score in self.mean.items()},
            "timings": to_dict(self.timings),
            "scenes": [
                {**scene_to_json(s), "mean": {r: to_dict(m) for r, m in s.mean.items()}}
                for s in self.scenes
            ],
        }
        write_json(folder / "results.json", value)
        _write_csv(folder / "results.csv", self)

    @staticmethod
    def load(path: Path | str) -> "EvaluationResult":
        """Read ``results.json`` back (means are computed anew)."""
        value = read_json(path)
        if not isinstance(value, dict) or not {"header", "scenes", "missing"} <= set(value):
            raise InputError(
                f"{path} is not a results.json of fsm eval; it lacks header, scenes or missing."
            )
        scenes = [{k: v for k, v in entry.items() if k != "mean"} for entry in value["scenes"]]
        return EvaluationResult(
            value["header"],
            tuple(from_dict(SceneResult, s, f"{path}: scenes[{i}]") for i, s in enumerate(scenes)),
            tuple(
                from_dict(MissingScene, m, f"{path}: missing[{i}]")
                for i, m in enumerate(value["missing"])
            ),
        )


def scene_to_json(scene: SceneResult) -> dict[str, Any]:
    """Plain values of a scene's result; ``scene_from_json`` is the inverse, bit for bit."""
    return to_dict(scene)


def scene_from_json(path: Path) -> SceneResult:
    """Read one scene's result; ``InputError`` names the file and the field that is wrong."""
    return from_dict(SceneResult, read_json(path), str(path))


def without_timings(value: Any) -> Any:
    """Plain JSON value less every ``timings`` entry: what two runs of one evaluation share
    exactly.
    """
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k != "timings"}
    if isinstance(value, list):
        return [without_timings(v) for v in value]
    return value


def _write_csv(path: Path, result: EvaluationResult) -> None:
    """One line per image, per scene and for the whole, told apart by ``scope``; ``missing`` scenes
    have no numbers.
    """
    lines: list[list[Any]] = []
    for scene in result.scenes:
        for row, scores in scene.scores.items():
            for frame, time, score in zip(
                scene.target_index, scene.target_time, scores, strict=True
            ):
                lines.append(["frame", scene.id, frame, time, row, *dataclasses.astuple(score)])
            lines.append(["scene", scene.id, "", "", row, *dataclasses.astuple(scene.mean[row])])
    lines += [["missing", scene.id, *[""] * (3 + len(METRIC_NAMES))] for scene in result.missing]
    lines += [
        ["mean", "", "", "", row, *dataclasses.astuple(score)] for row, score in result.mean.items()
    ]
    with (
        atomic_file(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.writer(handle)
        writer.writerow(["scope", "scene", "frame", "time", "row", *METRIC_NAMES])
        writer.writerows(lines)
