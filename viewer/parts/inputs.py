"""The part of the panel about the input cameras."""

from typing import Any

from fsm.viewer.cameras import Camera
from fsm.viewer.input_cameras import InputNodes
from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.stage import Job


class InputPart(Part):
    """Shows the input cameras, says which is nearest, and leads there."""

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Scene``, frustums and trail in the scene."""
        self._host, self._compared = host, False
        gui: Any = host.client.gui
        inputs = len(host.stage.times)
        with host.tab("Scene"), gui.add_folder("Input cameras"):
            self.nearest = gui.add_markdown("")
            self.cameras = gui.add_checkbox(
                "Cameras", False, hint="Click a camera to look through it."
            )
            self.trail = gui.add_checkbox("Trail", False, visible=inputs > 1)
            self.go = gui.add_button("Look through the nearest")
        self._nodes = self._build()
        for control in (self.cameras, self.trail):
            control.on_update(user_events_only(lambda _: self._show()))
        self.go.on_click(
            user_events_only(
                lambda _: host.look_through(
                    host.stage.nearest(host.playback.moment, host.camera.position)
                )
            )
        )

    def wants(self, job: Job) -> Job:
        """The same job; a comparison is not covered."""
        if self._compared != (job.wipe is not None):
            self._compared = job.wipe is not None
            self._show()
        return job

    def asked(self, camera: Camera, seconds: float) -> None:
        """Mark the nearest input, and take those away that stand before the eye."""
        stage = self._host.stage
        frame = stage.nearest(seconds, camera.position)
        self._nodes.highlight(frame)
        self._nodes.seen_from(camera.position)
        text = f"Nearest: input {frame + 1} of {len(stage.times)}, at {stage.times[frame]:.3f} s"
        if text != self.nearest.content:
            self.nearest.content = text

    def restaged(self) -> None:
        """Add what is new and take away what is gone."""
        inputs = self._host.stage.inputs
        self.trail.visible = len(inputs.shown) > 1
        self._nodes.restage(inputs)

    def _build(self) -> InputNodes:
        return InputNodes(self._host.client, self._host.stage.inputs, self._host.look_through)

    def _show(self) -> None:
        shown = not self._compared
        self._nodes.show(shown and self.cameras.value, shown and self.trail.value)
