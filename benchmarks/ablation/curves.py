"""Curves of an ablation: number of inputs, what is left of a long stream, and how hard the prior
pulls.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.results import Result
from benchmarks.ablation.stats import REFERENCE, count, over_seeds
from fsm.files import atomic_file

SHOWN = 8
"""Variants in the panels about PSNR, first of the table first; all are in the tables."""


def plot_curves(rows: dict[str, list[Result]], picture: Path) -> None:
    """Four panels: means over seeds, with their deviation where PSNR is drawn over the number of
    inputs.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    colours = {name: plt.get_cmap("tab20")(i % 20) for i, name in enumerate(rows)}
    few = dict(list(rows.items())[:SHOWN])
    for axis, kind in zip(axes[0], ("spread", "consecutive"), strict=True):
        _counts(axis, few, kind, colours)
    _positions(axes[1][0], few, colours)
    _pulls(axes[1][1], rows, colours)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, dpi=75)
    plt.close(figure)


def _counts(axis: Any, rows: dict[str, list[Result]], kind: str, colours: dict[str, Any]) -> None:
    numbers = sorted(
        {int(key.split("/")[1]) for runs in rows.values() for r in runs for key in r.counts}
    )
    for name, runs in rows.items():
        stats = [(n, s) for n in numbers if (s := over_seeds(runs, count(kind, n))) is not None]
        deviations = [0.0 if np.isnan(s.deviation) else s.deviation for _, s in stats]
        means = [s.mean for _, s in stats]
        axis.errorbar(
            [n for n, _ in stats],
            means,
            deviations,
            label=name,
            color=colours[name],
            marker="o",
            capsize=2,
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(numbers, [str(n) for n in numbers])
    axis.set_xlabel(f"{kind} test inputs")
    axis.set_ylabel("PSNR [dB]")


def _positions(axis: Any, rows: dict[str, list[Result]], colours: dict[str, Any]) -> None:
    """Above the reference, since the pictures themselves differ more from place to place than the
    variants do.
    """
    reference = {r.seed: _by_position(r) for r in rows.get(REFERENCE, [])}
    for name, runs in rows.items():
        curves = [_by_position(r) - reference[r.seed] for r in runs if r.seed in reference]
        if curves and name != REFERENCE:
            middle = np.mean(curves, axis=0)
            axis.plot(np.linspace(0, 1, len(middle)), middle, label=name, color=colours[name])
    axis.axhline(0.0, color="black", linewidth=0.8)
    axis.set_xlabel("position of the target in a stream of 64 inputs, all written")
    axis.set_ylabel(f"PSNR above {REFERENCE} [dB]")


def _by_position(result: Result) -> np.ndarray:
    return np.mean(
        [s.by_position for s in result.streams["own"] if not s.clip.startswith("world-")], axis=0
    )


def _pulls(axis: Any, rows: dict[str, list[Result]], colours: dict[str, Any]) -> None:
    for name, runs in rows.items():
        tables: Sequence[tuple[float, ...]] = [r.pull_by_chunk for r in runs if r.pull_by_chunk]
        if tables:
            middle = 100 * np.mean(tables, axis=0)
            axis.plot(
                np.arange(1, len(middle) + 1), middle, label=name, color=colours[name], marker="."
            )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.set_xlabel("chunk")
    axis.set_ylabel("pull / update [%]")
