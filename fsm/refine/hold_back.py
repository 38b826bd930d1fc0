"""Input frames kept out of the gradient: they say when refinement stops to help views it does not
see.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.evaluate.metrics import psnr
from fsm.views import SceneFrame, Views

FEWEST = 4  # frames; of fewer none can be spared
SHARE, CAMERA_SHARE = 8, 4  # at most one frame in so many; of a rig one camera in so many
MEASURED = 8  # frames that are rendered at a check
GAP = 0.1  # model units and radians; a frame nearer to one refined on cannot tell overfitting
EARLIER = 1e-3  # of a unit of model time in that distance: where cameras stand, time decides
ITERATIONS = 10  # of k-medoids
FALLEN = 0.5  # dB below the best state
PATIENCE = 3  # a third of all steps without a better state ends a refinement that has fallen


def held_back(inputs: Views, most: int | None = None) -> list[int]:
    """Which of ``inputs`` [v] are kept out of the gradient, in order; at most ``most`` (None: one
    in eight, or one camera of a rig of four and more; 0: none).

    They are groups of neighbours around the middles of clusters of cameras, each so large that the
    middle frame is ``GAP`` from all frames that are left. Neighbours in a film differ too little to
    tell whether a scene was learnt or only its pictures. Fewer than ``FEWEST`` views: none.
    """
    v = len(inputs)
    budget = max(1, v // SHARE) if most is None else min(most, v - 1)
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
    """Steps after which they were shown best; 0: the start."""


class Watch:
    """The best state so far by the PSNR of ``views`` [m], which no step has seen."""

    def __init__(self, views: Views) -> None:
        some = torch.linspace(0, len(views) - 1, min(MEASURED, len(views))).round().long()
        self.some: list[int] = some.tolist()
        """Which of the given views are measured."""
        self.views = views[self.some]
        self.curve: list[tuple[int, float]] = []
        """As in ``Chosen``."""
        self.best: dict[str, Tensor] | None = None
        """The state of the best entry; None: the start is the best."""

    @property
    def best_step(self) -> int:
        """Steps after which the held-back frames were shown best; 0: the start."""
        return max(self.curve, key=lambda entry: entry[1])[0]

    def score(self, pictures: Float[Tensor, "m 3 h w"]) -> float:
        """Mean PSNR of ``pictures`` of ``views``, in dB."""
        assert self.views.rgb is not None
        return float(psnr(pictures, self.views.rgb, self.views.mask).mean())

    def add(self, step: int, score: float, state: dict[str, Tensor]) -> None:
        """Note the score of ``state`` after ``step`` steps; the best state is kept."""
        better = not self.curve or score > max(value for _, value in self.curve)
        self.curve.append((step, score))
        if better and step > 0:
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
        return {"curve": [list(entry) for entry in self.curve], "best": self.best}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.curve = [(int(step), float(value)) for step, value in state["curve"]]
        self.best = state["best"]
