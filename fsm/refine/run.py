"""A refinement in a folder: progress, a checkpoint every minute, exact resume."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fsm.config import to_dict
from fsm.refine.beside import Beside
from fsm.refine.config import RefineConfig
from fsm.refine.hold_back import Chosen
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.runs import Run, progress, stop_requests
from fsm.views import Views

STATE, SETTINGS = "refine_state.pt", "refine_settings.json"
SECONDS_BETWEEN_SAVES = 60.0
SMOOTHING = 0.98  # of the PSNR shown with the progress


class Refined(NamedTuple):
    """What a scene has become, and how long the steps took."""

    scene: GaussianScene
    seconds: float
    """Of all calls that took part."""
    chosen: Chosen | None
    """How the frames held back chose the scene; None where none was held back."""
    corrections: dict[str, list[Any]]
    """Exposures and cameras found for the input frames; see ``Corrections.described``."""


def refine(
    scene: GaussianScene,
    inputs: Views,
    config: RefineConfig,
    *,
    without: GaussianScene | None = None,
    beside: Beside | None = None,
    out: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
    tell: Callable[[float], None] | None = None,
) -> Refined:
    """Fit ``scene`` to the pictures ``inputs`` [v] (the clip's own space, with rgb).

    With ``out`` the run is kept there once a minute and on Ctrl-C, and the same call continues it
    to the same result, bit for bit. ``identity`` (plain values) says what is refined on what; a
    folder with a run of another ``identity`` or ``config`` raises ``InputError``. ``stop_after``
    ends early after that many further steps. ``tell`` gets, after the first of them, the seconds
    that the others will take.

    Some of the inputs are held back (``config.hold_back``) and choose the best state. The result is
    that state after a few more steps with all inputs, or ``scene`` where no step was better.
    ``without`` is the scene made without the frames held back, where that is known: the best number
    of steps is found from there, and ``scene`` takes as many with all inputs. ``beside`` are
    views as a model shows them, which steps fit as well.
    """
    refinement = Refinement(scene, inputs, config, without, beside)
    settings = {**(identity or {}), "config": to_dict(config)}
    run = None if out is None else Run(out, settings, SETTINGS, STATE)
    with contextlib.nullcontext() if run is None else run.locked():
        if run is not None:
            run.claim()
            run.resume(refinement.load_state, scene.device)
        _advance(refinement, stop_after, run, tell)
    scene, corrections = refinement.result(), refinement.corrections_found()
    return Refined(scene, refinement.seconds, refinement.chosen(), corrections)


def _advance(
    refinement: Refinement,
    most: int | None,
    run: Run | None,
    tell: Callable[[float], None] | None,
) -> None:
    first = refinement.step
    saved, shown = time.monotonic(), None
    steps = refinement.config.steps
    with (
        progress("refining", steps, refinement.step, tell=tell) as advance,
        stop_requests() as stopped,
    ):
        while not (refinement.done or stopped or refinement.step - first == most):
            began = time.monotonic()
            psnr = refinement.one_step()
            shown = psnr if shown is None else SMOOTHING * shown + (1.0 - SMOOTHING) * psnr
            advance(f"{shown:.2f} dB on the views fitted")
            refinement.seconds += time.monotonic() - began
            if run is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                run.save(refinement.state())
                saved = time.monotonic()
        if run is not None:
            run.save(refinement.state())
    if stopped:
        raise KeyboardInterrupt
