"""A refinement in a folder: progress, a checkpoint every minute, exact resume."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fsm.checkpoint import read_plain
from fsm.config import to_dict
from fsm.errors import InputError
from fsm.files import atomic_file, read_json, write_json
from fsm.refine.config import RefineConfig
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.runs import locked, stop_requests
from fsm.views import Views

STATE, SETTINGS = "refine_state.pt", "refine_settings.json"
SECONDS_BETWEEN_SAVES = 60.0
SMOOTHING = 0.98  # of the PSNR shown with the progress


class Refined(NamedTuple):
    """What a scene has become, and how long the steps took."""

    scene: GaussianScene
    seconds: float
    """Of all calls that took part."""


def refine(
    scene: GaussianScene,
    inputs: Views,
    config: RefineConfig,
    *,
    out: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
) -> Refined:
    """Fit ``scene`` to the pictures ``inputs`` [v] (the clip's own space, with rgb).

    With ``out`` the run is kept there once a minute and on Ctrl-C, and the same call continues it
    to the same result, bit for bit. ``identity`` (plain values) says what is refined on what; a
    folder with a run of another ``identity`` or ``config`` raises ``InputError``. ``stop_after``
    ends early after that many further steps.
    """
    run = Refinement(scene, inputs, config)
    with contextlib.nullcontext() if out is None else locked(out):
        if out is not None:
            _resume(run, out, {**(identity or {}), "config": to_dict(config)})
        last = config.steps if stop_after is None else min(config.steps, run.step + stop_after)
        _advance(run, last, out)
    return Refined(run.result(), run.seconds)


def _advance(run: Refinement, last: int, out: Path | None) -> None:
    saved = time.monotonic()
    with _progress(run.config.steps, run.step) as report, stop_requests() as stopped:
        while run.step < last and not stopped:
            began = time.monotonic()
            report(run.one_step())
            run.seconds += time.monotonic() - began
            if out is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save(run, out)
                saved = time.monotonic()
        if out is not None:
            _save(run, out)
    if stopped:
        raise KeyboardInterrupt


def _save(run: Refinement, out: Path) -> None:
    with atomic_file(out / STATE) as temporary:
        torch.save(run.state(), temporary)


def _resume(run: Refinement, out: Path, settings: dict[str, Any]) -> None:
    """Continue from the folder's state where there is one; it must be of the same run."""
    state, where = out / STATE, out / SETTINGS
    if not state.exists():
        write_json(where, settings)
        return
    stored = read_json(where)
    changed = sorted(
        k for k in settings if not isinstance(stored, dict) or stored.get(k) != settings[k]
    )
    if changed:
        raise InputError(
            f"{where} is of another refinement (differs in {', '.join(changed)}); choose "
            "another folder."
        )
    try:
        run.load_state(read_plain(state, run.scene.device))
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{state} cannot be resumed from ({reason}); move it away to start over."
        ) from error


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[float], None]]:
    """A function to report the PSNR of each step to; draws only on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("refining"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not os.isatty(2)) as progress:
        task, shown = progress.add_task("", total=total, completed=done), None

        def report(psnr: float) -> None:
            nonlocal shown
            shown = psnr if shown is None else SMOOTHING * shown + (1.0 - SMOOTHING) * psnr
            progress.update(task, advance=1, description=f"{shown:.2f} dB on the input frames")

        yield report
