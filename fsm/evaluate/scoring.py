"""One clip through a method and the baselines of its protocol: the same inputs, the same targets,
one score for each picture.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.datasets.base import Clip, IndexPlan
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.evaluate.baselines import Baseline
from fsm.evaluate.metrics import ImageScore, Metrics, depth_errors
from fsm.evaluate.protocols import Protocol
from fsm.evaluate.results import MODEL_ROW, ModelInfo, SceneResult, Timings
from fsm.frame_ids import check_unseen
from fsm.renderers.base import Scene
from fsm.views import Rendering, Views


@dataclass(frozen=True)
class Method:
    """What is evaluated."""

    make_scene: Callable[[Views], Scene]
    """Scene of the input views [v] with rgb."""
    info: ModelInfo
    """Name and weights, for the header."""


@dataclass(frozen=True)
class ScoredClip:
    """The numbers of a clip and the pictures that they were taken from."""

    result: SceneResult
    truth: Float[Tensor, "t 3 h w"]
    rows: Mapping[str, Rendering]
    """Pictures by row: the method's, where there is one, and the baselines'."""


def score_clip(
    method: Method | None, clip: Clip, plan: IndexPlan, protocol: Protocol, metrics: Metrics
) -> ScoredClip:
    """Render and score the targets of ``plan``; ``InputError`` where a scene has seen one of them,
    and where the pictures are not those asked for.
    """
    inputs, targets, depth, moving = _read(clip, plan, protocol)
    assert targets.rgb is not None, "clips give rgb"
    requests = targets.without_rgb()
    check_unseen(requests.frame_ids, inputs.frame_ids, clip.source)
    rows, timings = _predictions(method, inputs, requests, protocol.baselines, clip.source)
    result = SceneResult(
        id=clip.id,
        frames=len(clip),
        input_index=plan.input_index,
        target_index=plan.target_index,
        target_time=tuple(targets.time.tolist()),
        pictures=(),
        scores={row: _score(metrics, seen, targets, depth, moving) for row, seen in rows.items()},
        timings=timings,
    )
    return ScoredClip(result, targets.rgb, rows)


def _read(
    clip: Clip, plan: IndexPlan, protocol: Protocol
) -> tuple[Views, Views, Float[Tensor, "v 1 h w"] | None, Bool[Tensor, "v 1 h w"] | None]:
    """Inputs, targets with rgb, and of the targets the true z-depth and which pixels move, where
    the clip knows them.
    """
    requests, seen = protocol.requests(clip, plan), len(plan.input_index)
    if isinstance(clip, RenderedClip):
        truth = clip.truth(requests)
        return (
            clip.views(plan.input_index, protocol.hw),
            replace(requests, rgb=truth.rgb),
            truth.depth,
            clip.moving(requests),
        )
    # one pass through the video
    both = clip.views((*plan.input_index, *plan.target_index), protocol.hw)
    return both[list(range(seen))], both[list(range(seen, len(both)))], None, None


def _score(
    metrics: Metrics,
    seen: Rendering,
    targets: Views,
    depth: Float[Tensor, "v 1 h w"] | None,
    moving: Bool[Tensor, "v 1 h w"] | None,
) -> tuple[ImageScore, ...]:
    assert targets.rgb is not None, "targets are the truth"
    scores = metrics.score(seen.rgb, targets.rgb, targets.mask, moving)
    if depth is None or seen.depth is None:
        return scores
    errors = depth_errors(seen.depth, depth)
    return tuple(replace(score, depth=error) for score, error in zip(scores, errors, strict=True))


def _predictions(
    method: Method | None,
    inputs: Views,
    requests: Views,
    baselines: Mapping[str, Baseline],
    source: str,
) -> tuple[dict[str, Rendering], Timings]:
    """Each row's pictures (and depth) of the requests, on the CPU."""
    rows: dict[str, Rendering] = {}
    encode = render = None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if method is not None:
        start = _clock()
        scene = method.make_scene(inputs)
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
    for name, baseline in baselines.items():
        rows[name] = Rendering(baseline(inputs, requests).cpu())
    device = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    return rows, Timings(encode, render, _peak_memory_mb(), device)


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
