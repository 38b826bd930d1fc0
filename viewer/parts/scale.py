"""The part of the panel about how large the scene is."""

import math
from typing import Any

import numpy as np

from fsm.viewer import scale
from fsm.viewer.cameras import Camera
from fsm.viewer.input_cameras import HIGHLIGHT
from fsm.viewer.parts.base import Host, Part, user_events_only

NODE = "/scale"
PALE = (225, 225, 225)
LIFT = 0.002
"""The bar lies this share of a square above the grid, or the two would flicker."""


class ScalePart(Part):
    """Lengths in metres, and a grid of metres in the scene."""

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Scene``."""
        self._host = host
        self._shown: scale.Grid | None = None
        self._node: Any = None
        gui: Any = host.client.gui
        with host.tab("Scene"), gui.add_folder("Scale"):
            self.lengths = gui.add_markdown("")
            self.grid = gui.add_checkbox(
                "Scale grid", False, hint="Level squares under what the cameras look at."
            )
            self.metres = gui.add_number(
                "Metres per unit",
                1.0,
                min=1e-6,
                max=1e6,
                step=0.001,
                hint=(
                    "Of the clip; other than 1 where it is not in metres. Changes lengths and "
                    "grid only."
                ),
            )
        self.grid.on_update(user_events_only(lambda _: self._show()))
        self.metres.on_update(user_events_only(lambda _: self._show()))
        self._show()

    def asked(self, camera: Camera, seconds: float) -> None:
        """Keep the grid level where up has changed."""
        if self._shown is not None:
            self._show()

    def restaged(self) -> None:
        """Measure again."""
        self._show()

    def _show(self) -> None:
        stage, metres = self._host.stage, float(self.metres.value)
        if not (math.isfinite(metres) and metres > 0):
            self.lengths.content = "Metres per unit must be more than 0."
            return
        inputs = stage.inputs.views
        trail, seen = (
            scale.length(scale.trail_length(inputs) * metres),
            scale.length(stage.distance * metres),
        )
        drawn = scale.grid(inputs, self._host.up, metres) if self.grid.value else None
        squares = "" if drawn is None else f"  \nSquares of the grid: {scale.length(drawn.metres)}"
        self.lengths.content = (
            f"Trail of the cameras: {trail}  \nFrom them to what they look at: {seen}{squares}"
        )
        if drawn != self._shown:
            self._draw(drawn)

    def _draw(self, drawn: scale.Grid | None) -> None:
        """Take the old grid away and add the new one."""
        if self._node is not None:
            self._node.remove()
        self._shown, self._node = drawn, None
        if drawn is None:
            return
        nodes: Any = self._host.client.scene
        side = drawn.cells * drawn.cell
        self._node = nodes.add_frame(
            NODE, show_axes=False, wxyz=drawn.wxyz, position=drawn.position
        )
        nodes.add_grid(
            f"{NODE}/grid",
            width=side,
            height=side,
            plane="xy",
            cell_size=drawn.cell,
            section_size=10 * drawn.cell,
            cell_color=PALE,
            section_color=PALE,
            cell_thickness=1.0,
            section_thickness=2.0,
            fade_distance=10 * side,
            shadow_opacity=0.0,
        )
        start, end = (0.0, 0.0, LIFT * drawn.cell), (drawn.cell, 0.0, LIFT * drawn.cell)
        nodes.add_line_segments(
            f"{NODE}/bar",
            points=np.array([[start, end]], np.float32),
            colors=HIGHLIGHT,
            thickness=4.0,
            thickness_units="screen",
        )
        nodes.add_label(
            f"{NODE}/length", scale.length(drawn.metres), position=(drawn.cell / 2, 0.0, 0.0)
        )
