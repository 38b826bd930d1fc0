"""How fast a run is: tokens per second, and FLOPs per second against what the matrix units here
were measured to do.

FLOPs are those of matrix products, attention and convolutions, forward and backward, of the model
and of the loss's network. Not counted: element-wise work, norms, sampling of pictures, compiled
rasterisers, the optimiser, and what checkpointing computes twice.
"""

import functools
import json
import statistics
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

MEASURED = ("seconds", "waiting", "tokens_per_second", "flops_per_second", "utilisation")
"""Entries of a log line that no two runs have in common."""
PEAK_SECONDS = 0.3  # spent on measuring, once per process


class FlopCount(TorchDispatchMode):
    """Counts while it is entered. ``FlopCounterMode`` without its table of modules, and without
    what is computed again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        # Differentiating runs without gradients of its own, unless it has to compute activations
        # again.
        again = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
        if formula is not None and not again:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


class Meter:
    """Rates of the steps since ``restart``, over those whose FLOPs were known before."""

    def __init__(self, device: str, dtype: torch.dtype, processes: int) -> None:
        self.device, self.dtype, self.processes = device, dtype, processes
        self.flops: dict[Hashable, int] = {}
        """Of one step of this process, by whatever decides them."""
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self.steps = self.tokens = self.done = 0
        self.seconds = self.waiting = 0.0

    def knows(self, shape: Hashable) -> bool:
        """Whether a step of this shape has been counted."""
        return shape in self.flops

    def add(self, shape: Hashable, tokens: int, seconds: float, waiting: float) -> None:
        """A step of this process took ``seconds``, ``waiting`` of them for data, and looked at
        ``tokens``.
        """
        self.steps += 1
        self.tokens += tokens * self.processes
        self.done += self.flops[shape]
        self.seconds += seconds
        self.waiting += waiting

    def rates(self) -> dict[str, float]:
        """For the log: tokens of all processes, FLOPs and share of the peak of this one; nothing
        before the first step.
        """
        if self.steps == 0:
            return {}
        rate = self.done / self.seconds
        return {
            "waiting": self.waiting / self.steps,
            "tokens_per_second": self.tokens / self.seconds,
            "flops_per_second": rate,
            "utilisation": rate / matrix_peak(self.device, self.dtype, torch.get_num_threads()),
        }


@functools.lru_cache
def matrix_peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOPs per second of the best of some large square products, with the ``threads`` torch has
    now.
    """
    side = 8192 if device.startswith("cuda") else 1024
    a, b = torch.ones(2, side, side, device=device, dtype=dtype)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    (a @ b)[0, 0].item()
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / best


def summary(log: Path, precision: str) -> str | None:
    """One line on the speed of a run: medians over its log; None where nothing was measured."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    entries = [e for e in entries if e.get("utilisation") is not None]
    if not entries:
        return None
    middle = {name: statistics.median(e[name] for e in entries) for name in MEASURED}
    return (
        f"{middle['seconds']:.3g} s a step, {middle['waiting'] / middle['seconds']:.0%} of "
        "it waiting for data; "
        f"{middle['tokens_per_second']:,.0f} tokens/s; "
        f"{middle['flops_per_second'] / 1e12:.3g} TFLOP/s, "
        f"{middle['utilisation']:.0%} of the {precision} matrix products measured here"
    )
