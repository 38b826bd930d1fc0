"""The controls of one browser: what they are called, where they stand, and nothing of what they do."""

from collections.abc import Sequence
from typing import Any, get_args

from fsm.viewer.parts import Tab
from fsm.viewer.render_worker import BUDGETS
from fsm.viewer.time_controls import SPEEDS, Playback

HEIGHTS = (96, 128, 192, 256, 384, 512, 720, 1080)
JPEG_QUALITY = 90


class Panel:
    """Handles of the controls, in the order in which they appear."""

    def __init__(self, gui: Any, playback: Playback, modes: Sequence[str], height: int) -> None:
        """Build them in ``gui`` (viser's, of one client)."""
        self.status = gui.add_markdown("Waiting for the first picture ...")
        self.error = gui.add_markdown("", visible=False)
        with gui.add_folder("Time"):
            self._time(gui, playback)
        tabs = gui.add_tab_group()
        self.tabs: dict[Tab, Any] = {name: tabs.add_tab(name) for name in get_args(Tab)}
        with self.tabs["Picture"]:
            self.mode = gui.add_dropdown("Show", tuple(modes), initial_value=modes[0])
            heights = tuple(str(h) for h in sorted({*HEIGHTS, height}))
            self.height = gui.add_dropdown(
                "Height (px)", heights, initial_value=str(height), hint="Of the picture when nothing moves."
            )
            self.pace = gui.add_dropdown(
                "While moving", tuple(BUDGETS), hint="Fluent: 12 smaller pictures a second; then 6, 3, never smaller."
            )
            self.transfer = gui.add_dropdown("Send as", ("JPEG", "PNG"), hint="PNG is exact, and slower.")
            self.quality = gui.add_slider("JPEG quality", 40, 100, 1, JPEG_QUALITY)
            self.reset = gui.add_button(
                "Reset view", hint="Camera, up direction, depth limits, comparison and mode as at the start."
            )

    def _time(self, gui: Any, playback: Playback) -> None:
        moves = playback.duration > 0
        self.still = gui.add_markdown("This scene does not move.", visible=not moves)
        first, last = (round(t, 3) for t in (playback.first, playback.last))
        step = 0.001 if playback.duration < 20 else 0.01
        self.seconds = gui.add_slider("Time (s)", first, max(last, first + step), step, first, visible=moves)
        self.play = gui.add_button("Play", visible=moves)
        self.step = gui.add_button_group("Frame", ("Previous", "Next"), visible=moves)
        self.speed = gui.add_slider("Speed", *SPEEDS, 0.1, 1.0, visible=moves, hint="Seconds of the clip per second.")
        self.loop = gui.add_checkbox("Loop", playback.loop, visible=moves)
        self.freeze_time = gui.add_checkbox(
            "Freeze time", False, visible=moves, hint="The moment stays; only the camera moves."
        )
        self.freeze_view = gui.add_checkbox(
            "Freeze view", True, visible=moves, hint="Off: the camera travels along the clip's own path with the time."
        )

    def show_playback(self, playback: Playback) -> None:
        """Put the slider and the button where ``playback`` stands."""
        self.seconds.value = round(playback.cursor, 3)
        self.play.label = "Pause" if playback.playing else "Play"

    def show_error(self, sentence: str | None) -> None:
        """Say what went wrong with the last picture, or that nothing did."""
        self.error.visible = sentence is not None
        if sentence is not None:
            self.error.content = f"**Not drawn:** {sentence}"
