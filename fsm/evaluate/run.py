"""Run a protocol over a data set: a method's row and the baselines' rows, on the same frames,
always.

Every scene's numbers are written as soon as they are known; a run that was interrupted skips them
when started again with the same settings and ends with the same numbers. A clip that cannot be
loaded is listed as missing.
"""

import contextlib
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fsm.config import to_dict
from fsm.datasets.base import Clip, ClipDataset, IndexPlan
from fsm.errors import InputError
from fsm.evaluate.baselines import DESCRIBED
from fsm.evaluate.metrics import Metrics
from fsm.evaluate.pictures import save_pictures
from fsm.evaluate.protocols import Protocol, even_positions, save_plans
from fsm.evaluate.results import (
    EvaluationResult,
    MissingScene,
    SceneResult,
    scene_from_json,
    scene_to_json,
)
from fsm.evaluate.scoring import Method, score_clip
from fsm.files import slug, write_json
from fsm.runs import LOCK, SETTINGS, Run, tracked
from fsm.shards import NOTES, WHOLE, Shard, check_ids, forget_missing, note_missing, why_missing

NOT_YET = "not scored yet; the process that has this clip still runs, or is to be started again"


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and on which frames."""

    protocol: Protocol
    metrics: Metrics
    seed: int = 0
    """Of random plans."""
    plans: Mapping[str, IndexPlan] | None = None
    """Frames by clip, in place of the protocol's own choice."""

    def plan_for(self, clip: Clip) -> IndexPlan:
        """Inputs and targets of a clip; ``InputError`` where they are not frames of it."""
        if self.plans is None:
            return self.protocol.plan_for(clip, self.seed)
        return self.plans[clip.id].checked(len(clip), clip.source)

    def check_plans(self, ids: Sequence[str]) -> None:
        """Raise ``InputError`` for a clip of ``ids`` that the plans leave out."""
        lacking = [id for id in ids if self.plans is not None and id not in self.plans]
        if lacking:
            raise InputError(
                f"the plans have no entry for clip {lacking[0]!r}; make them anew or leave the "
                "clip out."
            )

    def header(self, method: Method | None) -> dict[str, Any]:
        """All that numbers follow from, as plain values."""
        import cv2

        source = "of the protocol"
        if self.plans is not None:
            frames = repr(
                [
                    (id, plan.input_index, plan.target_index)
                    for id, plan in sorted(self.plans.items())
                ]
            )
            source = f"from a file ({hashlib.sha256(frames.encode()).hexdigest()[:16]})"
        return {
            "protocol": {**self.protocol.describe(), "seed": self.seed, "plans": source},
            "metrics": self.metrics.describe(),
            "model": None if method is None else to_dict(method.info),
            "baselines": {name: DESCRIBED[name] for name in self.protocol.baselines},
            "software": {
                "fsm-toolkit": importlib.metadata.version("fsm-toolkit"),
                "torch": torch.__version__,
                "opencv": cv2.__version__,
                "python": platform.python_version(),
            },
        }


def evaluate(
    method: Method | None,
    dataset: ClipDataset,
    evaluation: Evaluation,
    out: Path | str,
    *,
    ids: Sequence[str] | None = None,
    pictures: int = 3,
    shard: Shard = WHOLE,
) -> EvaluationResult:
    """Score ``method`` (None: baselines only) on every clip of ``dataset``, or on those named by
    ``ids``.

    A scene is asked for the targets without rgb; inputs and targets are of the protocol's size. A
    clip whose scene has seen a target is listed as missing. Of each scene ``pictures`` targets are
    kept as PNG. Several processes share the clips where each is given its ``shard``; the result of
    each holds what all have done so far, so that the last one's is that of a single process.

    Writes ``scenes/*.json``, ``pictures/``, ``plans.json``, ``results.json`` and ``results.csv`` to
    ``out``. Raises ``InputError`` if ``out`` holds scenes of other settings, if a plan is lacking,
    or if no scene could be scored.
    """
    out = Path(out)
    wanted = tuple(dataset.ids if ids is None else ids)
    check_ids(wanted)
    evaluation.check_plans(wanted)
    run = Run(out, evaluation.header(method))
    mine = shard.part(wanted)
    with run.locked(wait=True):
        fresh = run.claim()
        forget_missing(out, mine)
    for id in tracked(mine, "scoring", len(mine)):
        try:
            _score_into(out, method, dataset.clip(id), evaluation, pictures)
        except InputError as error:  # one bad clip must not stop the others
            note_missing(out, id, str(error))
    with run.locked(wait=True):
        result = _collected(out, run.settings, wanted)
        if result.scenes:
            used = {s.id: IndexPlan(s.input_index, s.target_index) for s in result.scenes}
            save_plans(out / "plans.json", evaluation.protocol, evaluation.seed, used)
            result.save(out)
    if not result.scenes and not result.pending:
        if fresh and shard.count == 1:  # leave nothing behind that looks like a run
            _vacate(out, wanted)
        first = result.missing[0].reason if result.missing else "the data set has no clips."
        raise InputError(f"none of {len(wanted)} clips could be scored; the first one: {first}")
    return result


def _score_into(
    out: Path, method: Method | None, clip: Clip, evaluation: Evaluation, pictures: int
) -> None:
    """Write numbers and pictures of one clip, unless an earlier run left some for the same
    frames.
    """
    plan, path = evaluation.plan_for(clip), out / "scenes" / f"{slug(clip.id)}.json"
    if path.exists():
        done = scene_from_json(path)
        if (done.id, done.frames, done.input_index, done.target_index) == (
            clip.id,
            len(clip),
            plan.input_index,
            plan.target_index,
        ):
            return
    scored = score_clip(method, clip, plan, evaluation.protocol, evaluation.metrics)
    kept = even_positions(len(scored.truth), pictures)
    frames = [plan.target_index[i] for i in kept]
    shown = {"truth": scored.truth, **{row: seen.rgb for row, seen in scored.rows.items()}}
    save_pictures(out / "pictures" / slug(clip.id), frames, {k: v[kept] for k, v in shown.items()})
    write_json(path, scene_to_json(replace(scored.result, pictures=tuple(frames))))


def _collected(out: Path, header: Mapping[str, Any], wanted: Sequence[str]) -> EvaluationResult:
    """What all processes have left in ``out`` so far, in the order of ``wanted``."""
    scenes: list[SceneResult] = []
    missing: list[MissingScene] = []
    for id in wanted:
        path, reason = out / "scenes" / f"{slug(id)}.json", why_missing(out, id)
        if reason is not None:
            missing.append(MissingScene(id, reason))
        elif not path.exists():
            missing.append(MissingScene(id, NOT_YET, pending=True))
        else:
            try:
                scenes.append(scene_from_json(path))
            except InputError as error:  # another process's, from an earlier run
                missing.append(MissingScene(id, str(error)))
    return EvaluationResult(dict(header), tuple(scenes), tuple(missing))


def _vacate(out: Path, wanted: Sequence[str]) -> None:
    forget_missing(out, wanted)
    for name in (SETTINGS, LOCK):
        (out / name).unlink(missing_ok=True)
    for folder in (out / NOTES, out):
        with contextlib.suppress(OSError):
            folder.rmdir()
