"""What is compared: a table of variants. Adding one is adding a line."""

from dataclasses import dataclass, replace
from pathlib import Path

from fsm.errors import InputError
from fsm.train.config import SourceConfig, TrainConfig
from fsm.ttt import ElasticConfig
from fsm.ttt.elastic import Target

START_CHUNKS = (1, 2, 4)
"""Chunks of the common start: what the variants differ in is left open."""


@dataclass(frozen=True)
class Variant:
    """One row of the table: how inputs are written in training, and what holds the fast weights."""

    name: str
    """Key of its results."""
    label: str
    """As the table shows it."""
    chunks: int
    """Chunks the inputs of a training sample are written in."""
    elastic: ElasticConfig | None
    """None is plain LaCT."""


def _lacet(
    importance: str, anchor: str, lam: float = 0.5, scale: str = "none", chunks: int = 4
) -> Variant:
    short = {"global": "global", "streaming": "stream", "streaming-ema": "ema"}[anchor]
    published = lam == 0.5 and scale == "none"
    tail = "" if published else f"-{'mean' if scale == 'mean' else 'lam'}{lam:g}"
    words = f"LaCET, {importance.upper()}, {anchor}"
    words += (
        ""
        if published
        else f", λ {lam:g}" + (" over the mean importance" if scale == "mean" else "")
    )
    elastic = ElasticConfig(importance, anchor, lam=lam, importance_scale=scale)  # pyright: ignore[reportArgumentType]
    return Variant(f"lacet{chunks}-{importance}-{short}{tail}", words, chunks, elastic)


def _kept(name: str, label: str, lam: float, step_decay: float, target: Target) -> Variant:
    """Our forms that keep old chunks; without the pull (λ 0) they are LaCT but for their own
    rule.
    """
    return Variant(
        f"keep4-{name}", label, 4, ElasticConfig(lam=lam, step_decay=step_decay, target=target)
    )


VARIANTS: tuple[Variant, ...] = (
    Variant("lact1", "LaCT", 1, None),
    Variant("lact4", "LaCT", 4, None),
    _lacet("si", "streaming-ema"),
    _kept("decay-novelty", "shrinking steps, novelty", 0.0, 0.5, "novelty"),
    _kept("decay", "shrinking steps", 0.0, 0.5, "value"),
    _lacet("mas", "streaming-ema"),
    _lacet("si", "streaming-ema", 0.5, "mean"),
    _kept("novelty", "novelty", 0.0, 0.0, "novelty"),
    _lacet("si", "streaming-ema", 0.1, "mean"),
    _lacet("si", "streaming-ema", 1.0, "mean"),
    _lacet("mas", "global"),
    _lacet("mas", "global", chunks=1),
    _lacet("ewc", "streaming-ema"),
    _lacet("mas", "streaming"),
    _lacet("si", "global"),
    _lacet("si", "streaming"),
    _lacet("ewc", "global"),
    _lacet("ewc", "streaming"),
    _lacet("si", "streaming-ema", 0.1),
    _lacet("si", "streaming-ema", 1.0),
    _kept(
        "decay-novelty-si-ema",
        "shrinking steps, novelty, LaCET SI streaming-ema",
        0.5,
        0.5,
        "novelty",
    ),
)
"""Most telling first: this is also the order in which they are trained."""


def find_variants(names: tuple[str, ...]) -> tuple[Variant, ...]:
    """Variants by name, in the order of the table; all of them for no names."""
    known = {v.name: v for v in VARIANTS}
    for name in names:
        if name not in known:
            raise InputError(f"there is no variant {name!r}; choose among {', '.join(known)}.")
    return tuple(v for v in VARIANTS if not names or v.name in names)


def view_tokens(base: TrainConfig) -> int:
    """Tokens of one view of a training sample."""
    patch = base.model.encoder.patch
    return base.data.hw[0] * base.data.hw[1] // patch**2


def chunk_tokens(base: TrainConfig, inputs: int, chunks: int) -> int:
    """``chunk_tokens`` that writes ``inputs`` views in ``chunks`` chunks of equal length; 0, all at
    once, for one chunk.
    """
    return 0 if chunks == 1 else -(-inputs // chunks) * view_tokens(base)


def variant_config(
    base: TrainConfig, variant: Variant, seed: int, init: Path | None
) -> TrainConfig:
    """The run of a variant: ``base`` but for chunks, elastic prior, seed and the weights it starts
    from.
    """
    if len(base.data.inputs) != 1:
        raise InputError(
            f"the ablation's preset has data.inputs {list(base.data.inputs)}; give one "
            "number of inputs."
        )
    encoder = replace(
        base.model.encoder,
        chunk_tokens=chunk_tokens(base, base.data.inputs[0], variant.chunks),
        block=replace(base.model.encoder.block, elastic=variant.elastic),
    )
    return replace(
        base,
        model=replace(base.model, encoder=encoder),
        seed=_stream_seed(seed, continued=init is not None),
        init=None if init is None else str(init),
    )


def start_config(base: TrainConfig, seed: int, steps: int) -> TrainConfig:
    """The common start of one seed: plain LaCT, the number of chunks drawn anew for every step."""
    encoder = replace(base.model.encoder, block=replace(base.model.encoder.block, elastic=None))
    inputs = base.data.inputs[0]
    chunks = tuple(n for n in START_CHUNKS if n <= inputs)
    return replace(
        base,
        model=replace(base.model, encoder=encoder),
        data=replace(base.data, chunks=chunks),
        optim=replace(base.optim, steps=steps),
        seed=_stream_seed(seed, continued=False),
    )


def with_data(base: TrainConfig, clips: str) -> TrainConfig:
    """``base`` trained on one list of clips."""
    return replace(base, data=replace(base.data, sources=(SourceConfig(clips),)))


def _stream_seed(seed: int, continued: bool) -> int:
    # The second part of a training must not see the samples of the first once more.
    return 1000 * seed + (500 if continued else 0)
