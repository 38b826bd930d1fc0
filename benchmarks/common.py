"""Measuring on a shared machine: one thread, CPU time of this process, alternatives in turn,
medians, ratios.

Wall-clock time on a busy machine says more about the neighbours than about the code. CPU time still
sees contention for cache and memory, so absolute values are good to about a quarter; ratios of
alternated runs to about a tenth.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GEMMS = ("mm", "addmm", "bmm", "baddbmm", "linear", "scaled_dot_product")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Argument parser with the options that every benchmark has."""
    result = argparse.ArgumentParser(
        description=(description or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--repeats", type=int, default=5, help="rounds; the median is reported")
    return result


def start(title: str, **settings: object) -> None:
    """Pin one thread and print what the numbers depend on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(title)
    print(
        f"  {cpu_name()}; threads {torch.get_num_threads()}; torch {torch.__version__}; "
        f"Python {platform.python_version()}"
    )
    if settings:
        print("  " + "; ".join(f"{name} {value}" for name, value in settings.items()))


def cpu_name() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class GemmTypes(TorchDispatchMode):
    """Number formats of the matrix products run inside, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[str]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.lstrip("_")
        if name.startswith(GEMMS):
            formats = {
                str(a.dtype).removeprefix("torch.") for a in args if isinstance(a, torch.Tensor)
            }
            self.seen.setdefault(name, set()).update(formats)
        return func(*args, **(kwargs or {}))


def print_gemm_types(
    run: Callable[[], object], asked: torch.dtype, allow: Iterable[str] = ()
) -> None:
    """Run once, print the format of every matrix product; exit where one is not in the format asked
    for (or allowed).
    """
    with GemmTypes() as types:
        run()
    print(
        "  products run in: "
        + "; ".join(f"{n} {'/'.join(sorted(f))}" for n, f in sorted(types.seen.items()))
    )
    wanted = {str(asked).removeprefix("torch."), *allow}
    found = set().union(*types.seen.values())
    if not types.seen or not found <= wanted:
        sys.exit(
            f"refusing to time: asked for {'/'.join(sorted(wanted))} products, found "
            f"{'/'.join(sorted(found))}."
        )


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one call, all threads of this process."""
    began = time.process_time()
    run()
    return time.process_time() - began


def alternate(cases: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of every case, run in turn ``repeats`` times after one unmeasured round."""
    for run in cases.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            seconds[name].append(cpu_seconds(run))
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median per case."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def paired(above: list[float], below: list[float]) -> float:
    """Median of the per-round ratios: what drifts with the machine cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


class Verdicts:
    """Targets and what was measured; ``close`` prints them and exits with status 1 if one is
    missed.
    """

    def __init__(self) -> None:
        self.missed = 0

    def check(
        self, what: str, value: float, limit: float, *, at_least: bool = False, unit: str = ""
    ) -> None:
        """Print one target as met or missed."""
        met = value >= limit if at_least else value <= limit
        self.missed += not met
        sign = ">=" if at_least else "<="
        print(
            f"{'ok    ' if met else 'MISSED'} {what}: {value:.4g}{unit} (target {sign} "
            f"{limit:g}{unit})"
        )

    def close(self) -> None:
        """Exit status 1 if any target was missed."""
        sys.exit(1 if self.missed else 0)
