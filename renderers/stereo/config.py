"""Every number by which stereo shapes a picture; saved with the weights that were trained by it.

Inverse depths are in model units: one unit of length is the spread of the input cameras.
"""

from dataclasses import dataclass
from typing import Any

from fsm.errors import InputError


def _check_at_least(config: Any, where: str, **least: int) -> None:
    for name, value in least.items():
        if getattr(config, name) < value:
            raise InputError(
                f"{where}: {name} is {getattr(config, name)}, must be at least {value}."
            )


def _check_positive(config: Any, where: str, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise InputError(f"{where}: {name} is {getattr(config, name)}, must be above 0.")


def _check_odd(config: Any, where: str, name: str, *sides: int) -> None:
    if not sides or any(side < 1 or side % 2 == 0 for side in sides):
        raise InputError(f"{where}: {name} is {getattr(config, name)}; give odd sides of pixels.")


@dataclass(frozen=True)
class SweepConfig:
    """Depth planes, and how the costs of a plane become its weight."""

    planes: int = 32
    """Depth planes of the first sweep: infinity, then equal ratios from farthest to nearest."""
    fine_planes: int = 8
    """Inverse depths that the second sweep tries around the answer of the first."""
    nearest: float = 2.5
    """Inverse depth of the nearest plane."""
    farthest: float = 2.5 / 1.4**16
    """Inverse depth of the farthest plane before infinity; also added before ratios are taken."""
    reach: float = 0.3
    """Largest correction by the second sweep, as a share of the first answer."""
    windows: tuple[int, ...] = (3, 7)
    """Odd sides in pixels of the squares over which costs are averaged: a small one keeps depth
    edges, a large one bridges surfaces without texture.
    """
    sharpness: float = 2000.0
    """Logit per unit of mean colour difference, colours from 0 to 1."""
    floor: float = 1e-4
    """Probability that every plane keeps whatever its cost is; what is learnt may raise it."""
    far_bias: float = 0.2
    """Logit by which a plane is less likely than the next farther one: the answer where the
    pictures have no texture.
    """
    unseen_cost: float = 0.2
    """Cost of a plane where no source view sees the point, in colours from 0 to 1."""

    def __post_init__(self) -> None:
        _check_at_least(self, "sweep", planes=3, fine_planes=2)
        _check_positive(self, "sweep", "nearest", "farthest", "reach", "sharpness", "floor")
        _check_odd(self, "sweep", "windows", *self.windows)
        if self.farthest >= self.nearest:
            raise InputError(
                f"sweep: farthest is {self.farthest} and nearest {self.nearest}; both are inverse "
                "depths, give farthest < nearest."
            )
        if self.reach >= 1:
            raise InputError(f"sweep: reach is {self.reach}, must be below 1.")


@dataclass(frozen=True)
class SubpixelConfig:
    """Gauss-Newton steps along the rays."""

    steps: int = 3
    """Number of steps."""
    window: int = 11
    """Odd side in pixels over which the equations of a pixel are summed."""
    detrend_window: int = 9
    """Odd side in pixels of the mean that is taken from the colours before they are compared, so
    that changing light moves no surface.
    """
    outlier: float = 0.1
    """Difference of colours, from 0 to 1, at which a sample counts half (Geman-McClure)."""
    damping: float = 1e-3
    """Squared change of colour per ratio of inverse depth, below which there is no texture."""
    unseen_misfit: float = 0.5
    """Misfit, from 0 to 1, of a source view that does not see the point."""
    acceptance: float = 1e-3
    """Gain in misfit at which a step is taken by 73 %."""
    largest_step: float = 0.15
    """Largest change per step, as a share of the inverse depth."""

    def __post_init__(self) -> None:
        _check_at_least(self, "subpixel", steps=1)
        _check_odd(self, "subpixel", "window", self.window)
        _check_odd(self, "subpixel", "detrend_window", self.detrend_window)
        _check_positive(self, "subpixel", "outlier", "damping", "acceptance", "largest_step")


@dataclass(frozen=True)
class SceneFlowConfig:
    """Velocities from optical flow."""

    agreement: float = 1.5
    """Pixels between a place and where flow there and back leads, at which flow is trusted by 1/e.
    """
    ridge: float = 1e-3
    """Weight of a velocity's square beside that of its misfit: the least velocity is taken."""
    farthest: float = 0.01
    """Least inverse depth that a velocity is given for: what is farther moves as if it were
    there.
    """

    def __post_init__(self) -> None:
        _check_positive(self, "scene flow", "agreement", "ridge", "farthest")


@dataclass(frozen=True)
class ConsistencyConfig:
    """When source views contradict the depth of one another."""

    neighbourhood: int = 3
    """Odd side in pixels of the square whose depths a point is compared with: depth edges are found
    to a pixel.
    """
    support: float = 0.95
    """Farther over nearer inverse depth, above which two views found the same surface."""
    seen_through: float = 0.8
    """Inverse depth found by another view over that of a point, below which that view sees through
    the point.
    """
    slack: float = 0.005
    """Inverse depth added before ratios are taken: what is far away hides nothing."""

    def __post_init__(self) -> None:
        _check_odd(self, "consistency", "neighbourhood", self.neighbourhood)
        _check_positive(self, "consistency", "support", "seen_through", "slack")


@dataclass(frozen=True)
class FusionConfig:
    """When a pixel stands, and when an earlier view shows the same."""

    views: int = 12
    """Views that a pixel is compared with, at most."""
    window: int = 3
    """Odd side in pixels of the squares whose mean colours are compared."""
    colour: float = 0.08
    """Mean difference of colours, from 0 to 1, from which on two views show different things."""
    support: float = 0.95
    """Farther over nearer inverse depth, above which two views found the same surface."""
    resolution: float = 0.7
    """Pixels per length of an earlier view over those of a later one, below which both are kept."""
    slack: float = 0.01
    """Inverse depth added before ratios are taken."""

    def __post_init__(self) -> None:
        _check_at_least(self, "fusion", views=1)
        _check_odd(self, "fusion", "window", self.window)
        _check_positive(self, "fusion", "colour", "support", "resolution", "slack")


@dataclass(frozen=True)
class KeyFrameConfig:
    """When the moments around a frame of a film show a pixel of it well enough."""

    moments: int = 16
    """Moments below which every frame of a film is shown as a whole."""
    colour: float = 0.03
    """Largest difference in a channel, from 0 to 1, from which on two views differ."""
    support: float = 0.7
    """Farther over nearer inverse depth, above which two views may show the same surface."""
    resolution: float = 0.7
    """Pixels per length of the other view over those of this one, below which both are shown."""

    def __post_init__(self) -> None:
        _check_at_least(self, "key frames", moments=3)
        _check_positive(self, "key frames", "colour", "support", "resolution")


@dataclass(frozen=True)
class LayerConfig:
    """When two inverse depths at one pixel belong to the same surface (a soft z-buffer)."""

    same_surface: float = 0.9
    """Farther over nearer inverse depth, above which the farther one is not hidden."""
    slack: float = 0.01
    """Inverse depth added before the ratio is taken: what is far away hides nothing."""

    def __post_init__(self) -> None:
        _check_positive(self, "z-buffer", "slack")
        if not 0 < self.same_surface <= 1:
            raise InputError(
                f"z-buffer: same_surface is {self.same_surface}, must be above 0 and at most 1."
            )


@dataclass(frozen=True)
class WarpConfig(LayerConfig):
    """Which of several depths that land on one pixel count."""

    confidence: float = 0.5
    """Confidence of a depth below which it counts only where no surer one lands."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.confidence <= 1:
            raise InputError(
                f"forward warp: confidence is {self.confidence}, must lie between 0 and 1."
            )


@dataclass(frozen=True)
class MotionConfig:
    """Lucas-Kanade alignment along straight paths through time, and when it is accepted."""

    strides: tuple[int, ...] = (8, 4, 2)
    """Pixel strides of the levels, coarsest first."""
    iterations: int = 4
    """Gauss-Newton steps per level."""
    window: int = 5
    """Odd side in pixels over which the equations of a pixel are summed."""
    smoothing: int = 3
    """Odd side in pixels over which velocities are averaged after each step."""
    damping: float = 3e-4
    """Squared image gradient, colours from 0 to 1, below which there is no texture."""
    largest_step: float = 1.0
    """Pixels of the level per step."""
    moment: float = 0.25
    """Squared relative time gap at which a source view counts half."""
    gain_window: int = 7
    """Odd side in pixels over which the gain of a motion is measured."""
    least_gain: float = 0.15
    """Logarithm of (disagreement before / after) at which a motion is taken by half."""
    gain_width: float = 0.05
    """Width of that decision, in the same logarithm."""
    noise: float = 1e-3
    """Disagreement of colours, from 0 to 1, that says nothing."""

    def __post_init__(self) -> None:
        _check_at_least(self, "motion", iterations=1)
        for name in ("window", "smoothing", "gain_window"):
            _check_odd(self, "motion", name, getattr(self, name))
        _check_positive(self, "motion", "damping", "largest_step", "moment", "gain_width", "noise")
        if any(stride < 1 for stride in self.strides):
            raise InputError(f"motion: strides is {self.strides}; strides must be at least 1.")


@dataclass(frozen=True)
class StereoConfig:
    """All stages of depth and motion from frames, in their order."""

    sources: int = 4
    """Nearest source views that a reference view is compared with; half as many that stand farther
    apart are added.
    """
    size: int = 256
    """Root of the most pixels, and up to four times as many, of pictures that depth is found on;
    larger ones are shrunk first.
    """
    sweep: SweepConfig = SweepConfig()
    """Cost volumes over depth planes."""
    subpixel: SubpixelConfig = SubpixelConfig()
    """Fractions of a pixel."""
    median: int = 5
    """Odd side in pixels of the squares whose median is the depth where that is less sure than
    ``warp.confidence``; 1 leaves it as it is.
    """
    scene_flow: SceneFlowConfig = SceneFlowConfig()
    """Motion of what input frames show."""
    fusion: FusionConfig = FusionConfig()
    """One surface from the depth of all frames of a static capture."""
    key_frames: KeyFrameConfig = KeyFrameConfig()
    """What frames of a film add to those around them."""
    consistency: ConsistencyConfig = ConsistencyConfig()
    """Depths that are not carried to a target."""
    warp: WarpConfig = WarpConfig()
    """Surfaces that are averaged where several land on one pixel."""
    occlusion: LayerConfig = LayerConfig(slack=0.02)
    """Surfaces that hide others from a source view."""
    motion: MotionConfig = MotionConfig()
    """Motion between frames."""

    def __post_init__(self) -> None:
        _check_at_least(self, "stereo", sources=1, size=16)
        _check_odd(self, "stereo", "median", self.median)
