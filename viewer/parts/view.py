"""The part of the panel about how the scene is looked at: field of view, near and far, up."""

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from fsm.viewer.cameras import Camera, up_direction
from fsm.viewer.limits import Limits
from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.stage import Job

FIELDS = (2.0, 150.0)
"""Narrowest and widest field of view of the slider, in degrees."""
FROM_CAMERAS = "From the cameras"
FROM_VIEW = "As it was set"
AXES = {
    f"{sign}{axis}": tuple(float(f"{sign}1") * (axis == a) for a in "xyz")
    for axis in "xyz"
    for sign in "+-"
}
OPEN = (0.0, 0.0)
FRAMES = ("The clip's", "All of the window")


class ViewPart(Part):
    """What is not of the moment or the place: the lens, the depths that are shown, the direction
    that is up.
    """

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Scene``."""
        self._host = host
        self._sent: deque[float] = deque(maxlen=64)
        gui: Any = host.client.gui
        deep = host.stage.renders_depth
        with host.tab("Scene"), gui.add_folder("View"):
            self.fov = gui.add_slider(
                "View angle (°)",
                *FIELDS,
                0.1,
                _degrees(host.client.camera.fov),
                hint="Field of view, from top to bottom.",
            )
            self.frame = gui.add_dropdown(
                "Picture",
                FRAMES,
                visible=host.stage.aspect is not None,
                hint="As wide and high as the clip's, or all of the window.",
            )
            self.limits = gui.add_vector2(
                "Near, far",
                OPEN,
                min=OPEN,
                step=0.01,
                visible=deep,
                hint="Depths that are shown, in the clip's unit. 0: no limit.",
            )
            self.depths = gui.add_vector2(
                "Depth colours",
                OPEN,
                min=OPEN,
                step=0.01,
                visible=False,
                hint="Depths that are red and blue, in the clip's unit. 0: found from the inputs.",
            )
            self.found = gui.add_markdown("", visible=False)
            self.up = gui.add_dropdown(
                "Up", (FROM_CAMERAS, *AXES), hint="The camera is turned about this direction."
            )
            self.set_up = gui.add_button("Set up as in this view")
        self.fov.on_update(user_events_only(lambda value: self._zoom(float(value))))
        self.frame.on_update(user_events_only(lambda _: host.refresh()))
        self.limits.on_update(user_events_only(lambda _: host.refresh()))
        self.depths.on_update(user_events_only(lambda _: host.refresh()))
        self.up.on_update(user_events_only(lambda _: self._turn_up()))
        self.set_up.on_click(user_events_only(lambda _: self._set_up()))

    def wants(self, job: Job) -> Job:
        """In its frame, within the limits, in the range of colours."""
        if self.frame.value == FRAMES[0]:
            job = dataclasses.replace(job, aspect=self._host.stage.aspect)
        deep = self._host.stage.renders_depth
        self.depths.visible = deep and job.mode == "Depth"
        self.found.visible = self.depths.visible and bool(self.found.content)
        if not deep:
            return job
        limits, depths = (
            Limits.of(self.limits.value, "Near, far"),
            Limits.of(self.depths.value, "Depth colours"),
        )
        return dataclasses.replace(job, limits=limits, depths=depths)

    def asked(self, camera: Camera, seconds: float) -> None:
        """Let the slider follow the browser, unless it says late what the slider said before."""
        if not any(math.isclose(camera.fov, sent, abs_tol=1e-6) for sent in self._sent):
            self._sent.clear()
            self.fov.value = _degrees(camera.fov)

    def shown(self, seconds: float) -> None:
        """Tell what was found for the ends of the colours."""
        found = self._host.stage.found_depths
        if self.depths.visible and found is not None:
            self.found.content = f"Found: red at {found[0]:.3g}, blue at {found[1]:.3g}"
            self.found.visible = True

    def reset(self) -> None:
        """The clip's frame, no limits, colours from the inputs, up from the cameras."""
        self._sent.clear()
        self.frame.value = FRAMES[0]
        self.limits.value = self.depths.value = OPEN
        self.up.value = FROM_CAMERAS
        self._host.up = up_direction(self._host.stage.inputs.views)

    def restaged(self) -> None:
        """Up is that of the new cameras, where it was that of the old."""
        self.frame.visible = self._host.stage.aspect is not None
        self.limits.visible = self._host.stage.renders_depth
        self.found.content = ""
        if self.up.value == FROM_CAMERAS:
            self._host.up = up_direction(self._host.stage.inputs.views)

    def _zoom(self, degrees: float) -> None:
        fov = math.radians(degrees)
        self._sent.append(fov)
        self._host.client.camera.fov = fov
        self._host.refresh()

    def _turn_up(self) -> None:
        chosen = self.up.value
        if chosen in AXES:
            self._set(AXES[chosen])
        elif chosen == FROM_CAMERAS:
            self._set(up_direction(self._host.stage.inputs.views))

    def _set_up(self) -> None:
        down = self._host.camera.c2w[:3, 1]
        self.up.options = (FROM_CAMERAS, *AXES, FROM_VIEW)
        self.up.value = FROM_VIEW
        self._set((-down).tolist())

    def _set(self, up: Sequence[float]) -> None:
        x, y, z = up
        self._host.up = (x, y, z)
        self._host.client.camera.up_direction = self._host.up
        self._host.refresh()


def _degrees(fov: float) -> float:
    """A field of view as the slider shows it."""
    return min(max(round(math.degrees(fov), 1), FIELDS[0]), FIELDS[1])
