"""What the fast weights still say of a stream's early chunks after its late ones, for every form of
the prior; nothing is trained.

Recall of a chunk is the mean cosine between the memory's answers to its keys, after all chunks, and
its values; both are brought to unit length first (the read-out is normalised, so only directions
count) and the stream's mean is taken off both (saying the same to everything recalls nothing). 1 is
perfect, 0 is nothing. Streams, 256 tokens a chunk, 64 things of four noisy sightings each:

    new         every chunk shows things that were never seen before
    overlap     half of a chunk's things are those of the chunk before: a camera that moves on
    background  three quarters are the same in all chunks, and may be written again and again

    python -m benchmarks.retention
    python -m benchmarks.retention --clip stereo4d_256/val/GRTYzq7noG0_15081748.json --figure
    retention.png

``--clip`` adds the keys, values and rates that the layers of ``--model`` give the frames of a clip
(of a list: its first). ``summed`` (gradients at the initial weights, summed along the stream, one
step from them: what one chunk of everything writes, in any order) and ``momentum`` are peers that
the package does not have.
"""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Verdicts, alternate, paired, parser, start
from fsm import blocks
from fsm.datasets.open import open_dataset
from fsm.model import FSM
from fsm.ttt import (
    ElasticConfig,
    fast_weight_apply,
    fast_weight_gradient,
    initial_state,
    write_chunk,
)
from fsm.ttt.fast_weights import orthogonalise, restore_norms
from fsm.views import SceneFrame

Chunks = list[tuple[Tensor, Tensor, Tensor]]
Rule = Callable[[Tensor, Chunks, list[Tensor] | None], Tensor]
"""Fast weights after all chunks; the list collects ‖pull‖ / ‖update‖ where there is a pull."""
BATCH, TOKENS, WIDTH, HIDDEN, LATENT, SIGHTINGS = 4, 256, 64, 128, 24, 4
LENGTHS = (1, 4, 16, 32)
PULL_WIDTHS = (64, 256, 768)
LACT, PUBLISHED = "LaCT", "LaCET si, streaming-ema"
STEPS, NOVELTY, BOTH = "step_decay 0.5", "target novelty", "both"
FORMS: dict[str, ElasticConfig | None] = {
    LACT: None,
    PUBLISHED: ElasticConfig(),
    "LaCET ewc, streaming-ema": ElasticConfig("ewc"),
    "LaCET mas, streaming-ema": ElasticConfig("mas"),
    "LaCET mas, global": ElasticConfig("mas", "global"),
    "importance / mean, lam 0.1": ElasticConfig(lam=0.1, importance_scale="mean"),
    "importance / mean, lam 0.3": ElasticConfig(lam=0.3, importance_scale="mean"),
    "importance / mean, lam 1.0": ElasticConfig(lam=1.0, importance_scale="mean"),
    STEPS: ElasticConfig(lam=0.0, step_decay=0.5),
    NOVELTY: ElasticConfig(lam=0.0, target="novelty"),
    BOTH: ElasticConfig(lam=0.0, step_decay=0.5, target="novelty"),
    "both, step_decay 0.75": ElasticConfig(lam=0.0, step_decay=0.75, target="novelty"),
    "both and the published pull": ElasticConfig(step_decay=0.5, target="novelty"),
}
DRAWN = (LACT, PUBLISHED, STEPS, NOVELTY, BOTH)


def written(elastic: ElasticConfig | None) -> Rule:
    """Writes all chunks by the package's own rule."""

    def run(initial: Tensor, chunks: Chunks, pulls: list[Tensor] | None) -> Tensor:
        state = initial_state(initial, len(chunks[0][0]), elastic)
        for k, v, rates in chunks:
            state = write_chunk(
                state,
                k,
                v,
                rates,
                elastic=elastic,
                ns_steps=5,
                ns_dtype=torch.float32,
                pull_ratios=pulls,
            )
        return state.weights

    return run


def summed(initial: Tensor, chunks: Chunks, _: list[Tensor] | None) -> Tensor:
    """One step from the initial weights along the sum of all chunks' gradients there."""
    state = initial_state(initial, len(chunks[0][0]), None)
    total = torch.stack([fast_weight_gradient(state.weights, *chunk) for chunk in chunks]).sum(0)
    weights = state.weights + orthogonalise(total, 5, torch.float32)
    return restore_norms(weights, state.gate_up_norms, state.down_norms)


def momentum(initial: Tensor, chunks: Chunks, _: list[Tensor] | None) -> Tensor:
    """LaCT with the running sum of gradients (0.9) in place of the last one."""
    state = initial_state(initial, len(chunks[0][0]), None)
    weights, running = state.weights, torch.zeros_like(state.weights)
    for chunk in chunks:
        running = 0.9 * running + fast_weight_gradient(weights, *chunk)
        weights = weights + orthogonalise(running, 5, torch.float32)
        weights = restore_norms(weights, state.gate_up_norms, state.down_norms)
    return weights


RULES = {name: written(elastic) for name, elastic in FORMS.items()} | {
    "summed": summed,
    "momentum 0.9": momentum,
}


def stream(kind: str, count: int, seed: int = 0) -> Chunks:
    """Chunks of (k, v, rates): things are pairs of latent codes, seen with noise, turned into keys
    and values as a layer does.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(BATCH, 1, *shape, generator=g)

    things = TOKENS // SIGHTINGS
    to_k, to_v = (normal(LATENT, WIDTH) / LATENT**0.5 for _ in range(2))
    background = before = normal(things, 2, LATENT)
    chunks = []
    for _ in range(count):
        new = normal(things, 2, LATENT)
        kept, pool = {
            "new": (0, new),
            "overlap": (things // 2, before),
            "background": (things * 3 // 4, background),
        }[kind]
        # The last things of the pool: of a chunk before, those that were new in it.
        shown = before = torch.cat([pool[:, :, things - kept :], new[:, :, : things - kept]], 2)
        seen = shown.repeat(1, 1, SIGHTINGS, 1, 1)
        seen = seen + 0.3 * torch.randn(seen.shape, generator=g)
        k = F.normalize(F.silu(seen[..., 0, :] @ to_k), dim=-1)
        chunks.append(
            (k, F.silu(seen[..., 1, :] @ to_v), 0.01 * torch.exp(0.3 * normal(TOKENS, 3)))
        )
    return chunks


def layer_tokens(model: FSM, clip: str, views: int, chunk: int) -> list[tuple[Tensor, Chunks]]:
    """For every layer its initial weights and what it writes of ``views`` frames, spread evenly, of
    a clip's path or list.
    """
    dataset = open_dataset(clip)
    frames = dataset.clip(dataset.ids[0])
    indices = torch.linspace(0, len(frames) - 1, min(views, len(frames))).round().long().tolist()
    calls: Chunks = []

    def spy(weights, k, v, rates, target):
        calls.append((k, v, rates))
        return fast_weight_gradient(weights, k, v, rates, target)

    seen = frames.views(indices).resized((128, 128)).batched()
    with torch.no_grad(), mock.patch.object(blocks, "fast_weight_gradient", spy):
        inputs = SceneFrame.fit(seen).to_model(seen)
        model.encoder.finish(model.encoder.update(model.encoder.empty(1), inputs, chunk))
    layers = model.encoder.blocks
    each = len(calls) // len(layers)
    return [
        (b.ttt.initial.detach().float(), calls[i * each : (i + 1) * each])
        for i, b in enumerate(layers)
    ]


def recall(weights: Tensor, chunks: Chunks) -> Tensor:
    """Recall of every chunk [c]; see the module's text."""
    said = [F.normalize(fast_weight_apply(weights, k), dim=-1) for k, _, _ in chunks]
    values = [F.normalize(v, dim=-1) for _, v, _ in chunks]
    mean_said, mean_value = (torch.cat(x, 2).mean(2, keepdim=True) for x in (said, values))
    pairs = zip(said, values, strict=True)
    return torch.stack(
        [F.cosine_similarity(s - mean_said, v - mean_value, dim=-1).mean() for s, v in pairs]
    )


def measure(title: str, layers: list[tuple[Tensor, Chunks]]) -> dict[str, Tensor]:
    """Recall by chunk, mean over layers, of every rule; prints the table."""
    count = len(layers[0][1])
    print(
        f"\n{title}: {count} chunks of {layers[0][1][0][0].shape[2]} tokens, width "
        f"{layers[0][0].shape[2]}"
    )
    print(
        f"  {'':<28} {'first':>7} {'middle':>7} {'last':>7} {'mean':>7} {'x LaCT':>7} "
        f"{'pull/update':>12}"
    )
    found = {}
    for name, run in RULES.items():
        pulls: list[Tensor] = []
        curves = torch.stack(
            [recall(run(initial, chunks, pulls), chunks) for initial, chunks in layers]
        )
        curve = found[name] = curves.mean(0)
        pull = f"{100 * torch.cat(pulls).mean():>10.2f} %" if pulls else f"{'-':>12}"
        ratio = float(curve.mean() / found[LACT].mean())
        first, middle, last, mean = (
            float(x) for x in (curve[0], curve[count // 2], curve[-1], curve.mean())
        )
        print(
            f"  {name:<28} {first:>7.3f} {middle:>7.3f} {last:>7.3f} {mean:>7.3f} "
            f"{ratio:>6.2f}x {pull}",
            flush=True,
        )
    return found


def pull_by_width() -> None:
    """How large the published pull is, after two chunks of random tokens."""
    print(f"\n‖pull‖ / ‖update‖ by width{'':<5}" + "".join(f"{width:>9}" for width in PULL_WIDTHS))
    for importance in ("si", "ewc", "mas"):
        row = []
        for width in PULL_WIDTHS:
            initial = (
                torch.randn(1, 3, width, 2 * width, generator=torch.Generator().manual_seed(1))
                * width**-0.5
            )
            k, v = torch.randn(
                2, 1, 1, 2 * width, width, generator=torch.Generator().manual_seed(2)
            )
            chunk = (F.normalize(k, dim=-1), v, torch.ones(1, 1, 2 * width, 3))
            pulls: list[Tensor] = []
            chunks = [chunk, (chunk[0].flip(2), *chunk[1:])]
            written(ElasticConfig(importance))(initial, chunks, pulls)
            row.append(f"{100 * pulls[-1].item():>7.2f} %")
        print(f"  {importance + ', streaming-ema':<28}" + "".join(row), flush=True)


def cost(repeats: int) -> None:
    """CPU time of writing one chunk over that of LaCT, run in turn."""
    width, tokens = 256, 2048
    initial = torch.randn(1, 3, width, 2 * width) * width**-0.5
    k, v = F.normalize(torch.randn(1, 1, tokens, width), dim=-1), torch.randn(1, 1, tokens, width)
    chunk = [(k, v, torch.rand(1, 1, tokens, 3))]
    cases = {
        n: (lambda run=RULES[n]: run(initial, chunk, None))
        for n in (LACT, PUBLISHED, STEPS, NOVELTY, BOTH)
    }
    seconds = alternate(cases, repeats)
    print(f"\nwriting one chunk of {tokens} tokens, d = {width}, CPU time over that of LaCT")
    for name, values in seconds.items():
        print(f"  {name:<28} {paired(values, seconds[LACT]):>6.2f}x")


def draw(path: Path, curves: dict[str, dict[str, Tensor]]) -> None:
    """Recall over the chunk's place in the stream, one panel for each stream."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.4 * len(curves), 3.2), sharey=True, squeeze=False
    )
    for axis, (title, found) in zip(axes[0], curves.items(), strict=True):
        for name in DRAWN:
            places = range(1, len(found[name]) + 1)
            axis.plot(
                places, found[name], label=name, lw=2.0, ls="--" if name == PUBLISHED else "-"
            )
        axis.set(title=title, xlabel="chunk, in the order written")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("recall after the last chunk")
    axes[0, 0].legend(fontsize=8)  # nothing is that high there
    figure.tight_layout()
    figure.savefig(path, dpi=90)


@torch.no_grad()
def main() -> None:
    """Print the tables and the verdicts."""
    options = parser(__doc__)
    options.add_argument(
        "--clip",
        help="clip, list or name as fsm understands it; measured with the tokens of --model",
    )
    options.add_argument("--model", default="fsm-tiny")
    options.add_argument("--views", type=int, default=64)
    options.add_argument("--chunk", type=int, default=128, help="tokens of a chunk of the clip")
    options.add_argument("--figure", type=Path, help="PNG to draw the curves to")
    args = options.parse_args()
    start(
        "Recall of early chunks after late ones",
        format=torch.float32,
        newton_schulz=torch.float32,
        samples=BATCH,
    )
    initial = (
        torch.randn(1, 3, WIDTH, HIDDEN, generator=torch.Generator().manual_seed(1)) * WIDTH**-0.5
    )
    drawn, means = {}, {}
    for kind in ("new", "overlap", "background"):
        for count in LENGTHS:
            found = measure(f"stream {kind}", [(initial, stream(kind, count))])
            means[kind, count] = {name: float(curve.mean()) for name, curve in found.items()}
            drawn[f"synthetic: {kind}"] = found
    if args.clip:
        layers = layer_tokens(FSM.from_pretrained(args.model), args.clip, args.views, args.chunk)
        drawn[f"{args.model}, a real clip"] = measure(
            f"{args.model} on {Path(args.clip).name}, all layers", layers
        )
    if args.figure:
        draw(args.figure, drawn)
    pull_by_width()
    cost(args.repeats)
    print()
    verdicts = Verdicts()
    for kind, least in (("new", 2.0), ("overlap", 2.0), ("background", 1.3)):
        for count in (16, 32):
            ratio = means[kind, count][BOTH] / means[kind, count][LACT]
            verdicts.check(
                f"recall of both over LaCT, {kind}, {count} chunks",
                ratio,
                least,
                at_least=True,
                unit="x",
            )
        one = means[kind, 1][BOTH] / means[kind, 1][LACT]
        verdicts.check(
            f"recall of both over LaCT, {kind}, one chunk", one, 0.98, at_least=True, unit="x"
        )
    verdicts.close()


if __name__ == "__main__":
    main()
