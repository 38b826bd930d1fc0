"""The controls of one browser: what they are called, where they stand, and nothing of what they
do.
"""

from collections.abc import Sequence
from typing import Any, get_args

from fsm.viewer.parts.base import Tab
from fsm.viewer.render_worker import BUDGETS
from fsm.viewer.stream import ReadingProgress
from fsm.viewer.time_controls import SPEEDS, Playback

HEIGHTS = (96, 128, 192, 256, 384, 512, 720, 1080)
JPEG_QUALITY = 90
LAST = 1e9
"""Order of what stays below that which parts add."""


class Panel:
    """Handles of the controls, in the order in which they appear."""

    def __init__(self, gui: Any, playback: Playback, modes: Sequence[str], height: int) -> None:
        """Build them in ``gui`` (viser's, of one client)."""
        self.status = gui.add_markdown("Waiting for the first picture ...")
        self.error = gui.add_markdown("", visible=False)
        self.reading = gui.add_markdown("", visible=False)
        with gui.add_folder("Time"):
            self._time(gui, playback)
        tabs = gui.add_tab_group()
        self.tabs: dict[Tab, Any] = {name: tabs.add_tab(name) for name in get_args(Tab)}
        with self.tabs["Picture"]:
            self.mode = gui.add_dropdown("Show", tuple(modes), initial_value=modes[0])
            heights = tuple(str(h) for h in sorted({*HEIGHTS, height}))
            self.height = gui.add_dropdown(
                "Height (px)",
                heights,
                initial_value=str(height),
                hint="Of the picture when nothing moves.",
            )
            self.pace = gui.add_dropdown(
                "While moving",
                tuple(BUDGETS),
                hint="Fluent: 12 smaller pictures a second; then 6, 3, never smaller.",
            )
            self.transfer = gui.add_dropdown(
                "Send as", ("JPEG", "PNG"), hint="PNG is exact, and slower."
            )
            self.quality = gui.add_slider("JPEG quality", 40, 100, 1, JPEG_QUALITY)
            self.reset = gui.add_button(
                "Reset view",
                hint="Camera, up direction, depth limits, comparison and mode as at the start.",
                order=LAST,
            )

    def _time(self, gui: Any, playback: Playback) -> None:
        moves = playback.duration > 0
        self.still = gui.add_markdown("This scene does not move.", visible=not moves)
        cursor = round(playback.cursor, 3)
        self.seconds = gui.add_slider(
            "Time (s)", *_marks(playback), initial_value=cursor, visible=moves
        )
        self.newest = gui.add_checkbox(
            "Follow the newest",
            True,
            visible=False,
            hint="The clock goes on with the frames that come, until you move it elsewhere.",
        )
        self.play = gui.add_button("Play", visible=moves)
        self.step = gui.add_button_group("Frame", ("Previous", "Next"), visible=moves)
        self.speed = gui.add_slider(
            "Speed", *SPEEDS, 0.1, 1.0, visible=moves, hint="Seconds of the clip per second."
        )
        self.loop = gui.add_checkbox("Loop", playback.loop, visible=moves)
        self.freeze_time = gui.add_checkbox(
            "Freeze time", False, visible=moves, hint="The moment stays; only the camera moves."
        )
        self.freeze_view = gui.add_checkbox(
            "Freeze view",
            True,
            visible=moves,
            hint="Off: the camera travels along the clip's own path with the time.",
        )

    def restage(self, playback: Playback, modes: Sequence[str], height: int) -> None:
        """Fit the controls to another scene, leaving them where they are as far as they fit it."""
        moves = playback.duration > 0
        self.still.visible = not moves
        for control in (
            self.play,
            self.step,
            self.speed,
            self.loop,
            self.freeze_time,
            self.freeze_view,
        ):
            control.visible = moves
        self.seconds.min, self.seconds.max, self.seconds.step = _marks(playback)
        self.seconds.visible = moves
        if self.mode.options != tuple(modes):
            self.mode.options = tuple(modes)
        if str(height) not in self.height.options:
            self.height.options = tuple(sorted({*self.height.options, str(height)}, key=int))

    def show_reading(self, reading: ReadingProgress | None) -> None:
        """Say how far a scene that is being learnt has come."""
        self.reading.visible = reading is not None
        self.newest.visible = reading is not None and not reading.over
        if reading is not None:
            self.reading.content = reading.sentence

    def show_playback(self, playback: Playback) -> None:
        """Put the slider and the button where ``playback`` stands."""
        self.seconds.value = round(playback.cursor, 3)
        self.play.label = "Pause" if playback.playing else "Play"

    def show_error(self, sentence: str | None) -> None:
        """Say what went wrong with the last picture, or that nothing did."""
        self.error.visible = sentence is not None
        if sentence is not None:
            self.error.content = f"**Not drawn:** {sentence}"


def _marks(playback: Playback) -> tuple[float, float, float]:
    """First, last and step of the slider, in seconds."""
    first, last = (round(t, 3) for t in (playback.first, playback.last))
    step = 0.001 if playback.duration < 20 else 0.01
    return first, max(last, first + step), step
