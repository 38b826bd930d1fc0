"""Several evaluations on one page: a Markdown table of models and baselines by protocols, and a
picture for each protocol.

Made for model cards. Pictures show the clips that were evaluated: keep those of other people's
clips to yourself, and publish only pictures of the procedural worlds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fsm.errors import InputError
from fsm.evaluate.metrics import MASKED, METRIC_NAMES, ImageScore
from fsm.evaluate.pictures import ERROR_GAIN, TITLES, contact_sheet, error_map, load_pictures
from fsm.evaluate.protocols import even_positions
from fsm.evaluate.report import ARROWS, best_rows, printed
from fsm.evaluate.results import MODEL_ROW, EvaluationResult
from fsm.files import atomic_file, slug

# by which baselines may differ between machines, whose optical flow rounds differently
SAME_DB = 0.01


@dataclass(frozen=True)
class Run:
    """One evaluation: what ``fsm eval`` left in ``folder``, and the name its model goes by."""

    folder: Path
    name: str | None
    """None where only baselines were scored."""
    result: EvaluationResult

    @property
    def weights(self) -> str:
        """Hash of the model's weights."""
        return self.result.header["model"]["weights"]

    @property
    def frames(self) -> tuple[Any, ...]:
        """What makes numbers comparable: the frames of every clip that were shown and asked for,
        and how.
        """
        protocol = {
            k: v for k, v in self.result.header["protocol"].items() if k not in ("plans", "seed")
        }
        return protocol, *((s.id, s.input_index, s.target_index) for s in self.result.scenes)


@dataclass(frozen=True)
class Column:
    """Evaluations of several models on the same frames."""

    runs: tuple[Run, ...]

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return self.runs[0].result.header["protocol"]["name"]

    @property
    def title(self) -> str:
        """Protocol, number of clips, size and the first and last clip."""
        result = self.runs[0].result
        ids, (h, w) = [s.id for s in result.scenes], result.header["protocol"]["hw"]
        return f"{self.protocol}, {w}x{h}, {ids[0]}" + (
            f" to {ids[-1]} ({len(ids)} clips)" if len(ids) > 1 else ""
        )

    @property
    def baselines(self) -> dict[str, ImageScore]:
        """Mean scores of the baselines, the same in all runs."""
        return {row: score for row, score in self.runs[0].result.mean.items() if row != MODEL_ROW}

    @property
    def mean(self) -> dict[str, ImageScore]:
        """Mean scores of every row: models by their names, then baselines."""
        models = {run.name: run.result.mean[MODEL_ROW] for run in self.runs if run.name is not None}
        return {**models, **self.baselines}


def load_run(path: str) -> Run:
    """What ``fsm eval`` left in a folder, or ``NAME=FOLDER`` to call its model NAME. Refuses a run
    that lacks clips.
    """
    name, equals, folder = path.rpartition("=")
    place = Path(folder)
    place = place.parent if place.name == "results.json" else place
    result = EvaluationResult.load(place / "results.json")
    if result.missing:
        raise InputError(
            f"{place}: {len(result.missing)} clips have no numbers "
            f"({result.missing[0].id}, ...); finish that evaluation first."
        )
    if equals and MODEL_ROW not in result.rows:
        raise InputError(
            f"{place} holds baselines alone, so there is no model to be called {name!r}."
        )
    return Run(
        place,
        name if equals else result.label(MODEL_ROW) if MODEL_ROW in result.rows else None,
        result,
    )


def columns(runs: Sequence[Run]) -> tuple[Column, ...]:
    """Runs on the same frames stand in one column, columns in the order of their first runs.

    Raises ``InputError`` where numbers of a column cannot be compared: other metrics, other
    baselines, one model twice.
    """
    groups: list[list[Run]] = []
    for run in runs:
        group = next((g for g in groups if g[0].frames == run.frames), None)
        if group is None:
            groups.append([run])
        else:
            _check_comparable(group, run)
            group.append(run)
    weights: dict[str, tuple[str, Path]] = {}
    for run in runs:
        if run.name is not None:
            known, folder = weights.setdefault(run.name, (run.weights, run.folder))
            if known != run.weights:
                raise InputError(
                    f"{folder} and {run.folder} call different weights {run.name!r}; name "
                    "them apart, as NAME=FOLDER."
                )
    return tuple(Column(tuple(group)) for group in groups)


def _check_comparable(group: Sequence[Run], run: Run) -> None:
    first = group[0]
    ours, theirs = first.result.header["metrics"], run.result.header["metrics"]
    # what only one version measures does not make the rest differ
    if any(ours[m] != theirs[m] for m in set(ours) & set(theirs)):
        raise InputError(
            f"{first.folder} and {run.folder} were measured differently; evaluate one of "
            "them again."
        )
    if any(run.name == other.name for other in group):
        raise InputError(
            f"{run.folder} holds {run.name or 'the baselines'} on frames that another run "
            "has; leave one out."
        )
    ours, theirs = Column((first,)).baselines, Column((run,)).baselines
    for row in ours:
        if row not in theirs or abs(ours[row].psnr - theirs[row].psnr) > SAME_DB:
            raise InputError(
                f"{first.folder} and {run.folder} disagree about the baseline {row}, so "
                "their clips or versions differ; "
                "evaluate one of them again."
            )


def markdown(table: Sequence[Column]) -> str:
    """Models and baselines by columns; the best of a column in bold, ``not run`` where a model was
    not evaluated.
    """
    means = [column.mean for column in table]
    shown = [
        m
        for m in METRIC_NAMES
        if any(getattr(s, m) is not None for mean in means for s in mean.values())
    ]
    models = dict.fromkeys(
        run.name for column in table for run in column.runs if run.name is not None
    )
    baselines = dict.fromkeys(row for column in table for row in column.baselines)
    best = [best_rows(mean) for mean in means]
    lines = [
        "| "
        + " | ".join(
            [" / ".join(ARROWS[m] for m in shown), *(_escaped(column.title) for column in table)]
        )
        + " |",
        "|---" * (1 + len(table)) + "|",
    ]
    for row in (*models, *baselines):
        cells = [_cell(mean, row, shown, marks) for mean, marks in zip(means, best, strict=True)]
        lines.append("| " + " | ".join([_escaped(TITLES.get(row, row)), *cells]) + " |")
    measured = table[0].runs[0].result.header["metrics"]
    notes = [
        f"{ARROWS[m]}: {measured[m]}." for m in shown if m in ("lpips", "depth") and m in measured
    ]
    if any(m in MASKED for m in shown) and "masked" in measured:
        notes.append(f"{measured['masked']}.")
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _cell(
    mean: Mapping[str, ImageScore],
    row: str,
    shown: Sequence[str],
    best: Mapping[str, Sequence[str]],
) -> str:
    if row not in mean:
        return "not run"
    numbers = [(m, printed(mean[row], m)) for m in shown]
    return " / ".join(f"**{n}**" if row in best[m] and n != "-" else n for m, n in numbers)


def picture(column: Column, count: int = 6) -> np.ndarray:
    """Contact sheet [H, W, 3] of up to ``count`` clips: truth, each model, the best baseline by
    PSNR, and their errors.

    Of each clip the middle one of the targets that all runs kept. Raises ``InputError`` where a
    clip has none.
    """
    scenes = column.runs[0].result.scenes
    chosen = [scenes[i] for i in even_positions(len(scenes), count)]
    baselines = column.baselines
    best = max(baselines, key=lambda row: baselines[row].psnr)
    sources = [(run.name, run, MODEL_ROW) for run in column.runs if run.name is not None]
    sources.append((TITLES.get(best, best), column.runs[0], best))

    def images(run: Run, row: str) -> torch.Tensor:
        parts = [
            load_pictures(run.folder / "pictures" / slug(s.id), [_shared(column, s.id)], row)
            for s in chosen
        ]
        return torch.cat(parts)

    truth = images(column.runs[0], "truth")
    shown = {name: images(run, row) for name, run, row in sources}
    errors = {
        f"error of {name} (x{ERROR_GAIN:g})": error_map(rgb, truth) for name, rgb in shown.items()
    }
    return contact_sheet({TITLES["truth"]: truth, **shown, **errors}, [s.id for s in chosen])


def _shared(column: Column, id: str) -> int:
    """The middle one of the frames of a clip whose pictures all runs kept."""
    kept = [next(s.pictures for s in run.result.scenes if s.id == id) for run in column.runs]
    common = [frame for frame in kept[0] if all(frame in others for others in kept)]
    if not common:
        raise InputError(
            f"{column.runs[0].folder} and the others share no picture of {id}; evaluate "
            "with --pictures 3."
        )
    return common[len(common) // 2]


def write_comparison(table: Sequence[Column], out: Path, pictures: int = 6) -> str:
    """Write ``table.md`` and one PNG per column with ``pictures`` clips in it (0: none) into a
    folder; returns the Markdown.
    """
    import cv2

    text, names = markdown(table), []
    for column in table if pictures else ():
        names.append(column.protocol)
        repeats = names.count(column.protocol)
        suffix = f"-{repeats}" if repeats > 1 else ""
        name = f"{column.protocol}{suffix}.png"
        with atomic_file(out / name) as temporary:
            cv2.imwrite(str(temporary), np.ascontiguousarray(picture(column, pictures)[..., ::-1]))
        text += f"\n![{column.title}]({name})\n"
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text
