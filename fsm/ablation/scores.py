"""What a trained variant is asked, and how its answers are scored."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.ablation.protocol import INPUT_COUNTS, Stream, consecutive, fits, spread, stream
from fsm.blocks import record_pull_ratio
from fsm.datasets.base import Clip, IndexPlan
from fsm.evaluate.baselines import BASELINES
from fsm.evaluate.metrics import psnr, quantised, ssim
from fsm.evaluate.protocols import Dense
from fsm.model import FSM
from fsm.views import SceneFrame, Views

Draw = Callable[[Views, Views, SceneFrame], Float[Tensor, "t 3 h w"]]
"""Pictures of requests [t] from inputs [v], both in the clip's space, with the normalisation to
use.
"""
DIGITS = 4


@dataclass(frozen=True)
class Film:
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


def load_film(clip: Clip, hw: tuple[int, int]) -> Film:
    """Decode a clip once."""
    return Film(clip.id, clip.views(None, hw))


def drawing(model: FSM, chunk_tokens: int | None = None) -> Draw:
    """How a model answers, in float32, from inputs written in chunks of ``chunk_tokens``; None: the
    config's number.
    """

    @torch.no_grad()
    def draw(inputs: Views, requests: Views, frame: SceneFrame) -> Float[Tensor, "t 3 h w"]:
        one = SceneFrame(*(getattr(frame, f.name)[None] for f in dataclasses.fields(frame)))
        return model(
            one.to_model(inputs.batched()),
            one.to_model(requests.without_rgb().batched()),
            chunk_tokens,
        ).rgb[0]

    return draw


def score_plans(draw: Draw, films: Sequence[Film], plan: Callable[[Film], IndexPlan]) -> Cell:
    """Mean PSNR and SSIM of the targets of every clip."""
    rows = []
    for film in films:
        chosen = plan(film)
        inputs, targets = (
            film.views[list(chosen.input_index)],
            film.views[list(chosen.target_index)],
        )
        rgb = draw(inputs, targets.without_rgb(), SceneFrame.fit(inputs))
        assert targets.rgb is not None, "films have pixels"
        seen, truth = quantised(rgb), quantised(targets.rgb)
        rows.append((film.id, _rounded(psnr(seen, truth)), _rounded(ssim(seen, truth))))
    ids, ratios, similarities = zip(*rows, strict=True)
    return Cell(ids, ratios, similarities)


def score_kinds(model: FSM, films: Sequence[Film], inputs: int) -> dict[str, Cell]:
    """``inputs`` test inputs over the clip and in a row, written as the model was trained."""
    draw = drawing(model)
    return {
        "spread": score_plans(draw, films, lambda f: spread(len(f.views), inputs)),
        "consecutive": score_plans(draw, films, lambda f: consecutive(len(f.views), inputs)),
    }


def score_baselines(films: Sequence[Film], inputs: int) -> dict[str, dict[str, Cell]]:
    """What the trivial baselines give for the same frames."""
    plans = {
        "spread": lambda f: spread(len(f.views), inputs),
        "consecutive": lambda f: consecutive(len(f.views), inputs),
        "random": lambda f: Dense(inputs=inputs).plan(len(f.views), f.id),
    }
    return {
        name: {
            kind: score_plans(lambda i, r, _, b=baseline: b(i, r), films, plan)
            for kind, plan in plans.items()
        }
        for name, baseline in BASELINES.items()
    }


def score_chunks(
    model: FSM, films: Sequence[Film], inputs: int, chunks: dict[int, int]
) -> dict[str, Cell]:
    """``inputs`` random test inputs, written in each number of ``chunks`` (number:
    chunk_tokens).
    """
    plan = Dense(inputs=inputs).plan
    return {
        f"random/{n}": score_plans(
            drawing(model, tokens), films, lambda f: plan(len(f.views), f.id)
        )
        for n, tokens in chunks.items()
    }


def score_counts(
    model: FSM, films: Sequence[Film], counts: Sequence[int] = INPUT_COUNTS
) -> dict[str, Cell]:
    """Spread and consecutive inputs in every number, on the clips long enough for all; chunks as in
    training.
    """
    films = [f for f in films if fits(len(f.views), max(counts))]
    draw, cells = drawing(model), {}
    if not films:
        return {}
    for n in counts:
        cells[f"spread/{n}"] = score_plans(draw, films, lambda f, n=n: spread(len(f.views), n))
        cells[f"consecutive/{n}"] = score_plans(
            draw, films, lambda f, n=n: consecutive(len(f.views), n)
        )
    return cells


def score_streams(draw: Draw, films: Sequence[Film]) -> tuple[StreamScore, ...]:
    """Retention on every clip that is long enough."""
    plans = ((f, stream(len(f.views))) for f in films)
    return tuple(score_stream(draw, film, plan) for film, plan in plans if plan is not None)


def score_stream(draw: Draw, film: Film, plan: Stream) -> StreamScore:
    """Early targets alone, early and late, and all targets by position."""
    everything, targets = film.views[list(plan.inputs)], film.views[list(plan.targets)]
    early, asked = everything[: plan.early], targets[: plan.early_targets]
    whole = SceneFrame.fit(everything)
    late = _ratios(draw(everything, targets.without_rgb(), whole), targets)
    first = plan.early_targets
    return StreamScore(
        film.id,
        alone=_rounded(_ratios(draw(early, asked.without_rgb(), SceneFrame.fit(early)), asked)),
        early=_rounded(_ratios(draw(early, asked.without_rgb(), whole), asked)),
        late=_rounded(late[:first]),
        by_position=tuple(round(v, DIGITS) for v in late.tolist()),
    )


@torch.no_grad()
def pull_by_chunk(model: FSM, films: Sequence[Film], inputs: int) -> tuple[float, ...]:
    """‖pull‖ / ‖update‖ of each chunk of the clips' spread inputs, mean over layers and clips;
    empty without an elastic prior.
    """
    tables = []
    for film in (f for f in films if fits(len(f.views), inputs)):
        views = film.views[list(spread(len(film.views), inputs).input_index)].batched()
        with record_pull_ratio(model) as ratios:
            model.encoder.finish(
                model.encoder.update(model.encoder.empty(1), SceneFrame.fit(views).to_model(views))
            )
        if ratios:  # layer by layer, and chunk by chunk within each
            tables.append(torch.cat(ratios).view(len(model.encoder.blocks), -1).mean(0))
    return tuple(round(v, 6) for v in torch.stack(tables).mean(0).tolist()) if tables else ()


def _ratios(rgb: Float[Tensor, "t 3 h w"], targets: Views) -> Tensor:
    assert targets.rgb is not None, "films have pixels"
    return psnr(quantised(rgb), quantised(targets.rgb))


def _rounded(values: Tensor) -> float:
    return round(values.mean().item(), DIGITS)
