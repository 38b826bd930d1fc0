"""What a trained variant is asked, and how its answers are scored."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.blocks import record_pull_ratio
from fsm.datasets.base import Clip
from fsm.evaluate.baselines import BASELINES
from fsm.evaluate.metrics import psnr, quantised, ssim
from fsm.evaluate.protocols import Consecutive, Dense, Protocol, Spread, Stream
from fsm.model import FSM
from fsm.views import SceneFrame, Views

Render = Callable[[Views, Views, SceneFrame], Float[Tensor, "t 3 h w"]]
"""Pictures of requests [t] from inputs [v], both in the clip's space, with the normalisation to
use.
"""
STREAM = Stream()
INPUT_COUNTS = (4, 8, 16, 32, 64)
"""Numbers of test inputs."""
DIGITS = 4


@dataclass(frozen=True)
class LoadedClip:
    """All frames of a test clip, in memory."""

    id: str
    views: Views


@dataclass(frozen=True)
class Cell:
    """Scores of one setting: means over the targets of each clip, one entry per clip."""

    clips: tuple[str, ...]
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]


@dataclass(frozen=True)
class StreamScore:
    """What one long stream leaves behind, in dB of PSNR."""

    clip: str
    alone: float
    """Early targets, the early inputs alone in a normalisation of their own: what the model can do
    with them.
    """
    early: float
    """Early targets, only the early inputs written, in the normalisation of the whole stream."""
    late: float
    """Early targets, after the whole stream; late - early is the retention."""
    by_position: tuple[float, ...]
    """All targets after the whole stream, in the order of the stream."""


def load_clip(clip: Clip, hw: tuple[int, int]) -> LoadedClip:
    """Decode a clip once."""
    return LoadedClip(clip.id, clip.views(None, hw))


def rendering(model: FSM, chunk_tokens: int | None = None) -> Render:
    """How a model answers, in float32, from inputs written in chunks of ``chunk_tokens``; None: the
    config's number.
    """

    @torch.no_grad()
    def render(inputs: Views, requests: Views, frame: SceneFrame) -> Float[Tensor, "t 3 h w"]:
        one = SceneFrame(*(getattr(frame, f.name)[None] for f in dataclasses.fields(frame)))
        return model(
            one.to_model(inputs.batched()),
            one.to_model(requests.without_rgb().batched()),
            chunk_tokens,
        ).rgb[0]

    return render


def score_plans(render: Render, clips: Sequence[LoadedClip], protocol: Protocol) -> Cell:
    """Mean PSNR and SSIM of the targets of every clip."""
    rows = []
    for clip in clips:
        plan = protocol.plan(len(clip.views), clip.id)
        inputs, targets = clip.views[list(plan.input_index)], clip.views[list(plan.target_index)]
        rgb = render(inputs, targets.without_rgb(), SceneFrame.fit(inputs))
        assert targets.rgb is not None, "loaded clips have pixels"
        seen, truth = quantised(rgb), quantised(targets.rgb)
        rows.append((clip.id, _rounded(psnr(seen, truth)), _rounded(ssim(seen, truth))))
    ids, ratios, similarities = zip(*rows, strict=True)
    return Cell(ids, ratios, similarities)


def score_kinds(model: FSM, clips: Sequence[LoadedClip], inputs: int) -> dict[str, Cell]:
    """``inputs`` test inputs over the clip and in a row, written as the model was trained."""
    return {
        protocol.name: score_plans(rendering(model), clips, protocol)
        for protocol in (Spread(inputs=inputs), Consecutive(inputs=inputs))
    }


def score_baselines(clips: Sequence[LoadedClip], inputs: int) -> dict[str, dict[str, Cell]]:
    """What the trivial baselines give for the same frames."""
    protocols = {
        "spread": Spread(inputs=inputs),
        "consecutive": Consecutive(inputs=inputs),
        "random": Dense(inputs=inputs),
    }
    return {
        name: {
            kind: score_plans(lambda i, r, _, b=baseline: b(i, r), clips, protocol)
            for kind, protocol in protocols.items()
        }
        for name, baseline in BASELINES.items()
    }


def score_chunks(
    model: FSM, clips: Sequence[LoadedClip], inputs: int, chunks: dict[int, int]
) -> dict[str, Cell]:
    """``inputs`` random test inputs, written in each number of ``chunks`` (number:
    chunk_tokens).
    """
    return {
        f"random/{n}": score_plans(rendering(model, tokens), clips, Dense(inputs=inputs))
        for n, tokens in chunks.items()
    }


def score_counts(
    model: FSM, clips: Sequence[LoadedClip], counts: Sequence[int] = INPUT_COUNTS
) -> dict[str, Cell]:
    """Spread and consecutive inputs in every number, on the clips long enough for all; chunks as in
    training.
    """
    longest = Spread(inputs=max(counts))
    clips = [clip for clip in clips if longest.fits(len(clip.views))]
    if not clips:
        return {}
    return {
        f"{protocol.name}/{n}": score_plans(rendering(model), clips, protocol)
        for n in counts
        for protocol in (Spread(inputs=n), Consecutive(inputs=n))
    }


def score_streams(
    render: Render, clips: Sequence[LoadedClip], protocol: Stream = STREAM
) -> tuple[StreamScore, ...]:
    """Retention on every clip that is long enough."""
    return tuple(
        score_stream(render, clip, protocol) for clip in clips if protocol.fits(len(clip.views))
    )


def score_stream(render: Render, clip: LoadedClip, protocol: Stream = STREAM) -> StreamScore:
    """Early targets alone, early and late, and all targets by position."""
    plan = protocol.plan(len(clip.views), clip.id)
    inputs, targets = clip.views[list(plan.input_index)], clip.views[list(plan.target_index)]
    first = protocol.early_targets(plan)
    early, asked = inputs[: protocol.early], targets[:first]
    whole = SceneFrame.fit(inputs)
    late = _ratios(render(inputs, targets.without_rgb(), whole), targets)
    alone = render(early, asked.without_rgb(), SceneFrame.fit(early))
    return StreamScore(
        clip.id,
        alone=_rounded(_ratios(alone, asked)),
        early=_rounded(_ratios(render(early, asked.without_rgb(), whole), asked)),
        late=_rounded(late[:first]),
        by_position=tuple(round(v, DIGITS) for v in late.tolist()),
    )


@torch.no_grad()
def pull_by_chunk(model: FSM, clips: Sequence[LoadedClip], inputs: int) -> tuple[float, ...]:
    """‖pull‖ / ‖update‖ of each chunk of the clips' spread inputs, mean over layers and clips;
    empty without an elastic prior.
    """
    tables, protocol = [], Spread(inputs=inputs)
    for clip in (c for c in clips if protocol.fits(len(c.views))):
        plan = protocol.plan(len(clip.views), clip.id)
        views = clip.views[list(plan.input_index)].batched()
        with record_pull_ratio(model) as ratios:
            model.encoder.finish(
                model.encoder.update(model.encoder.empty(1), SceneFrame.fit(views).to_model(views))
            )
        if ratios:  # layer by layer, and chunk by chunk within each
            tables.append(torch.cat(ratios).view(len(model.encoder.blocks), -1).mean(0))
    return tuple(round(v, 6) for v in torch.stack(tables).mean(0).tolist()) if tables else ()


def _ratios(rgb: Float[Tensor, "t 3 h w"], targets: Views) -> Tensor:
    assert targets.rgb is not None, "loaded clips have pixels"
    return psnr(quantised(rgb), quantised(targets.rgb))


def _rounded(values: Tensor) -> float:
    return round(values.mean().item(), DIGITS)
