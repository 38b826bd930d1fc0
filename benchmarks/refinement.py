"""Refinement judged on views it has not seen: from one-pass Gaussians as they are, and from what
stands and what moves with views beside the frames among the steps.

Of a world, inputs, and the frames half-way between them and views beside the path that judge, are
those of the protocol novel; of a rig, every fourth camera judges. Of a filmed clip every 8th of at
most 100 frames judges; flow blend and the decoders stand beside, and refinement starts from what
stands and what moves alone.

    python -m benchmarks.refinement world:3101 demo world:3101:rig=8x12 FOLDER --steps 1000
"""

import argparse
import dataclasses
import time

from fsm.cli.refine import new_scene
from fsm.datasets.open import open_clip
from fsm.datasets.rendered import RenderedClip
from fsm.evaluate.baselines import flow
from fsm.evaluate.metrics import psnr
from fsm.evaluate.novel import rendered
from fsm.evaluate.protocols import Novel, Rig
from fsm.model import FSM
from fsm.refine import (
    Beside,
    RefineConfig,
    Start,
    best_start,
    from_model,
    held_back,
    refine,
)
from fsm.refine.report import pictures
from fsm.renderers.base import Scene
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views

HOLD_OUT, MOST = 8, 100  # of a filmed clip: every so many frames one judges; frames used


def asked(name: str, size: int, inputs: int) -> tuple[Views, dict[str, Views]]:
    """Inputs of a clip, and by name the views that judge, all with rgb."""
    clip, hw = open_clip(name), (size, size)
    if len(set(clip.camera_ids)) > 1:
        plan = Rig(hw=hw).plan_for(clip)
        truth = {"held-out cameras": clip.views(plan.target_index, hw)}
        return clip.views(plan.input_index, hw), truth
    if not isinstance(clip, RenderedClip):
        h, w = clip.cameras.hw
        hw = (size, round(w / h * size / 16) * 16)
        frames = range(0, len(clip), -(-len(clip) // MOST))
        held = [n for i, n in enumerate(frames) if i % HOLD_OUT == HOLD_OUT // 2]
        rest = [n for i, n in enumerate(frames) if i % HOLD_OUT != HOLD_OUT // 2]
        return clip.views(rest, hw), {"held-out frames": clip.views(held, hw)}
    protocol = Novel(hw=hw, inputs=inputs)
    plan = protocol.plan_for(clip)
    beside = protocol.requests(clip, plan)
    beside = dataclasses.replace(beside, rgb=rendered(clip).truth(beside).rgb)
    truth = {"held-out frames": clip.views(plan.target_index, hw), "beside": beside}
    return clip.views(plan.input_index, hw), truth


def one_pass(inputs: Views, frame: SceneFrame, config: RefineConfig) -> Start:
    """The Gaussians of ``fsm-tiny-lrm``."""
    kept = held_back(inputs, config.hold_back)
    seen = inputs[[i for i in range(len(inputs)) if i not in set(kept)]]
    model = FSM.from_pretrained("fsm-tiny-lrm")
    batched = SceneFrame(*(getattr(frame, f.name)[None] for f in dataclasses.fields(frame)))
    made = [model.reconstruct(views, batched) for views in (inputs, seen)]
    scene, without = (m for m in made if isinstance(m, GaussianScene))
    return Start("one pass", scene, without)


def _compare(name: str, size: int, inputs: int, steps: int) -> None:
    """Print a line for each start of one clip."""
    views, truth = asked(name, size, inputs)
    config, frame = RefineConfig(steps=steps), SceneFrame.fit(views)

    def score(scene: Scene | None) -> str:
        shown = []
        for kind, wanted in truth.items():
            assert wanted.rgb is not None
            rgb = flow(views, wanted) if scene is None else pictures(scene, wanted)
            shown.append(f"{kind} {float(psnr(rgb, wanted.rgb, wanted.mask).mean()):.2f}")
        return ", ".join(shown)

    decoder = FSM.from_pretrained("fsm-tiny")
    layered, beside = from_model(decoder, views, frame, config)
    passed = one_pass(views, frame, config)
    starts: list[tuple[Start, Beside | None]] = [(passed, None), (layered, beside)]
    if not isinstance(open_clip(name), RenderedClip):
        print(
            f"{name}: flow blend {score(None)}; fsm-tiny {score(decoder.reconstruct(views))}",
            flush=True,
        )
        kept = set(held_back(views, config.hold_back))
        seen = views[[i for i in range(len(views)) if i not in kept]]
        found = new_scene(seen, frame, config.density.most, config.seed, "cpu")
        own = [passed, layered, Start("Gaussians found in the clip", found)]
        chosen, tries = best_start(own, views, config)
        print({name: round(value, 2) for name, value in tries.items()}, flush=True)
        starts = [(chosen, beside)]
    for start, taught in starts:
        began = time.perf_counter()
        run = refine(start.scene, views, config, without=start.without, beside=taught)
        step = None if run.chosen is None else run.chosen.step
        print(
            f"{name} from {start.name}: {score(start.scene)} -> {score(run.scene)} dB, "
            f"{step} of {steps} steps, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


def main() -> int:
    """Print two lines per clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--inputs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    for clip in given.clips:
        _compare(clip, given.size, given.inputs, given.steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
