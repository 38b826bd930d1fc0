"""Input frames kept out of the gradient: they say when refinement stops to help views it does not
see.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fsm.evaluate.metrics import psnr
from fsm.views import SceneFrame, Views

FEWEST = 4  # frames; of fewer none can be spared
SHARE, CAMERA_SHARE = 8, 4  # at most one frame in so many; of a rig one camera in so many
# Of few frames so many are held back, yet no more than one in four: a single one says too little.
LEAST, LARGEST_SHARE = 3, 4
MEASURED = 8  # frames that are rendered at a check
GAP = 0.1  # model units and radians; a frame nearer to one refined on cannot tell overfitting
EARLIER = 1e-3  # of a unit of model time in that distance: where cameras stand, time decides
ITERATIONS = 10  # of k-medoids
GRID = 8  # blocks of a frame along each side, whose errors say how sure a gain is
SURE = 1.0  # standard errors that a gain must have
FALLEN = 0.5  # dB below the best state
PATIENCE = 3  # a third of all steps without a better state ends a refinement that has fallen


def held_back(inputs: Views, most: int | None = None) -> list[int]:
    """Which of ``inputs`` [v] are kept out of the gradient, in order; at most ``most`` (None: one
    in eight, of few inputs three but no more than one in four, or one camera of a rig of four and
    more; 0: none).

    They are groups of neighbours around the middles of clusters of cameras, each so large that the
    middle frame is ``GAP`` from all frames that are left. Neighbours in a film differ too little to
    tell whether a scene was learnt or only its pictures. Fewer than ``FEWEST`` views: none.
    """
    v = len(inputs)
    few = min(LEAST, v // LARGEST_SHARE)
    budget = max(few, v // SHARE) if most is None else min(most, v - 1)
    if v < FEWEST or budget <= 0:
        return []
    distance = camera_distances(SceneFrame.fit(inputs).to_model(inputs))
    groups: list[Tensor] = []
    for count in range(min(MEASURED, budget), 0, -1):
        middles = _medoids(distance, count)
        groups = [(distance[m] < GAP).nonzero()[:, 0] for m in middles]
        found = torch.cat(groups).unique()
        if len(found) <= budget:
            return found.tolist()
    (group,) = groups
    if most is None and len(group) <= v // CAMERA_SHARE:
        return group.tolist()
    if len(group) > v // 2:  # the camera stands: nothing to see but time
        return sorted(_medoids(distance, min(MEASURED, budget)))
    (middle,) = _medoids(distance, 1)
    return distance[middle].argsort(stable=True)[:budget].sort().values.tolist()


def camera_distances(views: Views) -> Float[Tensor, "v v"]:
    """Between ``views`` (model space): of centres, the angle between axes, and a little of time."""
    centre, forward, time = (
        t.double() for t in (views.c2w[:, :3, 3], views.c2w[:, :3, 2], views.time)
    )
    cosine = (forward @ forward.T).clamp(-1.0, 1.0)
    angle = torch.where(cosine < 1.0 - 1e-9, cosine.acos(), torch.zeros_like(cosine))
    apart = (centre[:, None] - centre).norm(dim=-1)
    return apart + angle + EARLIER * (time[:, None] - time).abs()


def _medoids(distance: Float[Tensor, "v v"], count: int) -> list[int]:
    """Middles of ``count`` clusters (k-medoids, started from the farthest points)."""
    chosen = [int(distance.sum(1).argmin())]
    while len(chosen) < count:
        chosen.append(int(distance[chosen].amin(0).argmax()))
    for _ in range(ITERATIONS):
        of = distance[chosen].argmin(0)
        before, chosen = chosen, []
        for k in range(count):
            mine = (of == k).nonzero()[:, 0]
            within = distance[mine][:, mine].sum(1)
            chosen.append(int(mine[within.argmin()]) if len(mine) else before[k])
        if chosen == before:
            break
    return sorted(set(chosen))


@dataclass(frozen=True)
class Chosen:
    """Which state of a refinement was kept, and why."""

    frames: tuple[int, ...]
    """Positions among the inputs of the frames held back."""
    curve: tuple[tuple[int, float], ...]
    """Steps taken, and mean PSNR of the held-back frames in dB; the first entry is the start."""
    step: int
    """Steps after which they were shown best, as far as they can tell; 0: the start."""


class Watch:
    """The best state so far by ``views`` [m], which no step has seen.

    A state takes the place of the one kept where its gain is more than one standard error, as in
    the rule of Breiman et al. 1984 (Classification and Regression Trees, 3.4.3). Few frames are a
    noisy judge, and every step fits views beside them less.
    """

    def __init__(self, views: Views) -> None:
        some = torch.linspace(0, len(views) - 1, min(MEASURED, len(views))).round().long()
        self.some: list[int] = some.tolist()
        """Which of the given views are measured."""
        self.views = views[self.some]
        self.curve: list[tuple[int, float]] = []
        """As in ``Chosen``."""
        self.best: dict[str, Tensor] | None = None
        """The state that is kept; None: the start."""
        self.best_step = 0
        """Steps after which it was reached; 0: the start."""
        self.errors: Tensor | None = None
        """Squared errors of its blocks."""

    def add(self, step: int, pictures: Float[Tensor, "m 3 h w"], state: dict[str, Tensor]) -> None:
        """Note what ``state`` shows of ``views`` after ``step`` steps; it is kept where it is
        surely better.
        """
        assert self.views.rgb is not None
        score = float(psnr(pictures, self.views.rgb, self.views.mask).mean())
        errors = block_errors(pictures, self.views)
        self.curve.append((step, score))
        if self.errors is None:
            self.errors = errors
        elif gain(self.errors, errors) > SURE:
            self.errors, self.best_step = errors, step
            self.best = {name: value.detach().clone() for name, value in state.items()}

    def hopeless(self, steps: int) -> bool:
        """Whether, of ``steps`` in all, a third has gone by since the best refined state and all
        that came in between was clearly worse.
        """
        refined = self.curve[1:]
        if not refined:
            return False
        best = max(refined, key=lambda entry: entry[1])
        since = [value for step, value in refined if step > best[0]]
        waited = refined[-1][0] - best[0] >= steps / PATIENCE
        return waited and max(since) < best[1] - FALLEN

    def state(self) -> dict[str, Any]:
        """Everything needed to continue."""
        return {
            "curve": [list(entry) for entry in self.curve],
            "best": self.best,
            "best_step": self.best_step,
            "errors": self.errors,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.curve = [(int(step), float(value)) for step, value in state["curve"]]
        self.best, self.best_step = state["best"], int(state["best_step"])
        self.errors = state["errors"]


def block_errors(pictures: Float[Tensor, "m 3 h w"], views: Views) -> Float[Tensor, "m k"]:
    """Mean squared error of each of k blocks of every one of ``views`` (with rgb), NaN where all of
    a block is masked.
    """
    assert views.rgb is not None
    off = (pictures.clamp(0.0, 1.0) - views.rgb).square().mean(1, keepdim=True)
    shown = torch.ones_like(off) if views.mask is None else views.mask.to(off)
    error, share = (F.adaptive_avg_pool2d(t, GRID).flatten(1) for t in (off * shown, shown))
    return error / share


def gain(before: Float[Tensor, "m k"], after: Float[Tensor, "m k"]) -> float:
    """Mean fall of the errors of blocks, in standard errors. Each frame counts by the share of its
    error that is gone, as in a mean of decibels.
    """
    level = before.nanmean(1, keepdim=True).clamp_min(1e-10)
    falls = (before - after) / level
    falls = falls[falls.isfinite()]
    if len(falls) < 2:
        return 0.0
    return float(falls.mean() / (falls.std() / len(falls) ** 0.5).clamp_min(1e-12))
