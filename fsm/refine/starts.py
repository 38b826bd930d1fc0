"""What a refinement starts from: scenes made in several ways, and which of them a short refinement
makes the best of.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fsm.errors import InputError
from fsm.evaluate.metrics import psnr
from fsm.memory_scene import MemoryScene
from fsm.model import FSM
from fsm.refine.beside import Beside, views_beside
from fsm.refine.config import RefineConfig
from fsm.refine.hold_back import held_back
from fsm.refine.layered import layered_scene
from fsm.refine.loop import Refinement
from fsm.refine.report import pictures
from fsm.refine.run import Refined
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views

TRIAL = 0.1  # share of the steps


@dataclass(frozen=True)
class Start:
    """A scene to start from."""

    name: str
    """What it is, in a few words."""
    scene: GaussianScene
    """Made from all inputs, unless ``without`` is None: then without the frames held back."""
    without: GaussianScene | None = None
    """Made without the frames held back; None where ``scene`` is all there is."""


def from_model(
    model: FSM, inputs: Views, frame: SceneFrame, config: RefineConfig
) -> tuple[Start, Beside | None]:
    """What a model that finds depth makes of ``inputs`` [v] (the clip's space, with rgb): Gaussians
    in the space of ``frame``, and views beside the inputs.

    Both are made twice, without the frames held back and from all; some must be held back.
    """
    kept = held_back(inputs, config.hold_back)
    seen = inputs[[i for i in range(len(inputs)) if i not in set(kept)]]
    batched = SceneFrame(*(getattr(frame, f.name)[None] for f in dataclasses.fields(frame)))
    memories = [model.reconstruct(views, batched) for views in (seen, inputs)]
    without, whole = (_with_memory(memory) for memory in memories)
    start = Start("what stands and what moves", layered_scene(whole), layered_scene(without))
    if config.beside.views == 0:
        return start, None
    truth = inputs[kept]
    assert truth.rgb is not None
    score = float(psnr(pictures(without, truth), truth.rgb, truth.mask).mean())
    first, second = (views_beside(m, config.beside.views, config.seed) for m in (without, whole))
    return start, Beside(first, second, score)


def tried(start: Start, inputs: Views, config: RefineConfig) -> float:
    """Best PSNR in dB of the frames held back during a short refinement of ``start``, which has
    not seen them; they are those that a refinement of ``inputs`` holds back.
    """
    steps = max(1, round(TRIAL * config.steps))
    short = replace(config, steps=steps, check_every=min(steps, config.check_every))
    run = Refinement(start.without or start.scene, inputs, short)
    while run.step < steps:
        run.one_step()
    assert run.watch is not None, "frames are held back"
    return max(value for _, value in run.watch.curve)


def best_start(
    starts: Sequence[Start], inputs: Views, config: RefineConfig
) -> tuple[Start, dict[str, float]]:
    """The start that shows the frames held back best after a short refinement, and the PSNR of
    each by name; the first of equal ones. Of one alone, or without frames held back: the first,
    and no PSNR.
    """
    if len(starts) == 1 or not held_back(inputs, config.hold_back):
        return starts[0], {}
    scores = {start.name: tried(start, inputs, config) for start in starts}
    return max(starts, key=lambda start: scores[start.name]), scores


def never_worse(run: Refined, own: Start, inputs: Views, config: RefineConfig) -> Refined:
    """``run``, which started elsewhere, or ``own`` as it was where that shows the frames held back
    better.
    """
    watch = Refinement(own.without or own.scene, inputs, config).watch
    if run.chosen is None or watch is None:
        return run
    score = watch.curve[0][1]
    if dict(run.chosen.curve)[run.chosen.step] > score:
        return run
    curve = ((0, score), *run.chosen.curve[1:])
    chosen = replace(run.chosen, curve=curve, step=0)
    return Refined(own.scene, run.seconds, chosen, corrections={})


def _with_memory(scene: MemoryScene | GaussianScene) -> MemoryScene:
    if isinstance(scene, MemoryScene):
        return scene
    raise InputError(
        "the model makes Gaussians and finds no depth of its input frames; use one with a "
        "reference head, as fsm-tiny has."
    )
