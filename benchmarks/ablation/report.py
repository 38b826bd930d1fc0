"""Tables of an ablation, from its result files alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.ablation.curves import plot_curves
from benchmarks.ablation.results import (
    BaselineScores,
    Result,
    Settings,
    load_baselines,
    load_results,
    read_settings,
)
from benchmarks.ablation.stats import (
    REFERENCE,
    Stat,
    cell,
    count,
    gain,
    grouped,
    mean,
    over_seeds,
    own_random,
    streams,
)
from benchmarks.ablation.variants import VARIANTS
from fsm.files import atomic_file

TABLES, CURVES = "tables.md", "curves.png"


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write ``tables.md`` and ``curves.png`` beside the results of ``folder``; their paths."""
    settings, results = read_settings(folder), load_results(folder)
    rows = grouped(results)
    with atomic_file(folder / TABLES) as temporary:
        temporary.write_text(tables(settings, rows, load_baselines(folder)), encoding="utf-8")
    plot_curves(rows, folder / CURVES)
    return folder / TABLES, folder / CURVES


def tables(
    settings: Settings, rows: dict[str, list[Result]], baselines: BaselineScores | None
) -> str:
    """All tables as one Markdown page."""
    parts = [
        _preamble(settings, rows),
        _main(rows, baselines),
        _mismatch(rows),
        _counts(rows),
        _retention(rows),
    ]
    return "\n\n".join(parts) + f"\n\n![Curves]({CURVES})\n"


def _preamble(settings: Settings, rows: dict[str, list[Result]]) -> str:
    base, runs = settings.base, [r for group in rows.values() for r in group]
    encoder, data = base.model.encoder, base.data
    start = (
        f"a common start of {settings.start_steps} steps per seed, then "
        if settings.start_steps
        else ""
    )
    missing = [v.name for v in VARIANTS if v.name not in rows]
    lines = [
        "# Ablation: tables",
        "Made by `python -m benchmarks.ablation report` from the files in `results/`; nothing here "
        "is typed by hand.",
        f"{encoder.layers} layers of width {encoder.block.dim}, {encoder.block.ttt_heads} "
        "fast-weight heads, "
        f"{data.hw[0]}x{data.hw[1]} pixels, patch {encoder.patch}; {data.inputs[0]} inputs "
        f"and {data.targets} targets a sample, "
        f"batch {data.batch}, {base.precision}; {start}{base.optim.steps} steps per "
        f"variant; {settings.train_clips} training "
        f"clips, {len(settings.test_clips)} test clips, {len(settings.worlds)} held-out "
        f"worlds; {len(runs)} runs.",
        "Numbers are means over seeds ± their sample standard deviation (no ± where only "
        "one seed has finished). Δ is the "
        f"difference from `{REFERENCE}` seed by seed, so that what comes from a seed's "
        "common start cancels.",
    ]
    return "\n\n".join(lines + ([f"Not finished: {', '.join(missing)}."] if missing else []))


def _main(rows: dict[str, list[Result]], baselines: BaselineScores | None) -> str:
    head = [
        "variant",
        "",
        "chunks",
        "seeds",
        "train PSNR",
        "spread",
        "Δ spread",
        "consecutive",
        "random",
        "Δ random",
        "SSIM random",
    ]
    lines = []
    for name, runs in rows.items():
        reference = rows.get(REFERENCE, [])
        pull = over_seeds(runs, lambda r: None if r.pull_ratio is None else 100 * r.pull_ratio)
        lines.append(
            [
                f"`{name}`",
                runs[0].variant.label,
                str(runs[0].variant.chunks),
                str(len(runs)),
                _text(over_seeds(runs, lambda r: r.train_psnr)),
                _text(over_seeds(runs, cell("spread"))),
                _text(gain(runs, reference, cell("spread")), sign=True),
                _text(over_seeds(runs, cell("consecutive"))),
                _text(over_seeds(runs, own_random())),
                _text(gain(runs, reference, own_random()), sign=True),
                _text(over_seeds(runs, own_random("ssim")), 3),
                _text(pull),
            ]
        )
    for name, cells in ({} if baselines is None else baselines.cells).items():
        ratios = [
            f"{mean(cells[kind], 'psnr'):.2f}" for kind in ("spread", "consecutive", "random")
        ]
        similarity = f"{mean(cells['random'], 'ssim'):.3f}"
        lines.append(
            [name, "baseline", "-", "-", "-", ratios[0], "-", *ratios[1:], "-", similarity, "-"]
        )
    text = (
        "Test PSNR in dB, inputs written in as many chunks as in training. Pull: ‖pull‖ / "
        "‖update‖ in per cent."
    )
    return f"## Variants\n\n{text}\n\n{_table([*head, 'pull %'], lines)}"


def _mismatch(rows: dict[str, list[Result]]) -> str:
    lines = [
        [
            f"`{n}`",
            str(runs[0].variant.chunks),
            *(_text(over_seeds(runs, cell(f"random/{c}"))) for c in (1, 4, 16)),
        ]
        for n, runs in rows.items()
    ]
    text = "Test PSNR in dB, random inputs, written in another number of chunks than in training."
    return (
        "## Train and test "
        f"chunks\n\n{text}\n\n{_table(['variant', 'train', 'test 1', 'test 4', 'test 16'], lines)}"
    )


def _counts(rows: dict[str, list[Result]]) -> str:
    kinds = ("spread", "consecutive")
    numbers = sorted(
        {int(key.split("/")[1]) for runs in rows.values() for r in runs for key in r.counts}
    )
    head = ["variant", *(f"{kind} {n}" for kind in kinds for n in numbers)]
    lines = [
        [f"`{name}`", *(_text(over_seeds(runs, count(kind, n))) for kind in kinds for n in numbers)]
        for name, runs in rows.items()
    ]
    text = (
        "Test PSNR in dB by number of inputs, chunks as long as in training, on the clips long "
        "enough for all."
    )
    return f"## Number of test inputs\n\n{text}\n\n{_table(head, lines)}"


def _retention(rows: dict[str, list[Result]]) -> str:
    head = ["variant", "written in", "alone", "early", "late", "retention", "Δ retention", "Δ late"]
    head += ["worlds: late", "worlds: retention"]
    lines = []
    for name, runs in rows.items():
        for kind in ("own", "chunked"):
            if not any(kind in r.streams for r in runs):
                continue
            reference = rows.get(REFERENCE, [])
            values = {f: streams(f, False, kind) for f in ("alone", "early", "late", "retention")}
            base = {f: streams(f, False) for f in values}
            difference = {
                f: gain(runs, reference, values[f], base[f]) for f in ("retention", "late")
            }
            lines.append(
                [
                    f"`{name}`",
                    "one chunk" if kind == "own" and runs[0].variant.chunks == 1 else "chunks of 4",
                    *(_text(over_seeds(runs, values[f])) for f in ("alone", "early", "late")),
                    _text(over_seeds(runs, values["retention"]), sign=True),
                    _text(difference["retention"], sign=True),
                    _text(difference["late"], sign=True),
                    _text(over_seeds(runs, streams("late", True, kind))),
                    _text(over_seeds(runs, streams("retention", True, kind)), sign=True),
                ]
            )
    text = (
        "Streams of 64 inputs of a whole clip. PSNR in dB of targets among the first 16 "
        "inputs: with these alone in a "
        "normalisation of their own; with these alone in that of the stream (early); after "
        "the whole stream (late). Retention "
        "is late - early."
    )
    return f"## Retention\n\n{text}\n\n{_table(head, lines)}"


def _text(value: Stat | None, digits: int = 2, sign: bool = False) -> str:
    return "-" if value is None else value.text(digits, sign)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
