"""Refine Gaussians

Predict one 4D Gaussian per input pixel in one pass, then fit the Gaussians to the frames.

* `fsm-tiny-lrm` decodes Gaussians in place of pictures. Its scene renders like any other.
* `refine` takes gradient steps on the input frames alone. It keeps some of them back. They choose
  when to stop, and the scene it starts from is made without them.
* Every eighth frame is held out. Neither the model nor the refinement sees it.
"""

from pathlib import Path

import tyro

from fsm import FSM
from fsm.datasets.open import open_clip
from fsm.evaluate.metrics import psnr
from fsm.refine import RefineConfig, held_back, refine


def main(
    clip: str = "demo", size: int = 128, steps: int = 500, out: Path = Path("outputs/03")
) -> tuple[float, float]:
    """Refine CLIP for STEPS steps and return the held-out PSNR before and after."""
    source = open_clip(clip)
    held_out = list(range(4, len(source), 8))
    seen = [i for i in range(len(source)) if i not in held_out]
    inputs = source.views(seen, hw=(size, size))
    truth = source.views(held_out, hw=(size, size))

    model = FSM.from_pretrained("fsm-tiny-lrm")
    scene = model.reconstruct(inputs)
    kept = held_back(inputs)
    without = model.reconstruct(inputs[[i for i in range(len(inputs)) if i not in kept]])
    run = refine(scene, inputs, RefineConfig(steps=steps), without=without)
    refined, seconds = run.scene, run.seconds
    refined.save(out / "scene")

    before, after = (
        float(psnr(s.render(truth.without_rgb()).rgb, truth.rgb).mean()) for s in (scene, refined)
    )
    print(f"{steps} steps in {seconds:.0f} s: {before:.2f} dB before, {after:.2f} dB after")
    return before, after


if __name__ == "__main__":
    tyro.cli(main)
