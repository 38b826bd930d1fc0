"""Numbers of several seeds: means, deviations, and differences seed by seed."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.ablation.results import Result
from benchmarks.ablation.scores import Cell, StreamScore
from benchmarks.ablation.variants import VARIANTS

REFERENCE = "lact4"
"""The variant that differences are taken from: multi-chunk without an elastic prior."""
Value = Callable[[Result], float | None]


@dataclass(frozen=True)
class Stat:
    """Mean over seeds and their sample standard deviation, NaN for a single seed."""

    mean: float
    deviation: float
    seeds: int

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """Like ``17.32 ± 0.05``."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.deviation) else f"{mean} ± {self.deviation:.{digits}f}"


def stat(values: Sequence[float]) -> Stat | None:
    """Of the values of some seeds; None for none."""
    if not values:
        return None
    return Stat(
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else math.nan,
        len(values),
    )


def grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each variant, by seed: the table's variants in its order, then others by name."""
    order = {v.name: i for i, v in enumerate(VARIANTS)}
    names = sorted({r.variant.name for r in results}, key=lambda n: (order.get(n, len(order)), n))
    return {
        n: sorted((r for r in results if r.variant.name == n), key=lambda r: r.seed) for n in names
    }


def over_seeds(runs: Sequence[Result], value: Value) -> Stat | None:
    """Mean and deviation of a value over the seeds that have it."""
    return stat([v for r in runs if (v := value(r)) is not None])


def gain(
    runs: Sequence[Result],
    reference: Sequence[Result],
    value: Value,
    other_value: Value | None = None,
) -> Stat | None:
    """The same of its difference from the run of ``reference`` with the same seed: their common
    start cancels.
    """
    other = {r.seed: (other_value or value)(r) for r in reference}
    pairs = [(value(r), other.get(r.seed)) for r in runs]
    return stat([a - b for a, b in pairs if a is not None and b is not None])


def cell(kind: str, metric: str = "psnr") -> Value:
    """Mean over clips of a setting: ``spread``, ``consecutive`` or ``random/4`` (in 4 chunks)."""
    return lambda result: mean(found, metric) if (found := result.cells.get(kind)) else None


def own_random(metric: str = "psnr") -> Value:
    """Random inputs in as many chunks as in training."""
    return lambda result: cell(f"random/{result.variant.chunks}", metric)(result)


def count(kind: str, inputs: int) -> Value:
    """Mean PSNR over clips with this many inputs."""
    return lambda result: (
        mean(found, "psnr") if (found := result.counts.get(f"{kind}/{inputs}")) else None
    )


def streams(field: str, worlds: bool, kind: str = "own") -> Value:
    """Mean over streams of ``alone``, ``early``, ``late`` or ``retention``, of the real clips or of
    the worlds.
    """

    def value(result: Result) -> float | None:
        scores = [s for s in result.streams.get(kind, ()) if s.clip.startswith("world-") == worlds]
        return statistics.fmean(_of_stream(s, field) for s in scores) if scores else None

    return value


def mean(found: Cell, metric: str) -> float:
    """Mean over the clips of a cell."""
    return statistics.fmean(getattr(found, metric))


def _of_stream(score: StreamScore, field: str) -> float:
    return score.late - score.early if field == "retention" else getattr(score, field)
