"""The part of the panel about the input cameras."""

from typing import Any

from fsm.viewer.cameras import Camera
from fsm.viewer.input_cameras import InputNodes
from fsm.viewer.parts.base import Host, Part, user_events_only


class InputPart(Part):
    """Shows the input cameras, says which is nearest, and leads there."""

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Scene``, frustums and trail in the scene."""
        self._host = host
        gui: Any = host.client.gui
        inputs = len(host.stage.times)
        with host.tab("Scene"), gui.add_folder("Input cameras"):
            self.nearest = gui.add_markdown("")
            self.cameras = gui.add_checkbox(
                "Cameras", True, hint="Click a camera to look through it."
            )
            self.trail = gui.add_checkbox("Trail", inputs > 1, visible=inputs > 1)
            self.go = gui.add_button("Look through the nearest")
        self._nodes = self._build()
        for control in (self.cameras, self.trail):
            control.on_update(user_events_only(lambda _: self._show()))
        self.go.on_click(
            user_events_only(lambda _: host.look_through(host.stage.nearest(host.playback.moment)))
        )

    def asked(self, camera: Camera, seconds: float) -> None:
        """Mark the nearest input, and take those away that stand before the eye."""
        stage = self._host.stage
        frame = stage.nearest(seconds)
        self._nodes.highlight(frame)
        self._nodes.seen_from(camera.position)
        text = f"Nearest: input {frame + 1} of {len(stage.times)}, at {stage.times[frame]:.3f} s"
        if text != self.nearest.content:
            self.nearest.content = text

    def restaged(self) -> None:
        """Add what is new and take away what is gone."""
        inputs = self._host.stage.inputs
        if len(inputs.shown) > 1 and not self.trail.visible:  # there was no trail to show or hide
            self.trail.value = True
            self._show()
        self.trail.visible = len(inputs.shown) > 1
        self._nodes.restage(inputs)

    def _build(self) -> InputNodes:
        return InputNodes(self._host.client, self._host.stage.inputs, self._host.look_through)

    def _show(self) -> None:
        self._nodes.show(self.cameras.value, self.trail.value)
