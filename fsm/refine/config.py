"""What a refinement is: plain values. Lengths are relative to how far things are from the cameras,
so one set fits all clips.
"""

from dataclasses import dataclass
from typing import Any

from fsm.errors import InputError


@dataclass(frozen=True)
class Rates:
    """Adam's learning rates. A Gaussian's unit of length is its distance to the nearest input
    camera.
    """

    means: float = 1.6e-3
    """Centres, in units of length."""
    velocities: float = 5e-3
    """Velocities, in units of length per unit of model time (half the clip)."""
    times: float = 1.6e-2
    """Centres in model time."""
    log_time_scales: float = 4e-2
    """Logarithms of the time each is there."""
    log_scales: float = 4e-2
    """Logarithms of the standard deviations in space."""
    quats: float = 8e-3
    """Orientations, as unit quaternions."""
    logit_opacities: float = 0.2
    """Opacities, as logits."""
    sh: float = 2e-2
    """Colours; the higher harmonics take a twentieth."""
    background: float = 1e-3
    """The colour behind everything, sRGB."""
    exposure: float = 6e-2
    """Gains of input frames, as logarithms."""
    trajectories: float = 1e-3
    """Knots of trajectories: half their turns in radians, shifts as of cameras."""
    poses: float = 2e-3
    """Turns of input cameras in radians; shifts in shares of the median distance of Gaussians."""
    last: float = 0.02
    """Share of the rates of centres, velocities, times and cameras that is left at the last step;
    they fall exponentially.
    """
    last_others: float = 0.2
    """The same share for everything else."""


@dataclass(frozen=True)
class Density:
    """When and how Gaussians are moved to where the error is."""

    every: int = 100
    """Steps between rounds; 0: never."""
    start: float = 0.02
    """First round after this share of the steps."""
    stop: float = 0.7
    """Last round before this share of the steps."""
    most: int = 40_000
    """Gaussians are added up to this number; a scene with more is thinned to it at the start."""
    growth: float = 0.1
    """Gaussians added in one round, as a share of those there."""
    in_time: float = 0.2
    """Share of splits along time instead of space."""
    least_opacity: float = 0.005
    """Fainter Gaussians are taken away and used elsewhere."""


@dataclass(frozen=True)
class BesideConfig:
    """Views beside the inputs, as a model shows them, among those that steps fit."""

    views: int = 36
    """How many; 0: none."""
    every: int = 2
    """Of so many steps one fits such a view."""
    margin: float = 2.0
    """They are left out once the Gaussians show the inputs held back by so many decibels better
    than the model does: it has nothing more to teach.
    """


@dataclass(frozen=True)
class RefineConfig:
    """A whole refinement."""

    steps: int = 3000
    """Optimiser steps."""
    views: int = 1
    """Frames per step."""
    ssim: float = 0.2
    """Weight of 1 - SSIM beside that of the absolute error, as in 3D Gaussian splatting (arXiv
    2308.04079, Eq. 7).
    """
    opacity_weight: float = 0.05
    """Weight of the mean opacity in the loss: what nobody needs fades and is used elsewhere (arXiv
    2404.09591).
    """
    least_frames: float = 2.0
    """A Gaussian is there for at least this many frames (standard deviation), so that moments
    between frames are covered.
    """
    hold_back: int | None = None
    """Most inputs kept out of the gradient, to choose when to stop; None: about one in eight, 0:
    none.
    """
    check_every: int = 100
    """Steps between measurements of the inputs held back."""
    taken_in: float = 0.1
    """Share of steps that follow from the best state, with the inputs held back among the others;
    where the scene is also known without them, as many as were best follow from the scene instead.
    """
    roughness: float = 1.0
    """Weight of the squared second differences of trajectories' knots."""
    exposure: bool = False
    """Find a gain of each channel for every input frame, or every camera of a rig; the scene is in
    their mean.
    """
    poses: bool = False
    """Correct the cameras of the input frames; their mean stays as it is."""
    beside: BesideConfig = BesideConfig()
    """Views beside the inputs."""
    rates: Rates = Rates()
    """Learning rates."""
    density: Density = Density()
    """Where Gaussians are."""
    seed: int = 0
    """Of the order of frames and of every other random choice."""

    def __post_init__(self) -> None:
        _within(
            self,
            "a refinement",
            steps=(1, 10**7),
            views=(1, 1024),
            ssim=(0.0, 1.0),
            opacity_weight=(0.0, 1e3),
            roughness=(0.0, 1e6),
            taken_in=(0.0, 1.0),
        )
        _within(self, "a refinement", least_frames=(0.0, 1e6), check_every=(1, 10**7))
        if self.hold_back is not None:
            _within(self, "a refinement", hold_back=(0, 10**6))
        _within(self.beside, "beside", views=(0, 10**4), every=(1, 10**7), margin=(-100.0, 100.0))
        d = self.density
        _within(
            d,
            "density",
            every=(0, 10**7),
            start=(0.0, 1.0),
            stop=(0.0, 1.0),
            most=(1, 10**8),
            growth=(0.0, 1e3),
        )
        _within(d, "density", in_time=(0.0, 1.0), least_opacity=(0.0, 1.0))
        for name, rate in vars(self.rates).items():
            if not 0.0 <= rate <= 10.0:
                raise InputError(
                    f"refine config: {name} is {rate} in rates; it must lie between 0 and 10."
                )

    @property
    def last_steps(self) -> int:
        """Steps with the inputs held back among the others."""
        return round(self.taken_in * self.steps)

    def is_round(self, step: int) -> bool:
        """Whether Gaussians are redistributed after ``step`` steps."""
        d = self.density
        return (
            d.every > 0
            and step % d.every == 0
            and d.start * self.steps <= step <= d.stop * self.steps
        )


def _within(config: Any, part: str, **limits: tuple[int | float, int | float]) -> None:
    for name, (least, most) in limits.items():
        value = getattr(config, name)
        if not least <= value <= most:
            raise InputError(
                f"refine config: {name} is {value} in {part}; it must lie between {least} "
                f"and {most}."
            )
