"""A film as a value: keyframes of camera and moment, the smooth curve through them, and the request
of all its frames.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy import ndarray

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import MAX_FRAMES, check_size, frame_count
from fsm.renderers.film.splines import rotations
from fsm.viewer.cameras import Camera
from fsm.views import Views

TRANSITION = 2.0
TRANSITIONS = (0.001, 600.0)
"""Shortest and longest, in seconds of the film."""
MAX_KEYFRAMES = 500
UNDO = 200
"""Steps that can be taken back."""


@dataclass(frozen=True)
class Keyframe:
    """What the film shows when it comes by."""

    camera: Camera
    seconds: float
    """Moment of the clip."""
    transition: float = TRANSITION
    """Seconds of the film until the next keyframe; of the last one, until the first again in a
    closed loop.
    """


@dataclass(frozen=True)
class FilmPlan:
    """A film; every method returns another one, or something about it.

    Positions and rotations follow Kochanek-Bartels splines (of the ``splines`` library) over the
    film's seconds, clip time and field of view monotone cubics: between two keyframes time never
    leaves theirs, and of equal moments it stands.
    """

    keyframes: tuple[Keyframe, ...] = ()
    fps: float = 30.0
    hw: tuple[int, int] = (512, 512)
    """Height and width of its frames, in pixels."""
    loop: bool = False
    """After the last keyframe on to the first, without a stop."""
    tension: float = 0.0
    """0: the smoothest curve; 1: the camera comes to rest at every keyframe."""

    def __len__(self) -> int:
        """Number of keyframes."""
        return len(self.keyframes)

    def added(self, keyframe: Keyframe, place: int | None = None) -> "FilmPlan":
        """With ``keyframe`` before the one at ``place``, or at the end."""
        if len(self) >= MAX_KEYFRAMES:
            raise InputError(
                f"the film has {MAX_KEYFRAMES} keyframes, the most there can be; delete some first."
            )
        place = len(self) if place is None else place
        return self.with_keyframes((*self.keyframes[:place], keyframe, *self.keyframes[place:]))

    def replaced(self, place: int, keyframe: Keyframe) -> "FilmPlan":
        """With ``keyframe`` in place of the one there."""
        return self.with_keyframes(
            (*self.keyframes[:place], keyframe, *self.keyframes[place + 1 :])
        )

    def removed(self, place: int) -> "FilmPlan":
        """Without the keyframe at ``place``."""
        return self.with_keyframes((*self.keyframes[:place], *self.keyframes[place + 1 :]))

    def moved(self, place: int, to: int) -> "FilmPlan":
        """With the keyframe at ``place`` at ``to`` instead, held to the film's ends; it takes its
        transition along.
        """
        to = min(max(to, 0), len(self) - 1)
        return self.removed(place).added(self.keyframes[place], to)

    def with_keyframes(self, keyframes: tuple[Keyframe, ...]) -> "FilmPlan":
        """The same settings with other keyframes."""
        return dataclasses.replace(self, keyframes=keyframes)

    @property
    def knots(self) -> tuple[float, ...]:
        """Seconds of the film at which the keyframes come; one more in a loop, where the first
        comes again.
        """
        seconds, knots = 0.0, [0.0]
        for keyframe in self.keyframes if self.loop else self.keyframes[:-1]:
            seconds += keyframe.transition
            knots.append(seconds)
        return tuple(knots) if self.keyframes else ()

    @property
    def duration(self) -> float:
        """Seconds from the first keyframe to the last, in a loop to the first again; 0 of a single
        one.
        """
        return self.knots[-1] if self.keyframes else 0.0

    @property
    def moments(self) -> Float64[ndarray, "n"]:
        """Seconds of the film at which it has frames: with both ends, in a loop without the last,
        which is the first.
        """
        if self.duration == 0:
            return np.zeros(1)
        count = (
            max(1, round(self.duration * self.fps))
            if self.loop
            else frame_count(self.duration, self.fps)
        )
        if count > MAX_FRAMES:
            raise InputError(
                f"the film has {count} frames, more than {MAX_FRAMES}; shorten the transitions."
            )
        return np.linspace(0.0, self.duration, count, endpoint=not self.loop)

    def frames(self) -> Views:
        """The request of the whole film, one view per frame; no keyframes or a bad size raise
        ``InputError``.
        """
        check_size(self.hw)
        curve = Curve(self).at(self.moments)
        h, w = self.hw
        c2w = torch.eye(4, dtype=torch.float64).repeat(len(curve.seconds), 1, 1)
        c2w[:, :3, :3] = rotations(torch.from_numpy(curve.wxyz))
        c2w[:, :3, 3] = torch.from_numpy(curve.position)
        f = torch.from_numpy(0.5 * h / np.tan(curve.fov / 2))
        intrinsics = torch.stack(
            [f, f, torch.full_like(f, w / 2), torch.full_like(f, h / 2)], dim=-1
        )
        return Views(
            c2w.float(), intrinsics.float(), torch.from_numpy(curve.seconds).float(), self.hw
        )

    def at(self, film_seconds: float) -> tuple[Camera, float]:
        """Camera and moment of the clip at a moment of the film, held to its ends."""
        return Curve(self).camera(film_seconds, self.hw[1] / self.hw[0])


@dataclass(frozen=True)
class Along:
    """The film's curve at some of its moments."""

    wxyz: Float64[ndarray, "n 4"]
    position: Float64[ndarray, "n 3"]
    fov: Float64[ndarray, "n"]
    """Vertical, radians."""
    seconds: Float64[ndarray, "n"]
    """Of the clip."""


class Curve:
    """The curve through a plan's keyframes (at least one); worth keeping where it is asked often.
    None: ``InputError``.
    """

    def __init__(self, plan: FilmPlan) -> None:
        if not plan.keyframes:
            raise InputError(
                "the film has no keyframes; set up a view and a moment and choose Add keyframe."
            )
        self._first = plan.keyframes[0]
        self._last = plan.duration
        if plan.duration == 0:
            return
        import splines
        from splines.quaternion import KochanekBartels, UnitQuaternion

        keys, knots = list(plan.keyframes), list(plan.knots)
        if plan.loop:
            # A tangent depends on a key's neighbours alone: with one more key on either side the
            # curve between first and first again is the closed one. The library closes rotations
            # with a function that NumPy gave up.
            keys = [keys[-1], *keys, keys[0], keys[1 % len(keys)]]
            knots = [knots[0] - keys[0].transition, *knots, knots[-1] + keys[1].transition]
        self._fov = splines.PiecewiseMonotoneCubic([key.camera.fov for key in keys], knots)
        self._seconds = splines.PiecewiseMonotoneCubic([key.seconds for key in keys], knots)
        turns = [
            UnitQuaternion.from_unit_xyzw((*q[1:], q[0]))
            for q in (_unit(key.camera.wxyz) for key in keys)
        ]
        places = np.array([key.camera.position for key in keys], dtype=np.float64)
        # Far from the origin the curve of absolute places would lose the digits that the steps
        # between them need.
        self._origin = places[0].copy()
        places -= self._origin
        if not plan.loop:
            # As if the film came from, and went on to, another keyframe as far away as the next:
            # then a constant motion stays one up to its ends. (The library's natural ends of
            # rotations are half a step too fast.)
            knots = [2 * knots[0] - knots[1], *knots, 2 * knots[-1] - knots[-2]]
            places = np.concatenate(
                [[2 * places[0] - places[1]], places, [2 * places[-1] - places[-2]]]
            )
            turns = [
                turns[1].rotation_to(turns[0]) * turns[0],
                *turns,
                turns[-2].rotation_to(turns[-1]) * turns[-1],
            ]
        tcb = (plan.tension, 0.0, 0.0)
        self._position = splines.KochanekBartels(places, knots, tcb=tcb)
        self._rotation = KochanekBartels(turns, knots, tcb=tcb)

    def line(
        self, film_seconds: Float64[ndarray, "n"]
    ) -> tuple[Float64[ndarray, "n 3"], Float64[ndarray, "n"]]:
        """Positions and moments of the clip alone: rotations take a hundred times as long."""
        moments = np.clip(film_seconds, 0.0, self._last)
        if self._last == 0:
            here = self.at(film_seconds)
            return here.position, here.seconds
        return self._position.evaluate(moments) + self._origin, self._seconds.evaluate(moments)

    def at(self, film_seconds: Sequence[float] | Float64[ndarray, "n"]) -> Along:
        """At moments of the film, held to its ends."""
        moments = np.clip(np.asarray(film_seconds, dtype=np.float64), 0.0, self._last)
        if self._last == 0:
            key = self._first
            ones = np.ones(len(moments))
            wxyz, position = (
                np.outer(ones, row) for row in (_unit(key.camera.wxyz), key.camera.position)
            )
            return Along(wxyz, position, ones * key.camera.fov, ones * key.seconds)
        turned: list[Any] = [self._rotation.evaluate(t) for t in moments.tolist()]
        turns = np.array([_unit(q.wxyz) for q in turned])
        position, seconds = self.line(moments)
        return Along(turns, position, self._fov.evaluate(moments), seconds)

    def camera(self, film_seconds: float, aspect: float) -> tuple[Camera, float]:
        """Camera of a picture of ``aspect``, and moment of the clip, at a moment of the film."""
        here = self.at([film_seconds])
        wxyz, position = (tuple(row[0].tolist()) for row in (here.wxyz, here.position))
        return Camera(wxyz, position, float(here.fov[0]), aspect), float(here.seconds[0])  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class History:
    """A plan, and the ones before and after it."""

    present: FilmPlan
    before: tuple[FilmPlan, ...] = ()
    after: tuple[FilmPlan, ...] = ()
    doing: str | None = None
    """What the last step changed."""

    def changed(self, plan: FilmPlan, doing: str | None = None) -> "History":
        """One step further; steps ``doing`` the same one after the other (a number being typed) are
        taken back at once.
        """
        if plan == self.present:
            return self
        same = doing is not None and doing == self.doing
        before = self.before if same else (*self.before, self.present)[-UNDO:]
        return History(plan, before, (), doing)

    def undone(self) -> "History":
        """One step back, if there is one."""
        if not self.before:
            return self
        return History(self.before[-1], self.before[:-1], (self.present, *self.after))

    def redone(self) -> "History":
        """The step forward again that was taken back, if there is one."""
        if not self.after:
            return self
        return History(self.after[0], (*self.before, self.present), self.after[1:])


def _unit(q: Any) -> Float64[ndarray, "4"]:
    values = np.asarray(q, dtype=np.float64)
    return values / math.sqrt(float(values @ values))
