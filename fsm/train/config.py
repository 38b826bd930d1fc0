"""What a training run is: plain values, from a preset in ``configs/`` and overrides."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

import fsm
from fsm.config import Partial, from_dict
from fsm.errors import InputError
from fsm.files import read_yaml
from fsm.model import ModelConfig
from fsm.renderers.heads.registry import HEADS

CONFIGS = Path(fsm.__file__).parent / "configs"
MANY = 10**9


def _within(config: Any, part: str, **limits: tuple[int | float, int | float]) -> None:
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        if not least <= value <= most:
            raise InputError(
                f"train config: {name} is {value} in {part}; it must lie between {least} "
                f"and {most}."
            )


@dataclass(frozen=True)
class SourceConfig:
    """One source of training clips."""

    path: str
    """`world`, or a clip list, clip file or folder that `fsm inspect` can open."""
    weight: float = 1.0
    """How often a sample is taken from it, relative to the other sources."""


@dataclass(frozen=True)
class SampleConfig:
    """Which frames a training sample holds (FSM, appendix A: a random window, inputs and targets
    disjoint). A stage may change every field.
    """

    hw: tuple[int, int] = (128, 128)
    """Height and width of training images."""
    batch: int = 4
    """Samples per step, shared out evenly among the processes."""
    inputs: tuple[int, ...] = (32,)
    """Numbers of input frames; one is sampled per step."""
    chunks: tuple[int, ...] = ()
    """Numbers of chunks the inputs are written in, each of ceil(inputs / chunks) whole views; one
    is sampled per step. Empty: the encoder's own chunk_tokens."""
    targets: int = 32
    """Target frames per sample."""
    window: tuple[int, int] = (128, 128)
    """Shortest and longest window of frames a sample is taken from; clips may be shorter."""
    even: float = 0.0
    """Share of samples with evenly spread inputs instead of random ones."""
    zoom: float = 1.0
    """Largest random zoom-in: clips are kept this much larger than hw and a random window of hw is
    cut.
    """

    def __post_init__(self) -> None:
        if not self.inputs or min(*self.inputs, self.targets, self.batch) < 1:
            raise InputError("train config: data needs at least one input, target and batch entry.")
        if min(self.chunks, default=1) < 1:
            raise InputError(
                f"train config: data.chunks is {list(self.chunks)}; every number of chunks "
                "is at least 1."
            )
        if self.window[0] > self.window[1] or self.window[0] < 3:
            raise InputError(
                f"train config: data.window is {self.window}; give shortest and longest, "
                "at least 3 frames."
            )
        _within(self, "data", zoom=(1.0, 16.0), even=(0.0, 1.0))
        if min(self.hw) < 1:
            raise InputError(
                f"train config: data.hw is {self.hw}; give height and width in pixels."
            )


@dataclass(frozen=True)
class DataConfig(SampleConfig):
    """Where training samples come from, and what they hold."""

    sources: tuple[SourceConfig, ...] = (SourceConfig("world"),)
    """Where samples come from."""
    mirror: bool = False
    """Mirror samples left-right and in time at random, poses included."""
    still: float = 1.0
    """Share of samples of kind world that are taken as they come. Nearly half of those are from a
    camera that only shakes, as half of Stereo4D's are. The cameras of the others move, so that
    there is depth to be seen.
    """
    static: float = 0.0
    """Share of samples of kind world in which time stands still, as in a set of photos."""
    rigs: float = 0.0
    """Share of samples of kind world that a rig takes: a few cameras that stand still, each at
    several moments.
    """
    around: float = 0.0
    """Share of these static captures and rigs whose cameras stand on an arc about the middle of the
    world, two to 34 degrees apart. Of such rigs half have as many cameras as frames, each at a
    moment of its own.
    """
    cache_gib: float = 4.0
    """Decoded frames kept in memory by each process; clips that do not fit are decoded anew for
    every sample.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise InputError("train config: data needs at least one source.")
        _within(self, "data", still=(0.0, 1.0), cache_gib=(0.0, 1e6))
        _within(self, "data", static=(0.0, 1.0), rigs=(0.0, 1.0), around=(0.0, 1.0))
        if self.static + self.rigs > 1.0:
            raise InputError(
                f"train config: data.static is {self.static} and data.rigs {self.rigs}; they are "
                "shares of the samples, give at most 1 together."
            )


@dataclass(frozen=True)
class StageConfig:
    """One stage of a curriculum: other values of some options of ``data``, kept until a later stage
    names them.
    """

    from_step: int
    """First step of the stage, counted from 0."""
    data: Partial[SampleConfig] = Partial()
    """Options of ``data`` that change here."""
    lr: float | None = None
    """Peak of a learning rate that starts anew here, as with a new run; null goes on with the one
    before.
    """
    warmup: int = 0
    """Steps of warm-up where ``lr`` is given."""
    learn: Literal["all", "stereo"] = "all"
    """What is learnt: the part of the decoder that finds depth in the frames alone (a cheap
    beginning), or all the rest. A later stage that does not name it learns the rest."""

    def __post_init__(self) -> None:
        where = f"the stage from step {self.from_step}"
        _within(self, where, warmup=(0, MANY), **({} if self.lr is None else {"lr": (0.0, 1e3)}))


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with decay on matrices only, warm-up then cosine to zero (FSM, table 5)."""

    steps: int = 32_000
    """Optimiser steps."""
    lr: float = 2e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Adam's decay rates."""
    weight_decay: float = 0.05
    """Decoupled decay of parameters with two or more dimensions."""
    warmup: int = 1000
    """Steps of linear learning-rate warm-up."""
    colours: Literal["mse", "log"] = "mse"
    """Error of colours: mse, of all pixels alike; or log, the mean logarithm of each target's own
    (an extension of ours): a clip that is nearly right then counts as much as a world that is far
    off, as in a mean of PSNRs."""
    lpips: Literal["none", "alex", "squeeze", "vgg", "auto"] = "vgg"
    """Perceptual network of the loss; auto is the first of vgg, alex and squeeze whose weights are
    found, kept when resuming.
    """
    lpips_weight: float = 0.5
    """Weight of LPIPS beside the error of colours."""
    depth_weight: float = 0.0
    """Weight of the inverse-depth error where a source knows depth and the head predicts it (an
    extension of ours).
    """
    l2_warmup: int = 1000
    """Steps without LPIPS, counted from the first one that learns everything."""
    clip: float = 1.0
    """Gradient norm is clipped to this after ``clip_from`` steps, and always where only stereo is
    learnt.
    """
    clip_from: int = 1000
    """Steps before clipping and skipping start, counted from the first one that learns everything.
    """
    skip_above: float = 4.0
    """A step whose gradient norm exceeds this (after ``clip_from``), or is not finite, is skipped.
    """
    ema: float = 0.999
    """Decay of the averaged weights that are exported; 0 exports the raw ones."""
    fused: bool = False
    """AdamW in one kernel: a faster update, equal to rounding."""

    def __post_init__(self) -> None:
        _within(
            self,
            "optim",
            steps=(1, MANY),
            warmup=(0, MANY),
            l2_warmup=(0, MANY),
            clip_from=(0, MANY),
            ema=(0.0, 1.0),
        )
        _within(
            self,
            "optim",
            lr=(0.0, 1e3),
            weight_decay=(0.0, 1e3),
            lpips_weight=(0.0, 1e6),
            depth_weight=(0.0, 1e6),
        )


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    model: ModelConfig = ModelConfig()
    """What is trained."""
    data: DataConfig = DataConfig()
    """On what."""
    optim: OptimConfig = OptimConfig()
    """How."""
    stages: tuple[StageConfig, ...] = ()
    """A curriculum: later stages of ``data``, in order. Empty: the same data throughout."""
    init: str | None = None
    """Start from these weights (bundled name, folder, hub name) of the same encoder; null starts
    from random ones.
    """
    seed: int = 42
    """Seed of initial weights and of every sample."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast format of matrix products; weights and fast weights stay float32."""
    checkpointing: bool = False
    """Recompute activations chunk by chunk in backward: less memory, same gradients."""
    compile: bool = False
    """Run the blocks through torch.compile: faster steps after minutes of compilation; equal, and
    resumed, to rounding only.
    """
    ahead: bool = False
    """Sample the next batch in a thread while a step runs: the same samples, for one more core and
    one more batch in memory.
    """
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What processes keep: ddp the whole model each, fsdp a part of parameters, gradients and
    optimiser state; changes no curve, and may change on resuming."""
    token_parallel: int = 1
    """Processes that share the inputs' tokens and the targets of the same samples; changes no
    curve, and may change on resuming.
    """
    log_every: int = 10
    """Steps between log lines."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        _within(self, "a run", log_every=(1, MANY), save_every=(1, MANY), token_parallel=(1, MANY))
        if self.compile and (self.token_parallel > 1 or self.parallel == "fsdp"):
            other = "token_parallel" if self.token_parallel > 1 else "parallel: fsdp"
            raise InputError(f"train config: compile and {other} are both given; choose one.")
        begins = [s.from_step for s in self.stages]
        if begins != sorted(set(begins)) or min(begins, default=0) < 0:
            raise InputError(
                f"train config: stages begin at steps {begins}; give increasing ones, the "
                "first at least 0."
            )
        if any(s.learn == "stereo" for s in self.stages):
            self._check_stereo()
        patch = self.model.encoder.patch
        for step, data in self.data_stages():
            if data.targets % self.token_parallel:
                raise InputError(
                    f"train config: data.targets is {data.targets}, which "
                    f"{self.token_parallel} processes (token_parallel) cannot "
                    "share evenly; choose a multiple."
                )
            if any(side % patch for side in data.hw):
                where = f" from step {step}" if step else ""
                raise InputError(
                    f"train config: data.hw is {data.hw}{where}, not a multiple of the "
                    f"patch size {patch}."
                )

    def _check_stereo(self) -> None:
        able = [kind for kind, (_, head) in HEADS.items() if "stereo" in head.learns_alone]
        if self.model.head.kind not in able:
            raise InputError(
                f"train config: a stage has learn: stereo, but a head of kind "
                f"{self.model.head.kind} has no stereo; choose {' or '.join(able)}."
            )
        if self.token_parallel > 1:
            raise InputError(
                "train config: learn: stereo and token_parallel are both given; choose one."
            )

    def learns(self, step: int) -> Literal["all", "stereo"]:
        """What is learnt at ``step``."""
        begun = [s for s in self.stages if s.from_step <= step]
        return begun[-1].learn if begun else "all"

    def whole_steps(self, step: int) -> int:
        """How many steps ``step`` is after the first one that learns everything; negative
        before.
        """
        later = sorted({0, *(s.from_step for s in self.stages)})
        return step - next((s for s in later if self.learns(s) == "all"), MANY)

    def data_stages(self) -> list[tuple[int, DataConfig]]:
        """What samples hold from which step on, in order; the first from step 0."""
        stages = [(0, self.data)]
        for stage in self.stages:
            try:
                data = stage.data.applied(stages[-1][1])
            except InputError as error:
                raise InputError(f"the stage from step {stage.from_step}: {error}") from error
            stages.append((stage.from_step, data))
        return stages if len(stages) == 1 or stages[1][0] > 0 else stages[1:]


def preset_names() -> list[str]:
    """Presets in ``configs/``."""
    return sorted(p.stem for p in CONFIGS.glob("*.yaml"))


def load_preset(name_or_path: str) -> TrainConfig:
    """A run config by preset name or YAML path; unknown keys are errors."""
    path = CONFIGS / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise InputError(
            f"no preset or config file {name_or_path!r}; presets are {', '.join(preset_names())}."
        )
    return from_dict(TrainConfig, read_yaml(path) or {}, str(path))


def overridden(values: dict, assignments: tuple[str, ...]) -> dict:
    """Plain config values with ``dotted.key=value`` assignments applied; values are read as
    YAML.
    """
    values = copy.deepcopy(values)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(
                f"--set {assignment!r} is not KEY=VALUE; write for instance optim.steps=1000."
            )
        *parents, last = key.split(".")
        place = values
        for parent, part in zip(parents, [*parents, last][1:], strict=True):
            if place.get(parent) is None:  # an option that is off, such as elastic: null
                place[parent] = {}
            place = place[parent]
            # stages.0.hw
            if isinstance(place, list) and all(isinstance(entry, dict) for entry in place):
                place = {str(i): entry for i, entry in enumerate(place)}
                if part == last or part not in place:
                    raise InputError(
                        f"--set {assignment!r}: {parent!r} has {len(place)} entries, "
                        "counted from 0."
                    )
            if not isinstance(place, dict):
                raise InputError(
                    f"--set {assignment!r}: {parent!r} is a single value, it has no part {part!r}."
                )
        try:
            place[last] = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:  # ValueError: a date that does not exist
            raise InputError(
                f"--set {assignment!r}: the value is not YAML ({' '.join(str(error).split())})."
            ) from error
    return values
