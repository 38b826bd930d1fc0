"""Training samples. Sample i of step s is a pure function of (seed, s, i): resuming needs nothing but the step number.

Processes share out the samples of a step; how many there are changes nothing about the samples.
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.errors import InputError
from fsm.shards import WHOLE, Shard
from fsm.train.config import DataConfig, SourceConfig
from fsm.views import Views

DRAWN = ("synthetic", "world")  # sources that are procedural worlds, another one for every sample


@dataclass(frozen=True)
class Batch:
    """Samples of one step in the clips' own space: inputs [b v] and targets [b t], disjoint in time and pose."""

    inputs: Views
    targets: Views
    depth: Float[Tensor, "b t 1 h w"]
    """z-depth of the targets where it is known, NaN elsewhere."""


class SampleStream:
    """Draws batches from weighted sources of clips; clips are decoded once and kept as bytes."""

    def __init__(self, config: DataConfig, seed: int, device: torch.device | str = "cpu", part: Shard = WHOLE) -> None:
        self.config, self.seed, self.device, self.part = config, seed, device, part
        if config.batch % part.count:
            raise InputError(
                f"train config: data.batch is {config.batch}, which {part.count} processes cannot share evenly; "
                "choose a multiple."
            )
        self.weights = torch.tensor([s.weight for s in config.sources])
        if not bool(((self.weights > 0) & torch.isfinite(self.weights)).all()):
            raise InputError("train config: every data source needs a finite weight above 0.")
        self.sources = [s.path if s.path in DRAWN else _ClipSource(s, config) for s in config.sources]

    def batch(self, step: int) -> Batch:
        """This process's part of the samples of ``step``."""
        shared = _generator(self.seed, step, "step")
        n_inputs = self.config.inputs[int(torch.randint(len(self.config.inputs), (1,), generator=shared))]
        samples = []
        for i in self.part.part(range(self.config.batch)):
            generator = _generator(self.seed, step, f"0:{i}")
            source = self.sources[int(torch.multinomial(self.weights, 1, generator=generator))]
            if isinstance(source, str):
                inputs, targets, depth = self._drawn(source, n_inputs, generator)
            else:
                inputs, targets = source.sample(n_inputs, generator)
                depth = torch.full((self.config.targets, 1, *self.config.hw), math.nan)
            if self.config.mirror:
                left_right, in_time = (torch.rand(2, generator=generator) < 0.5).tolist()
                inputs, targets = mirrored(inputs, targets, left_right, in_time)
                depth = depth.flip(-1) if left_right else depth
            samples.append((inputs.to(self.device), targets.to(self.device), depth.to(self.device)))
        inputs, targets, depth = zip(*samples, strict=True)
        return Batch(Views.stack(inputs), Views.stack(targets), torch.stack(depth))

    def _drawn(self, source: str, n_inputs: int, generator: torch.Generator) -> tuple[Views, Views, Tensor]:
        """A fresh procedural world: inputs on its camera's path, half of the targets beside it, exact depth."""
        from fsm.datasets.synthetic import SyntheticWorld
        from fsm.datasets.world.world import World

        seeds = [int(torch.randint(2**40, (1,), generator=generator))]
        world = (World if source == "world" else SyntheticWorld).sample(seeds, device=self.device)
        frames = int(torch.randint(self.config.window[0], self.config.window[1] + 1, (1,), generator=generator))
        plan = draw_plan(max(frames, n_inputs + self.config.targets), n_inputs, self.config, generator)
        index = torch.tensor(plan[0] + plan[1])
        path = world.camera_path((index / 24.0)[None].to(self.device), self.config.hw)
        inputs, targets = path[:n_inputs], path[n_inputs:]
        beside = torch.randn(len(targets), 3, generator=generator) * 0.15
        beside = beside * (torch.rand(len(targets), 1, generator=generator) < 0.5)
        c2w = targets.c2w.clone()
        c2w[0, :, :3, 3] += beside.to(c2w)
        targets = dataclasses.replace(targets, c2w=c2w)
        seen = world.render(Views.cat([inputs, targets]))
        assert seen.depth is not None
        inputs = dataclasses.replace(inputs, rgb=seen.rgb[:, :n_inputs]).unbatched()
        targets = dataclasses.replace(targets, rgb=seen.rgb[:, n_inputs:]).unbatched()
        return inputs, targets, seen.depth[0, n_inputs:]


class _ClipSource:
    def __init__(self, source: SourceConfig, config: DataConfig) -> None:
        from fsm.datasets.open import open_dataset

        self.config = config
        self.dataset = open_dataset(Path(source.path))
        self.cache: dict[str, Clip] = {}
        self.keep = (round(config.hw[0] * config.zoom), round(config.hw[1] * config.zoom))

    def sample(self, n_inputs: int, generator: torch.Generator) -> tuple[Views, Views]:
        clip = self._clip(self.dataset.ids[int(torch.randint(len(self.dataset.ids), (1,), generator=generator))])
        needed = n_inputs + self.config.targets
        if len(clip) < needed:
            raise InputError(
                f"{clip.source} has {len(clip)} frames; a training sample needs {needed}: take it off the list."
            )
        shortest, longest = (min(max(w, needed), len(clip)) for w in self.config.window)
        window = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        start = int(torch.randint(len(clip) - window + 1, (1,), generator=generator))
        plan = draw_plan(window, n_inputs, self.config, generator)
        views = clip.views([start + i for i in plan[0] + plan[1]])
        views = self._window(views, generator)
        return views[:n_inputs], views[n_inputs:]

    def _clip(self, id: str) -> Clip:
        if id not in self.cache:
            self.cache[id] = self.dataset.clip(id).cached(self.keep)
        return self.cache[id]

    def _window(self, views: Views, generator: torch.Generator) -> Views:
        """A random zoom: cut a window between hw and the kept size, shrink it to hw."""
        h, w = self.config.hw
        if self.keep == (h, w):
            return views
        share = float(torch.rand(1, generator=generator))
        size = (round(h + share * (self.keep[0] - h)), round(w + share * (self.keep[1] - w)))
        top, left = (
            int(torch.randint(k - s + 1, (1,), generator=generator)) for k, s in zip(self.keep, size, strict=True)
        )
        return views.cropped(top, left, size).resized((h, w))


def draw_plan(
    frames: int, n_inputs: int, config: DataConfig, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Disjoint input (sorted) and target positions in a window of ``frames``."""
    if float(torch.rand(1, generator=generator)) < config.even and n_inputs > 1:
        inputs = torch.linspace(0, frames - 1, n_inputs).round().long()
        free = torch.ones(frames, dtype=torch.bool).index_fill(0, inputs, False).nonzero()[:, 0]
        targets = free[torch.randperm(len(free), generator=generator)[: config.targets]]
    else:
        order = torch.randperm(frames, generator=generator)
        inputs, targets = order[:n_inputs].sort().values, order[n_inputs : n_inputs + config.targets]
    plan = inputs.tolist(), targets.tolist()
    if set(plan[0]) & set(plan[1]) or len(plan[1]) != config.targets:
        raise AssertionError(f"inputs and targets of a sample must be disjoint and complete, drew {plan}")
    return plan


def mirrored(inputs: Views, targets: Views, left_right: bool, in_time: bool) -> tuple[Views, Views]:
    """The sample as seen in a mirror (x axes of world and camera flipped) and / or played backwards."""
    last = torch.cat([inputs.time, targets.time]).max()

    def one(views: Views) -> Views:
        if left_right:
            flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], device=views.c2w.device))
            sign = views.intrinsics.new_tensor([1.0, 1.0, -1.0, 1.0])
            shift = views.intrinsics.new_tensor([0.0, 0.0, views.hw[1], 0.0])
            rgb = None if views.rgb is None else views.rgb.flip(-1)
            mask = None if views.mask is None else views.mask.flip(-1)
            views = dataclasses.replace(
                views, c2w=flip @ views.c2w @ flip, intrinsics=views.intrinsics * sign + shift, rgb=rgb, mask=mask
            )
        return dataclasses.replace(views, time=last - views.time) if in_time else views

    inputs, targets = one(inputs), one(targets)
    return inputs[torch.argsort(inputs.time)], targets


def _generator(*key: object) -> torch.Generator:
    """A generator seeded by the key, the same on every machine and in every process."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def masked_mse(prediction: Float[Tensor, "*b v 3 h w"], target: Views) -> Float[Tensor, ""]:
    """Mean over samples *b of the mean squared error of the pixels that count, so that samples may be seen in parts."""
    assert target.rgb is not None
    error = (prediction - target.rgb).square()
    if target.mask is None:
        return error.mean()
    counted = (3 * target.mask.flatten(-4).sum(-1)).clamp_min(1)
    return ((error * target.mask).flatten(-4).sum(-1) / counted).mean()


def depth_loss(
    depth: Float[Tensor, "b t 1 h w"], truth: Float[Tensor, "b t 1 h w"], slack: float = 0.05
) -> Float[Tensor, ""]:
    """Mean |ρ - ρ*| / (ρ* + slack) of inverse depths in model units, over pixels of a sample that have both (0 without any).

    Its mean over samples is returned.
    """
    known = torch.isfinite(truth) & (depth > 0)  # Gaussians leave pixels empty
    rho, true_rho = 1.0 / depth[known], 1.0 / truth[known]
    error = (rho - true_rho).abs() / (true_rho + slack)
    sums = error.new_zeros(len(depth)).index_add(0, known.nonzero()[:, 0], error)
    return (sums / known.flatten(1).sum(1).clamp_min(1)).mean()
