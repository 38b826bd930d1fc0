"""Where training samples come from: procedural worlds, and clips whose frames are decoded once and
kept as bytes.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import Clip, ClipDataset
from fsm.datasets.open import open_dataset
from fsm.errors import InputError
from fsm.train.config import DataConfig
from fsm.views import Views

if TYPE_CHECKING:
    from fsm.datasets.world.world import World

WORLD = "world"  # the source of procedural worlds, another one for every sample
FPS = 24.0  # at which they are filmed
# Deviation of targets from the path: metres, and at most this share of the inputs' extent.
BESIDE, EXTENT_SHARE = 0.25, 0.5
RIG = 0.3  # the same of all cameras of a rig, metres
SPACINGS = (0.03, 0.6)  # radians between neighbouring cameras of an arc
MOVING_TRIES = 8  # worlds looked at for one whose camera moves
CLEARANCE = 0.05  # metres of free space before a camera beside the path


@dataclass(frozen=True)
class Sample:
    """One sample in its clip's own space: inputs [v] and targets [t], disjoint in time and pose."""

    inputs: Views
    targets: Views
    depth: Float[Tensor, "t 1 h w"]
    """z-depth of the targets where it is known, NaN elsewhere."""
    input_depth: Float[Tensor, "v 1 h w"]
    """The same of the inputs."""
    input_moving: Float[Tensor, "v 1 h w"]
    """Whether what a pixel of an input shows moves while the inputs are taken: 1, 0, or NaN where
    unknown.
    """


class Source(ABC):
    """A source of samples."""

    @abstractmethod
    def sample(
        self, data: DataConfig, n_inputs: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        """One sample per generator; each is a function of its own generator alone, whichever are
        sampled with it.
        """


class WorldSource(Source):
    """A fresh procedural world for every sample: inputs on its camera's path, half of the targets
    beside it, exact depth.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = device

    def sample(
        self, data: DataConfig, n_inputs: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        """All samples at once: the tracer gives the same bits in any company."""
        from fsm.datasets.world.world import World

        shots = [_shot(data, n_inputs, g) for g in generators]
        seeds = _seeds_of_moving([s.seed for s in shots], data.still, generators)
        world = World.sample(seeds, device=self.device)
        places, times, shifts, angles = (
            torch.stack([getattr(s, name) for s in shots]).to(self.device)
            for name in ("places", "times", "shifts", "angles")
        )
        path = dataclasses.replace(world.camera_path(places, data.hw), time=times)
        arc = _on_arc(world, path.c2w, angles)
        path = dataclasses.replace(path, c2w=torch.where(arc.isnan(), path.c2w, arc))
        c2w = path.c2w.clone()
        # Beyond what the inputs' own parallax tells, a sample would teach guessing: many cameras
        # hardly move. A rig's cameras are as far apart as they are put.
        centre = c2w[:, :n_inputs, :3, 3]
        extent = (centre - centre.mean(1, keepdim=True)).abs().amax((1, 2))[:, None, None]
        rig = torch.tensor([s.rig for s in shots], device=self.device)[:, None, None]
        reach = torch.where(rig, extent.new_tensor(RIG), (EXTENT_SHARE * extent).clamp(max=BESIDE))
        c2w[:, :, :3, 3] += shifts.to(c2w) * reach
        seen = world.render(dataclasses.replace(path, c2w=c2w))
        assert seen.depth is not None
        behind = seen.depth.flatten(2).amin(2) < CLEARANCE
        if bool(behind.any()):  # behind a wall: back onto the path with those
            c2w = torch.where(behind[..., None, None], path.c2w, c2w)
            seen = world.render(dataclasses.replace(path, c2w=c2w))
            assert seen.depth is not None
        path = dataclasses.replace(path, c2w=c2w)
        inputs = path[:n_inputs]
        moving = world.moving(inputs, inputs.time).float().unbind()
        views = dataclasses.replace(path, rgb=seen.rgb).samples()
        return [
            Sample(v[:n_inputs], v[n_inputs:], d[n_inputs:], d[:n_inputs], m)
            for v, d, m in zip(views, seen.depth, moving, strict=True)
        ]


@dataclass(frozen=True)
class _Shot:
    """How a world is filmed: n views, the inputs first."""

    seed: int
    places: Float[Tensor, "n"]
    """Seconds at which the world's own camera is where each view is taken from."""
    times: Float[Tensor, "n"]
    """Seconds at which each view is taken: its place, but for static captures and rigs."""
    shifts: Float[Tensor, "n 3"]
    """Off the path, in units of how far views may be."""
    rig: bool
    angles: Float[Tensor, "n"]
    """Place of each view on an arc about the middle of the world, radians; NaN: on the path."""


def _on_arc(
    world: "World", c2w: Float[Tensor, "b n 4 4"], angles: Float[Tensor, "b n"]
) -> Float[Tensor, "b n 4 4"]:
    """Poses at ``angles`` from the first of ``c2w``, at its height and distance where these are
    free, looking at the middle.
    """
    from fsm.datasets.world.description import looking

    eye, camera = c2w[:, :1, :3, 3], world.camera
    nearest = camera.keep_out
    widest = torch.maximum(camera.limit[:, [0, 2]].amin(1), nearest)
    radius = eye[:, 0, [0, 2]].norm(dim=-1).clamp(nearest, widest)[:, None]
    at = torch.atan2(eye[..., 0], eye[..., 2]) + angles
    height = eye[..., 1].expand_as(at)
    eyes = torch.stack([radius * at.sin(), height, radius * at.cos()], -1)
    middle = torch.zeros_like(eyes)
    middle[..., 1] = camera.aim[:, 1:2]
    return looking(eyes, middle - eyes)


def _shot(data: DataConfig, n_inputs: int, generator: torch.Generator) -> _Shot:
    """A film, a static capture or a rig, as often as ``data`` says."""
    seed = int(torch.randint(2**40, (1,), generator=generator))
    frames = int(torch.randint(data.window[0], data.window[1] + 1, (1,), generator=generator))
    plan = sample_plan(max(frames, n_inputs + data.targets), n_inputs, data, generator)
    beside = torch.randn(data.targets, 3, generator=generator)
    beside = beside * (torch.rand(data.targets, 1, generator=generator) < 0.5)
    places = torch.tensor(plan[0] + plan[1]) / FPS
    shifts = torch.cat([torch.zeros(n_inputs, 3), beside])
    path = torch.full_like(places, torch.nan)
    if data.static == data.rigs == 0.0:
        return _Shot(seed, places, places, shifts, False, path)
    kind = float(torch.rand(1, generator=generator))
    around = data.around > 0.0 and float(torch.rand(1, generator=generator)) < data.around
    if kind < data.static:
        at_once = places[:1].expand_as(places)
        angles = _arc(n_inputs, 1, data.targets, generator) if around else path
        return _Shot(seed, places, at_once, shifts, around, angles)
    cameras = next((c for c in (4, 3, 2) if n_inputs % c == 0 and n_inputs > c), 1)
    if kind >= data.static + data.rigs or cameras == 1:
        return _Shot(seed, places, places, shifts, False, path)
    if around and float(torch.rand(1, generator=generator)) < 0.5:
        angles = _arc(n_inputs, 1, data.targets, generator)
        return _Shot(seed, places, places, shifts, True, angles)
    # moments in order, all cameras at each; targets at moments of the rig from other places
    moments = places[:n_inputs:cameras]
    own = torch.randint(n_inputs, (cameras,), generator=generator)
    at = torch.randint(len(moments), (data.targets,), generator=generator)
    off = torch.randn(cameras + data.targets, 3, generator=generator)
    rounds = n_inputs // cameras
    return _Shot(
        seed,
        torch.cat([places[own].repeat(rounds), places[n_inputs:]]),
        torch.cat([moments.repeat_interleave(cameras), moments[at]]),
        torch.cat([off[:cameras].repeat(rounds, 1), off[cameras:]]),
        True,
        _arc(cameras, rounds, data.targets, generator) if around else path,
    )


def _arc(cameras: int, rounds: int, targets: int, generator: torch.Generator) -> Float[Tensor, "n"]:
    """Angles of ``cameras`` evenly apart, ``rounds`` times, and of targets between them."""
    low, high = (math.log(s) for s in SPACINGS)
    spacing = math.exp(low + (high - low) * float(torch.rand(1, generator=generator)))
    angles = torch.arange(cameras) * min(spacing, 2.0 * math.pi / cameras)
    between = torch.rand(targets, generator=generator) * angles[-1]
    return torch.cat([angles.repeat(rounds), between])


def _seeds_of_moving(
    seeds: Sequence[int], still: float, generators: Sequence[torch.Generator]
) -> list[int]:
    """The seeds; all but a share ``still`` of them replaced until their camera moves (after 8 tries
    the last is taken).
    """
    from fsm.datasets.world.world import World

    chosen = list(seeds)
    if still == 1.0:
        return chosen
    shares = [float(torch.rand(1, generator=g)) for g in generators]
    asked = [i for i, share in enumerate(shares) if share >= still]
    for _ in range(MOVING_TRIES):
        if not asked:
            break
        moves = World.sample([chosen[i] for i in asked]).camera.velocity.norm(dim=-1) > 0.0
        asked = [i for i, moving in zip(asked, moves.tolist(), strict=True) if not moving]
        for i in asked:
            chosen[i] = int(torch.randint(2**40, (1,), generator=generators[i]))
    return chosen


class FrameCache:
    """Clips at size ``hw`` with colours rounded to bytes: decoded once and kept as long as they fit
    into ``limit`` bytes.
    """

    def __init__(self, hw: tuple[int, int], limit: float) -> None:
        self.hw, self.free = hw, limit
        self.kept: dict[tuple[str, str], Clip] = {}

    def clip(self, dataset: ClipDataset, name: str, id: str) -> Clip:
        """Clip ``id`` of the data set called ``name``."""
        if (name, id) in self.kept:
            return self.kept[name, id]
        clip = dataset.clip(id)
        size = 4 * len(clip) * math.prod(self.hw)  # three bytes of colour and one of mask a pixel
        if size > self.free:
            return _AsKept(clip, self.hw)
        self.free -= size
        self.kept[name, id] = clip.cached(self.hw)
        return self.kept[name, id]


class _AsKept(Clip):
    """A clip that gives the same bits as its kept twin, and decodes the frames asked for at every
    call.
    """

    def __init__(self, clip: Clip, hw: tuple[int, int]) -> None:
        super().__init__(clip.id, clip.source, clip.cameras.covering(hw), clip.fps)
        self.clip, self.hw = clip, hw

    def observations(self, indices: list[int]) -> Iterator[Views]:
        for part in self.clip.observations(indices):
            part = part.covering(self.hw)
            assert part.rgb is not None, "observations carry rgb"
            yield dataclasses.replace(
                part, rgb=(part.rgb * 255.0).round_().to(torch.uint8).float() / 255.0
            )


class ClipSource(Source):
    """Random windows of the clips of a data set."""

    def __init__(self, path: str, cache: FrameCache) -> None:
        self.path, self.cache = path, cache
        self.dataset = open_dataset(Path(path))

    def sample(
        self, data: DataConfig, n_inputs: int, generators: Sequence[torch.Generator]
    ) -> list[Sample]:
        """One clip each; ``InputError`` for a clip with too few frames."""
        depth, unknown = (torch.full((n, 1, *data.hw), math.nan) for n in (data.targets, n_inputs))
        views = [self._views(data, n_inputs, g) for g in generators]
        return [Sample(v[:n_inputs], v[n_inputs:], depth, unknown, unknown) for v in views]

    def _views(self, data: DataConfig, n_inputs: int, generator: torch.Generator) -> Views:
        id = self.dataset.ids[int(torch.randint(len(self.dataset.ids), (1,), generator=generator))]
        clip = self.cache.clip(self.dataset, self.path, id)
        needed = n_inputs + data.targets
        if len(clip) < needed:
            raise InputError(
                f"{clip.source} has {len(clip)} frames; a training sample needs {needed}: "
                "take it off the list."
            )
        shortest, longest = (min(max(w, needed), len(clip)) for w in data.window)
        window = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        start = int(torch.randint(len(clip) - window + 1, (1,), generator=generator))
        plan = sample_plan(window, n_inputs, data, generator)
        return _window(clip.views([start + i for i in plan[0] + plan[1]]), data, generator)


def kept_size(stages: Sequence[DataConfig]) -> tuple[int, int]:
    """The size that serves all stages: the largest height and width that any of them looks at, zoom
    included.
    """
    sizes = [_zoomed(data) for data in stages]
    return max(h for h, _ in sizes), max(w for _, w in sizes)


def _zoomed(data: DataConfig) -> tuple[int, int]:
    return round(data.hw[0] * data.zoom), round(data.hw[1] * data.zoom)


def _window(views: Views, data: DataConfig, generator: torch.Generator) -> Views:
    """A random zoom: cut a window between hw and hw times zoom, as large as the kept picture
    allows, and shrink it to hw.
    """
    (h, w), zoomed, kept = data.hw, _zoomed(data), views.hw
    if zoomed == (h, w):
        return views.covering((h, w))
    share = float(torch.rand(1, generator=generator))
    finer = min(kept[0] / zoomed[0], kept[1] / zoomed[1])  # 1 where no other stage looks closer
    size = (
        round(finer * (h + share * (zoomed[0] - h))),
        round(finer * (w + share * (zoomed[1] - w))),
    )
    top, left = (
        int(torch.randint(k - s + 1, (1,), generator=generator))
        for k, s in zip(kept, size, strict=True)
    )
    return views.cropped(top, left, size).resized((h, w))


def sample_plan(
    frames: int, n_inputs: int, data: DataConfig, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Disjoint input (sorted) and target positions in a window of ``frames``."""
    if float(torch.rand(1, generator=generator)) < data.even and n_inputs > 1:
        inputs = torch.linspace(0, frames - 1, n_inputs).round().long()
        free = torch.ones(frames, dtype=torch.bool).index_fill(0, inputs, False).nonzero()[:, 0]
        targets = free[torch.randperm(len(free), generator=generator)[: data.targets]]
    else:
        order = torch.randperm(frames, generator=generator)
        inputs, targets = order[:n_inputs].sort().values, order[n_inputs : n_inputs + data.targets]
    plan = inputs.tolist(), targets.tolist()
    if set(plan[0]) & set(plan[1]) or len(plan[1]) != data.targets:
        raise AssertionError(
            f"inputs and targets of a sample must be disjoint and complete, drew {plan}"
        )
    return plan
