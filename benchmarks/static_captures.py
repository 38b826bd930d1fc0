"""Photo sets as static captures: ``fsm refine new`` beside the published recipe of 3D Gaussian
splatting (arXiv 2308.04079), both through our rasteriser, every 8th photo held out.

The recipe: spherical harmonics of degree 3 (one degree more every thousand steps), its learning
rates, gradient threshold 2e-4 for cloning and splitting every 100 steps from 500 to half of all,
pruning below opacity 0.005, opacity reset every 3,000. It starts from the same points as ours, in
place of structure from motion, and halves what it splits as ours does.

    python -m benchmarks.static_captures FOLDER [FOLDER ...] --height 128 --steps 3000
"""

import argparse
import dataclasses
import math
import time

import torch
from torch import Tensor

from fsm.datasets.open import open_clip
from fsm.evaluate.metrics import psnr
from fsm.refine import Density, RefineConfig, constant_background, random_gaussians, refine
from fsm.refine.adam import Adam, at_moment
from fsm.refine.densify import split
from fsm.refine.loss import photometric_loss
from fsm.refine.parameters import FreeGaussians
from fsm.refine.report import pictures
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.views import SceneFrame, Views

HOLD_OUT, POINTS = 8, 20_000
MEANS, LAST_MEANS = 1.6e-4, 1.6e-6  # of the cameras' extent
# velocity, time and duration stay; then scales, quaternion, opacity
RATES = [MEANS] * 3 + [0.0] * 5 + [5e-3] * 3 + [1e-3] * 4 + [0.05]
COLOUR, HARMONICS = 2.5e-3, 2.5e-3 / 20
FROM, EVERY, RESET, THRESHOLD = 500, 100, 3000, 2e-4
LARGE, FAINT = 0.01, 0.005


def published(scene: GaussianScene, inputs: Views, steps: int) -> GaussianScene:
    """``scene`` fitted to ``inputs`` by the published recipe."""
    views = scene.frame.to_model(inputs)
    generator = torch.Generator().manual_seed(0)
    centre = views.c2w[:, :3, 3].mean(0)
    extent = 1.1 * float((views.c2w[:, :3, 3] - centre).norm(dim=1).max())
    adam = Adam(FreeGaussians.from_gaussians(scene.gaussians))
    rates = torch.tensor(RATES + [COLOUR] * 3 + [HARMONICS] * 45)
    total, seen = torch.zeros(len(adam.values)), torch.zeros(len(adam.values))
    for step in range(1, steps + 1):
        view = views[int(torch.randint(len(views), (1,), generator=generator))]
        columns = adam.values.clone().requires_grad_()
        shown = columns[:, : 16 + 3 * (min(3, step // 1000) + 1) ** 2]
        picture = rasterize(at_moment(shown, view.time[0]), view, background=scene.background).rgb
        assert view.rgb is not None
        photometric_loss(picture, view.rgb, view.mask, 0.2).backward()
        assert columns.grad is not None
        visible, gradient = _screen_gradient(adam.free.means, columns.grad[:, :3], view)
        total += gradient
        seen += visible
        rates[:3] = MEANS * (LAST_MEANS / MEANS) ** (step / steps)
        adam.step(torch.arange(len(columns)), columns.grad, rates, torch.full_like(seen, extent))
        if step % EVERY == 0 and FROM <= step <= steps // 2:
            _densify(adam, total / seen.clamp_min(1.0), extent, generator)
            total, seen = torch.zeros(len(adam.values)), torch.zeros(len(adam.values))
        if step % RESET == 0 and step <= steps // 2:
            logits = adam.free.logit_opacities
            logits.clamp_(max=math.log(0.01 / 0.99))
    return GaussianScene(adam.free.gaussians(), scene.frame, inputs, background=scene.background)


def _screen_gradient(means: Tensor, gradient: Tensor, view: Views) -> tuple[Tensor, Tensor]:
    """Which Gaussians took part, and the norm of the gradient by the centre's place in the
    picture, whose sides are 2 long.
    """
    rotation, centre = view.c2w[0, :3, :3], view.c2w[0, :3, 3]
    depth = ((means - centre) @ rotation)[:, 2].clamp_min(1e-6)
    across = (gradient @ rotation)[:, :2] * depth[:, None] / view.intrinsics[0, :2]
    half = torch.tensor([view.hw[1], view.hw[0]]) / 2.0
    return (gradient != 0).any(1).float(), (across * half).norm(dim=1)


def _densify(adam: Adam, gradient: Tensor, extent: float, generator: torch.Generator) -> None:
    """Clone the small, split the large, prune the faint."""
    stays = torch.sigmoid(adam.free.logit_opacities) >= FAINT
    grows = (gradient >= THRESHOLD) & stays
    large = adam.free.log_scales.exp().amax(1) > LARGE * extent
    cloned, cut = ((grows & which).nonzero()[:, 0] for which in (~large, large))
    halves = split(adam.values[cut], math.inf, 0.0, generator)
    kept = stays & ~(grows & large)
    added, parents = torch.cat([adam.values[cloned], halves]), torch.cat([cloned, cut, cut])
    adam.replace(kept.nonzero()[:, 0], added, parents)


def _score(scene: GaussianScene, truth: Views) -> float:
    assert truth.rgb is not None
    return float(psnr(pictures(scene, truth), truth.rgb, truth.mask).mean())


def _compare(folder: str, height: int, steps: int) -> None:
    """Print a line for each method on one capture."""
    clip = open_clip(folder)
    h, w = clip.cameras.hw
    hw = (height, round(w / h * height / 16) * 16)
    held = [i for i in range(len(clip)) if i % HOLD_OUT == 0]
    rest = [i for i in range(len(clip)) if i % HOLD_OUT]
    inputs, truth = (
        dataclasses.replace(v, time=torch.zeros_like(v.time))
        for v in (clip.views(rest, hw), clip.views(held, hw))
    )
    frame, background = SceneFrame.fit(inputs), constant_background(inputs)
    points = random_gaussians(inputs, frame, POINTS)
    sh = torch.zeros(POINTS, 16, 3)
    sh[:, :1] = points.sh
    full = dataclasses.replace(points, sh=sh)
    ours, theirs = (GaussianScene(g, frame, inputs, background=background) for g in (points, full))
    config = RefineConfig(steps=steps, density=Density(most=2 * POINTS))
    for name, made in (
        ("fsm refine", lambda: refine(ours, inputs, config).scene),
        ("3DGS recipe", lambda: published(theirs, inputs, steps)),
    ):
        began = time.perf_counter()
        scene = made()
        print(
            f"{folder} {hw[1]}x{hw[0]} {steps} steps, {name}: {_score(scene, truth):.2f} dB, "
            f"{len(scene.gaussians)} Gaussians, {time.perf_counter() - began:.0f} s",
            flush=True,
        )


def main() -> int:
    """Print a line per capture and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--steps", type=int, default=7000)
    given = parser.parse_args()
    for folder in given.folders:
        _compare(folder, given.height, given.steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
