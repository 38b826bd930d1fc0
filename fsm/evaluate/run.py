"""Run a protocol over a data set: a model's row and the three baselines' rows, on the same frames,
always.

Every scene's numbers are written as soon as they are known; a run that was interrupted skips them
when started again with the same settings and ends with the same numbers. A clip that cannot be
loaded is listed as missing.
"""

import contextlib
import hashlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.config import to_dict
from fsm.datasets.base import Clip, ClipDataset, IndexPlan, RenderedClip
from fsm.errors import InputError
from fsm.evaluate.baselines import BASELINES
from fsm.evaluate.metrics import ImageScore, Metrics, depth_errors
from fsm.evaluate.pictures import save_pictures
from fsm.evaluate.protocols import Protocol, save_plans, spread
from fsm.evaluate.results import (
    MODEL_ROW,
    EvaluationResult,
    MissingScene,
    ModelInfo,
    SceneResult,
    Timings,
    scene_from_json,
    scene_to_json,
)
from fsm.files import read_json, slug, write_json
from fsm.frame_ids import check_unseen
from fsm.renderers.base import Scene
from fsm.runs import LOCK, locked
from fsm.shards import NOTES, WHOLE, Shard, check_ids, forget_missing, note_missing, why_missing
from fsm.views import Rendering, Views

SETTINGS = "settings.json"
NOT_YET = "not scored yet; the process that has this clip still runs, or is to be started again"

MakeScene = Callable[[Views], Scene]


def evaluate(
    make_scene: MakeScene | None,
    dataset: ClipDataset,
    protocol: Protocol,
    *,
    out: Path | str,
    metrics: Metrics,
    model: ModelInfo | None = None,
    seed: int = 0,
    plans: Mapping[str, IndexPlan] | None = None,
    ids: Sequence[str] | None = None,
    pictures: int = 3,
    shard: Shard = WHOLE,
    progress: bool | None = None,
) -> EvaluationResult:
    """Score ``make_scene`` (None: baselines only) on every clip of ``dataset``, or on those named
    by ``ids``.

    ``make_scene`` gets the input views with rgb, the scene it returns is asked for the targets
    without; inputs and targets are of ``protocol.hw``. A clip whose scene has seen a target is
    listed as missing. ``plans`` replaces the protocol's own choice of frames. Of each scene
    ``pictures`` targets are kept as PNG. Several processes share the clips where each is given its
    ``shard``; the result of each holds what all have done so far, so that the last one's is that of
    a single process. ``progress`` shows a bar (by default on a terminal only).

    Writes ``scenes/*.json``, ``pictures/``, ``plans.json``, ``results.json`` and ``results.csv`` to
    ``out``. Raises ``InputError`` if ``out`` holds scenes of other settings, if a plan is lacking,
    or if no scene could be scored.
    """
    if (make_scene is None) != (model is None):
        raise InputError(
            "evaluate needs make_scene and model (its description) together, or neither."
        )
    out = Path(out)
    wanted = tuple(dataset.ids if ids is None else ids)
    check_ids(wanted)
    for id in wanted:
        if plans is not None and id not in plans:
            raise InputError(
                f"the plans have no entry for clip {id!r}; make them anew or leave the clip out."
            )
    header = _header(protocol, seed, metrics, model, plans)
    mine = shard.part(wanted)
    with locked(out, wait=True):
        fresh = _claim(out, header)
        forget_missing(out, mine)
    for id in _tracked(mine, progress):
        try:
            clip = dataset.clip(id)
            plan = (
                protocol.plan_for(clip, seed)
                if plans is None
                else plans[id].checked(len(clip), clip.source)
            )
            _scene(make_scene, clip, plan, protocol, out, metrics, pictures)
        except InputError as error:  # one bad clip must not stop the others
            note_missing(out, id, str(error))
    with locked(out, wait=True):
        result = _collected(out, header, wanted)
        if result.scenes:
            used = {s.id: IndexPlan(s.input_index, s.target_index) for s in result.scenes}
            save_plans(out / "plans.json", protocol, seed, used)
            result.save(out)
        elif not result.pending:
            if fresh and shard.count == 1:  # leave nothing behind that looks like a run
                _vacate(out, wanted)
            first = result.missing[0].reason if result.missing else "the data set has no clips."
            raise InputError(f"none of {len(wanted)} clips could be scored; the first one: {first}")
    return result


def _collected(out: Path, header: dict[str, Any], wanted: Sequence[str]) -> EvaluationResult:
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
    return EvaluationResult(header, tuple(scenes), tuple(missing))


def _vacate(out: Path, wanted: Sequence[str]) -> None:
    forget_missing(out, wanted)
    for name in (SETTINGS, LOCK):
        (out / name).unlink(missing_ok=True)
    for folder in (out / NOTES, out):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _scene(
    make_scene: MakeScene | None,
    clip: Clip,
    plan: IndexPlan,
    protocol: Protocol,
    out: Path,
    metrics: Metrics,
    pictures: int,
) -> None:
    """Write the numbers of one clip, unless an earlier run left some for the same frames."""
    path = out / "scenes" / f"{slug(clip.id)}.json"
    if path.exists():
        done = scene_from_json(path)
        if (done.id, done.frames, done.input_index, done.target_index) == (
            clip.id,
            len(clip),
            plan.input_index,
            plan.target_index,
        ):
            return
    inputs, targets, depth = _read(clip, plan, protocol)
    assert targets.rgb is not None, "clips give rgb"
    rows, timings = _predictions(make_scene, inputs, targets.without_rgb(), clip.source)
    truth = targets.rgb
    kept = spread(len(truth), pictures)
    result = SceneResult(
        id=clip.id,
        frames=len(clip),
        input_index=plan.input_index,
        target_index=plan.target_index,
        target_time=tuple(targets.time.tolist()),
        pictures=tuple(plan.target_index[i] for i in kept),
        scores={row: _score(metrics, seen, targets, depth) for row, seen in rows.items()},
        timings=timings,
    )
    frames = [plan.target_index[i] for i in kept]
    shown = {"truth": truth, **{row: seen.rgb for row, seen in rows.items()}}
    save_pictures(out / "pictures" / slug(clip.id), frames, {k: v[kept] for k, v in shown.items()})
    write_json(path, scene_to_json(result))


def _read(
    clip: Clip, plan: IndexPlan, protocol: Protocol
) -> tuple[Views, Views, Float[Tensor, "v 1 h w"] | None]:
    """Inputs, targets with rgb, and the targets' true z-depth where the clip knows it."""
    requests, seen = protocol.requests(clip, plan), len(plan.input_index)
    if isinstance(clip, RenderedClip):
        truth = clip.truth(requests)
        return (
            clip.views(plan.input_index, protocol.hw),
            replace(requests, rgb=truth.rgb),
            truth.depth,
        )
    # one pass through the video
    both = clip.views((*plan.input_index, *plan.target_index), protocol.hw)
    return both[list(range(seen))], both[list(range(seen, len(both)))], None


def _score(
    metrics: Metrics, seen: Rendering, targets: Views, depth: Float[Tensor, "v 1 h w"] | None
) -> tuple[ImageScore, ...]:
    assert targets.rgb is not None, "targets are the truth"
    scores = metrics.score(seen.rgb, targets.rgb, targets.mask)
    if depth is None or seen.depth is None:
        return scores
    errors = depth_errors(seen.depth, depth)
    return tuple(replace(score, depth=error) for score, error in zip(scores, errors, strict=True))


def _predictions(
    make_scene: MakeScene | None, inputs: Views, requests: Views, source: str
) -> tuple[dict[str, Rendering], Timings]:
    """Each row's pictures (and depth) of the requests, on the CPU. Nothing here has seen the
    targets' pixels: ``InputError`` where the scene, or an input, says otherwise.
    """
    check_unseen(requests.frame_ids, inputs.frame_ids, source)
    rows: dict[str, Rendering] = {}
    encode = render = None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if make_scene is not None:
        start = _clock()
        scene = make_scene(inputs)
        check_unseen(requests.frame_ids, scene.frames_seen, source)
        encoded = _clock()
        rendering = scene.render(requests)
        encode, render = encoded - start, (_clock() - encoded) / len(requests)
        expected = (len(requests), 3, *requests.hw)
        if tuple(rendering.rgb.shape) != expected:
            raise InputError(
                f"the scene rendered rgb of shape {tuple(rendering.rgb.shape)}, expected "
                f"{expected}."
            )
        depth = None if rendering.depth is None else rendering.depth.detach().float().cpu()
        rows[MODEL_ROW] = Rendering(rendering.rgb.detach().float().cpu(), depth=depth)
    for name, baseline in BASELINES.items():
        rows[name] = Rendering(baseline(inputs, requests).cpu())
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return rows, Timings(encode, render, _peak_memory_mb(), device)


def _header(
    protocol: Protocol,
    seed: int,
    metrics: Metrics,
    model: ModelInfo | None,
    plans: Mapping[str, IndexPlan] | None,
) -> dict[str, Any]:
    import cv2

    source = "of the protocol"
    if plans is not None:
        frames = repr(
            [(id, plan.input_index, plan.target_index) for id, plan in sorted(plans.items())]
        )
        source = f"from a file ({hashlib.sha256(frames.encode()).hexdigest()[:16]})"
    return {
        "protocol": {**protocol.describe(), "seed": seed, "plans": source},
        "metrics": metrics.describe(),
        "model": None if model is None else to_dict(model),
        "baselines": {
            "nearest": "copy of the input nearest in time",
            "blend": "the inputs before and after, weighted by time",
            "flow": (
                "the same two, warped by optical flow (OpenCV DIS, preset medium) before blending"
            ),
        },
        "software": {
            "fsm-toolkit": importlib.metadata.version("fsm-toolkit"),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
        },
    }


def _claim(out: Path, header: dict[str, Any]) -> bool:
    """Note the settings in ``out`` (true), or check that the ones noted there are the same
    (false).
    """
    path = out / SETTINGS
    if not path.exists():
        write_json(path, header)
        return True
    stored = read_json(path)
    for part in header:
        if not isinstance(stored, dict) or stored.get(part) != header[part]:
            raise InputError(
                f"{out} holds results of another {part} ({path.name} differs); choose "
                "another folder or remove it."
            )
    return False


def _tracked(ids: Sequence[str], progress: bool | None):
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    show = console.is_terminal if progress is None else progress
    return track(ids, description="Scoring", console=console, disable=not show)


def _clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory_mb() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
