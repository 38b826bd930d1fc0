"""A film in the scene: the line that the camera will take, coloured by the clip's time, and its
keyframes.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fsm.viewer.film.keyframes import Curve, FilmPlan
from fsm.viewer.input_cameras import HIGHLIGHT, NEAR, around, time_colours

STEPS = 400
"""Pieces of the line, about."""


class FilmNodes:
    """What one browser sees of its film."""

    def __init__(self, client: Any, size: float, picked: Callable[[int], None]) -> None:
        """``client`` is viser's handle; frustums are ``size`` large; ``picked`` gets the place of a
        keyframe clicked.
        """
        self._client, self._size, self._picked = client, size, picked
        self._lock = threading.Lock()
        self._frustums: list[Any] = []
        self._colours: list[tuple[int, ...]] = []
        self._line: Any = None
        self._plan, self._range, self._shown = FilmPlan(), (0.0, 0.0), True
        self._eye: Sequence[float] | None = None

    def show(
        self, plan: FilmPlan, selected: int, visible: bool, time_range: tuple[float, float]
    ) -> None:
        """Show ``plan``, colours from the first to the last of ``time_range``; hide it where not
        ``visible``.
        """
        with self._lock, self._client.atomic():
            self._shown = visible
            if (plan, time_range) != (self._plan, self._range):
                self._remove()
                self._plan, self._range = plan, time_range
                self._line = self._add_line(plan, time_range)
                colours = time_colours([*time_range, *(key.seconds for key in plan.keyframes)])[2:]
                self._frustums = [self._add(place, colour) for place, colour in enumerate(colours)]
            for place, frustum in enumerate(self._frustums):
                frustum.color = HIGHLIGHT if place == selected else self._colours[place]
            if self._line is not None:
                self._line.visible = visible
            self._uncover()

    def seen_from(self, eye: Sequence[float]) -> None:
        """Take keyframes out of the way of a viewer at ``eye``."""
        with self._lock:
            self._eye = eye
            self._uncover()

    def _uncover(self) -> None:
        cameras = [key.camera for key in self._plan.keyframes]
        hidden = (
            around(self._eye, cameras, NEAR * self._size)
            if self._eye is not None and cameras
            else set[int]()
        )
        for place, frustum in enumerate(self._frustums):
            visible = self._shown and place not in hidden
            if frustum.visible != visible:
                frustum.visible = visible

    def _remove(self) -> None:
        for node in (*self._frustums, *(() if self._line is None else (self._line,))):
            node.remove()
        self._frustums, self._colours, self._line = [], [], None

    def _add(self, place: int, colour: Any) -> Any:
        camera = self._plan.keyframes[place].camera
        self._colours.append(tuple(int(c) for c in colour))
        h, w = self._plan.hw
        frustum = self._client.scene.add_camera_frustum(
            f"/film/keyframe_{place + 1}",
            fov=camera.fov,
            aspect=w / h,
            scale=self._size,
            thickness=2.0,
            thickness_units="screen",
            color=self._colours[place],
            wxyz=camera.wxyz,
            position=camera.position,
        )
        frustum.on_click(lambda _: self._picked(place))
        return frustum

    def _add_line(self, plan: FilmPlan, time_range: tuple[float, float]) -> Any:
        """None for less than two keyframes."""
        if len(plan) < 2:
            return None
        pieces = max(1, STEPS // len(plan)) * (len(plan.knots) - 1)
        # Evenly from keyframe to keyframe: a long transition must not make the short ones coarse.
        moments = np.interp(
            np.linspace(0, len(plan.knots) - 1, pieces + 1), range(len(plan.knots)), plan.knots
        )
        position, seconds = Curve(plan).line(moments)
        colours = time_colours([*time_range, *seconds.tolist()])[2:]
        return self._client.scene.add_line_segments(
            "/film/path",
            points=np.stack([position[:-1], position[1:]], axis=1).astype(np.float32),
            colors=np.stack([colours[:-1], colours[1:]], axis=1),
            thickness=3.0,
            thickness_units="screen",
        )
