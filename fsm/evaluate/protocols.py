"""Which frames a model sees and which it is asked for: protocols as values, index plans as files.

A plan follows from protocol, clip and seed alone: frames are ordered by the SHA-256 of
``seed/clip/frame``, so the same plan comes out on every machine and with every version of every
library.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fsm.config import from_dict, to_dict
from fsm.datasets.base import Clip, IndexPlan
from fsm.errors import InputError
from fsm.evaluate import rigs
from fsm.evaluate.baselines import BASELINES, CAMERA_BASELINES, Baseline
from fsm.evaluate.novel import SIDEWAYS, cameras_beside, rendered
from fsm.files import read_json, write_json
from fsm.views import Views

MIN_FRAMES = 3  # two inputs and a target between them


@dataclass(frozen=True)
class Protocol:
    """What all protocols share; subclasses say how frames are chosen."""

    hw: tuple[int, int] = (128, 128)
    """Height and width of inputs and targets: frames are scaled to cover it, then cropped about the
    centre.
    """
    name: ClassVar[str] = ""
    baselines: ClassVar[Mapping[str, Baseline]] = BASELINES
    """What is scored beside the model."""

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Input and target frames of a clip, both in ascending order; ``InputError`` for a clip
        that is too short.
        """
        raise NotImplementedError

    def plan_for(self, clip: Clip, seed: int = 0) -> IndexPlan:
        """Plan of an opened clip."""
        return self.plan(len(clip), clip.id, seed)

    def fits(self, clip_length: int) -> bool:
        """Whether a clip of this length is long enough."""
        try:
            self.plan(clip_length, "")
        except InputError:
            return False
        return True

    def requests(self, clip: Clip, plan: IndexPlan) -> Views:
        """Cameras of the targets, without rgb: those of the frames ``plan.target_index``."""
        return clip.cameras[list(plan.target_index)].covering(self.hw)

    def describe(self) -> dict[str, Any]:
        """Name and options, for headers and plan files."""
        return {"name": self.name, **to_dict(self)}


@dataclass(frozen=True)
class Dense(Protocol):
    """Random inputs and random targets in the middle ``window`` frames of a clip (all of a shorter
    clip).

    A window with fewer than ``inputs + targets`` frames is shared out in their proportion, at least
    two inputs and one target.
    """

    window: int = 136
    inputs: int = 32
    targets: int = 8
    name: ClassVar[str] = "dense"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Disjoint random frames, sampled without replacement."""
        start, length = _middle(clip_length, self.window, clip_id)
        inputs, targets = self.inputs, self.targets
        if length < inputs + targets:
            targets = min(max(1, length * targets // (inputs + targets)), length - 2)
            inputs = length - targets
        order = sorted(range(start, start + length), key=lambda i: _hash(seed, clip_id, i))
        return IndexPlan(
            tuple(sorted(order[:inputs])), tuple(sorted(order[inputs : inputs + targets]))
        )


@dataclass(frozen=True)
class Sparse(Protocol):
    """Inputs spread evenly over the middle ``window`` frames, first and last included; targets
    half-way between them.

    A window with fewer than ``2 * inputs - 1`` frames takes every other frame as input. Nothing is
    random: the seed is unused.
    """

    window: int = 136
    inputs: int = 8
    name: ClassVar[str] = "sparse"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Even inputs and the frames half-way between neighbours (the earlier of two middle
        frames).
        """
        start, length = _middle(clip_length, self.window, clip_id)
        inputs = min(self.inputs, (length + 1) // 2)
        inputs = [start + i for i in _first_to_last(length, inputs)]
        targets = [(a + b) // 2 for a, b in itertools.pairwise(inputs)]
        return IndexPlan(tuple(inputs), tuple(targets))


@dataclass(frozen=True)
class Novel(Protocol):
    """Inputs as in ``sparse``, targets beside the path: cameras moved away from it, at moments
    half-way between inputs.

    No frame is near such a target in space, so there is no neighbour to copy. Only clips that can
    be rendered from any camera have it; for others ``requests`` raises ``InputError``. ``targets``
    of the moments between inputs are taken, spread evenly. Nothing is random: the seed is unused.
    """

    window: int = 136
    inputs: int = 16
    targets: int = 8
    sideways: float = SIDEWAYS
    """Metres by which cameras move to their left or right; they also move up by half as much."""
    name: ClassVar[str] = "novel"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Even inputs, and some of the frames half-way between them."""
        between = Sparse(self.hw, self.window, self.inputs).plan(clip_length, clip_id, seed)
        kept = even_positions(len(between.target_index), self.targets)
        return IndexPlan(between.input_index, tuple(between.target_index[i] for i in kept))

    def requests(self, clip: Clip, plan: IndexPlan) -> Views:
        """Cameras beside those of the plan's targets, clear of bodies and walls."""
        return cameras_beside(rendered(clip), list(plan.target_index), self.hw, self.sideways)


@dataclass(frozen=True)
class Spread(Protocol):
    """Even inputs over the middle ``window`` frames; the same targets for every number of inputs.

    The sparse test inputs of the paper (Figure 5). Nothing is random: the seed is unused.
    """

    window: int = 136
    inputs: int = 16
    targets: int = 8
    name: ClassVar[str] = "spread"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Targets in the middle of equal parts, inputs evenly over the other frames."""
        start, length = _middle(clip_length, self.window, clip_id)
        _check_length(length, self.inputs + self.targets, clip_id, self.name)
        targets = even_positions(length, self.targets)
        free = [i for i in range(length) if i not in targets]
        return _shifted(start, [free[i] for i in _first_to_last(len(free), self.inputs)], targets)


@dataclass(frozen=True)
class Consecutive(Protocol):
    """Frames in a row about the middle of a clip, the targets evenly among them, all others inputs.

    The continuous test inputs of the paper (Figure 5). Nothing is random: the seed is unused.
    """

    inputs: int = 16
    targets: int = 8
    name: ClassVar[str] = "consecutive"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """As many frames as inputs and targets need."""
        length = self.inputs + self.targets
        _check_length(clip_length, length, clip_id, self.name)
        targets = even_positions(length, self.targets)
        inputs = [i for i in range(length) if i not in targets]
        return _shifted((clip_length - length) // 2, inputs, targets)


@dataclass(frozen=True)
class Stream(Protocol):
    """Even inputs over a whole clip, in its order, and a target half-way in every other gap.

    Asks what is left of the first ``early`` inputs once all others have been read. Nothing is
    random: the seed is unused.
    """

    inputs: int = 64
    early: int = 16
    """How many inputs come before the rest."""
    name: ClassVar[str] = "stream"

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """``InputError`` for a clip with a gap that has no middle frame."""
        _check_length(clip_length, self.inputs, clip_id, self.name)
        inputs = _first_to_last(clip_length, self.inputs)
        gaps = list(itertools.pairwise(inputs))[::2]
        if any(b - a < 2 for a, b in gaps):
            raise InputError(
                f"clip {clip_id} has {clip_length} frames, too few for a target between every "
                f"other two of {self.inputs} inputs; use a longer clip."
            )
        return IndexPlan(tuple(inputs), tuple((a + b) // 2 for a, b in gaps))

    def early_targets(self, plan: IndexPlan) -> int:
        """How many targets of a plan lie between early inputs; they come first."""
        return sum(t < plan.input_index[self.early - 1] for t in plan.target_index)


@dataclass(frozen=True)
class Given(Protocol):
    """The split that comes with the clip: its ``index_plan``, or the train and test frames of its
    data set.
    """

    name: ClassVar[str] = "given"

    def plan_for(self, clip: Clip, seed: int = 0) -> IndexPlan:
        """The clip's own plan; ``InputError`` where it has none."""
        if clip.index_plan is None:
            raise InputError(
                f"{clip.source} brings no index_plan or split; use the protocol dense or "
                "sparse instead."
            )
        return clip.index_plan

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Never from a length alone: always an ``InputError``."""
        raise InputError(f"the protocol given needs the clip {clip_id} itself; call plan_for.")


@dataclass(frozen=True)
class Rig(Protocol):
    """Cameras of a rig held out at all moments; the others are inputs.

    Of a clip of one moment every view counts as a camera. More than ``inputs`` or ``targets``
    frames are thinned out evenly over cameras and moments. Nothing is random: the seed is unused.
    """

    inputs: int = 128
    targets: int = 24
    every: int = 4
    """Every so many cameras one is held out, from the second on: it lies between others."""
    hold_cameras: tuple[str, ...] = ()
    """Those held out instead, by name or by place from 0."""
    name: ClassVar[str] = "rig"
    baselines: ClassVar[Mapping[str, Baseline]] = CAMERA_BASELINES

    def plan_for(self, clip: Clip, seed: int = 0) -> IndexPlan:
        """``InputError`` for a clip of one camera."""
        cameras, moments = rigs.cameras_of(clip), clip.cameras.time.tolist()
        names = list(dict.fromkeys(cameras))
        held = rigs.held_out(names, self.hold_cameras, self.every, clip.source)
        seen, asked = [], []
        for i, camera in enumerate(cameras):
            (asked if camera in held else seen).append(i)
        return IndexPlan(
            rigs.spread(seen, cameras, moments, self.inputs),
            rigs.spread(asked, cameras, moments, self.targets),
        )

    def plan(self, clip_length: int, clip_id: str, seed: int = 0) -> IndexPlan:
        """Never from a length alone: always an ``InputError``."""
        raise InputError(f"the protocol rig needs the clip {clip_id} itself; call plan_for.")


PROTOCOLS: dict[str, type[Protocol]] = {
    kind.name: kind for kind in (Dense, Sparse, Novel, Rig, Spread, Consecutive, Stream, Given)
}


def protocol(name: str, **options: Any) -> Protocol:
    """Protocol by name with options from the command line or a file; unknown names and options are
    ``InputError``.
    """
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}.")
    made = from_dict(PROTOCOLS[name], options, f"protocol {name}")
    smallest: dict[str, float] = {
        "window": MIN_FRAMES,
        "inputs": 2,
        "early": 2,
        "targets": 1,
        "every": 2,
    }
    smallest["sideways"] = 0.01
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, str) and number < smallest.get(field.name, 1):
                raise InputError(
                    f"protocol {name}: {field.name} is {value}; it must be at least "
                    f"{smallest.get(field.name, 1)}."
                )
    return made


def save_plans(
    path: Path | str, chosen: Protocol, seed: int, plans: Mapping[str, IndexPlan]
) -> None:
    """Write plans with the protocol and seed they came from; ``load_plans`` reads them back."""
    entries = {
        id: {"input_index": list(plan.input_index), "target_index": list(plan.target_index)}
        for id, plan in plans.items()
    }
    write_json(path, {"protocol": chosen.describe(), "seed": seed, "plans": entries})


def load_plans(path: Path | str) -> dict[str, IndexPlan]:
    """Plans by clip id; ``InputError`` naming file, clip and field for anything else than disjoint
    frame numbers.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not isinstance(value.get("plans"), dict):
        raise InputError(
            f"{path} is not a file of index plans: it needs an object 'plans' with one "
            "entry per clip."
        )
    plans = {}
    for id, entry in value["plans"].items():
        where = f"{path}: plans.{id}"
        plan = _plan_from(entry, where)
        for name, indices in (
            ("input_index", plan.input_index),
            ("target_index", plan.target_index),
        ):
            if not indices or min(indices) < 0 or len(set(indices)) != len(indices):
                raise InputError(
                    f"{where}.{name} is {list(indices)[:8]}; it needs different frame "
                    "numbers from 0."
                )
        plans[id] = plan
    return plans


def _plan_from(entry: Any, where: str) -> IndexPlan:
    try:
        return from_dict(IndexPlan, entry, where)
    except InputError as error:  # IndexPlan's own complaint does not know the file
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error


def even_positions(n: int, count: int) -> list[int]:
    """``count`` positions spread over ``n``, middle of each equal part."""
    count = min(n, count)
    return [(2 * i + 1) * n // (2 * count) for i in range(count)]


def _first_to_last(n: int, count: int) -> list[int]:
    """``count`` positions spread evenly over ``n``, the first and the last included."""
    gaps = count - 1
    return [(2 * i * (n - 1) + gaps) // (2 * gaps) for i in range(count)]


def _shifted(start: int, inputs: list[int], targets: list[int]) -> IndexPlan:
    return IndexPlan(tuple(start + i for i in inputs), tuple(start + i for i in targets))


def _check_length(frames: int, needed: int, clip_id: str, name: str) -> None:
    if frames < needed:
        raise InputError(
            f"clip {clip_id} has {frames} frames to choose from; the protocol {name} needs at "
            f"least {needed}, use a longer clip or fewer inputs."
        )


def _middle(clip_length: int, window: int, clip_id: str) -> tuple[int, int]:
    """First frame and length of the window about the middle of the clip."""
    if clip_length < MIN_FRAMES:
        raise InputError(
            f"clip {clip_id} has {clip_length} frames; a protocol needs at least "
            f"{MIN_FRAMES}, use a longer clip."
        )
    length = min(window, clip_length)
    return (clip_length - length) // 2, length


def _hash(seed: int, clip_id: str, frame: int) -> bytes:
    return hashlib.sha256(f"{seed}/{clip_id}/{frame}".encode()).digest()
