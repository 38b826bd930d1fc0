"""The controls of a film: what they are called, where they stand, and nothing of what they do."""

import math
from typing import Any, get_args

from fsm.viewer.film.files import Kind
from fsm.viewer.film.keyframes import TRANSITIONS, FilmPlan, History

SIDES = (16.0, 4096.0)
"""Smallest and largest width and height that can be typed, in pixels."""
RATES = (1.0, 120.0)
DEGREES = (1.0, 170.0)
"""As narrow and as wide as ``cameras.FIELDS_OF_VIEW``."""
STEP = 0.01
"""Seconds of the film, on its slider."""
EMPTY = "Set up a view and a moment, then choose **Add keyframe**; two or more make a film."
CELL = "padding:0 1em 0 0;text-align:right"


class FilmPanel:
    """Handles of the controls, in the order in which they appear."""

    def __init__(self, gui: Any, plan: FilmPlan, moves: bool) -> None:
        """Build them in ``gui`` (viser's, of one client); ``moves``: whether the scene has more
        than one moment.
        """
        self.empty = gui.add_markdown(EMPTY)
        self.add = gui.add_button(
            "Add keyframe", hint="Of the present view and moment, after the selected one."
        )
        self.keys = gui.add_folder("Keyframes", visible=False)
        with self.keys:
            self._keyframe(gui, moves)
        self.edit = gui.add_button_group("Edit", ("Undo", "Redo", "Clear"), visible=False)
        self.notice = gui.add_markdown("", visible=False)
        self.error = gui.add_markdown("", visible=False)
        self.film = gui.add_folder("Film", visible=False)
        with self.film:
            self._film(gui, plan)
        self.load = gui.add_upload_button(
            "Load path",
            mime_type=".json,application/json",
            hint="A camera_path.json, also of nerfstudio or nerfview.",
        )

    def _keyframe(self, gui: Any, moves: bool) -> None:
        self.list = gui.add_html("")
        self.selected = gui.add_dropdown("Selected", ("1",))
        self.act = gui.add_button_group(
            "Keyframe",
            ("Go to", "Replace", "Delete"),
            hint="Replace puts the present view and moment in its place.",
        )
        self.move = gui.add_button_group("Move", ("Earlier", "Later"))
        self.seconds = gui.add_number(
            "Moment (s)", 0.0, step=0.001, visible=moves, hint="Seconds of the clip."
        )
        self.fov = gui.add_number(
            "Field of view (°)",
            50.0,
            min=DEGREES[0],
            max=DEGREES[1],
            step=0.1,
            hint="From top to bottom.",
        )
        self.transition = gui.add_number(
            "Until next (s)",
            2.0,
            min=TRANSITIONS[0],
            max=TRANSITIONS[1],
            step=0.001,
            hint="Seconds of the film.",
        )

    def _film(self, gui: Any, plan: FilmPlan) -> None:
        self.position = gui.add_slider("Film time (s)", 0.0, 1.0, STEP, 0.0)
        self.play = gui.add_button("Play film")
        self.path = gui.add_checkbox(
            "Show path",
            True,
            hint="The line is coloured by the clip's time. Click a keyframe to go there.",
        )
        self.loop = gui.add_checkbox(
            "Closed loop", plan.loop, hint="On from the last keyframe to the first, without a stop."
        )
        self.tension = gui.add_slider(
            "Tension",
            0.0,
            1.0,
            0.05,
            plan.tension,
            hint="0: the smoothest path. 1: rests at every keyframe.",
        )
        self.fps = gui.add_number("Rate (fps)", plan.fps, min=RATES[0], max=RATES[1], step=1.0)
        self.fps.precision = 3
        self.size = gui.add_vector2(
            "Size (px)",
            _wh(plan),
            min=(SIDES[0],) * 2,
            max=(SIDES[1],) * 2,
            step=1.0,
            hint="Width and height.",
        )
        self.kind = gui.add_dropdown(
            "Render as", get_args(Kind), hint="mp4: H.264. PNG sequence: a .zip of pictures."
        )
        self.render = gui.add_button(
            "Render film", hint="The same pixels as fsm render --path with the saved path."
        )
        self.progress = gui.add_progress_bar(0.0, visible=False)
        self.cancel = gui.add_button("Cancel", visible=False)
        self.save = gui.add_button(
            "Save path", hint="A camera_path.json, for nerfstudio and fsm render too."
        )

    def show(self, history: History, selected: int, moves: bool) -> None:
        """Put all controls where the film stands; ``moves``: whether the scene has more than one
        moment.
        """
        plan, some = history.present, len(history.present) > 0
        self.empty.visible = not some
        self.edit.visible = some or bool(history.before or history.after)
        self.keys.visible = self.film.visible = some
        if not some:
            return
        self.list.content = listing(plan, selected, moves)
        numbers = tuple(str(i + 1) for i in range(len(plan)))
        if self.selected.options != numbers:
            self.selected.options = numbers
        key = plan.keyframes[selected]
        _put(self.selected, numbers[selected])
        _put(self.seconds, rounded(key.seconds))
        _put(self.fov, rounded(math.degrees(key.camera.fov), 1))
        _put(self.transition, rounded(key.transition))
        self.seconds.visible = moves
        self.transition.visible = plan.loop or selected < len(plan) - 1
        _put(self.loop, plan.loop)
        _put(self.tension, plan.tension)
        _put(self.fps, rounded(plan.fps))
        _put(self.size, _wh(plan))
        long = len(plan) > 1 and plan.duration >= 2 * STEP
        self.position.visible = self.play.visible = long
        if long and self.position.max != round(plan.duration, 2):
            self.position.value = min(self.position.value, round(plan.duration, 2))
            self.position.max = round(plan.duration, 2)

    def show_position(self, film_seconds: float) -> None:
        """Put the slider of the film there."""
        self.position.value = min(round(film_seconds, 2), self.position.max)

    def show_playing(self, playing: bool) -> None:
        """Whether the button starts or stops it."""
        self.play.label = "Pause film" if playing else "Play film"

    def show_rendering(self, rendering: bool) -> None:
        """Whether a film is being made."""
        self.progress.value = 0.0
        self.render.visible = not rendering
        self.progress.visible = self.cancel.visible = rendering

    def say(self, notice: str | None = None, error: str | None = None) -> None:
        """A notice, or what went wrong; neither: nothing."""
        for handle, text in ((self.notice, notice), (self.error, error)):
            handle.visible = text is not None
            if text is not None:
                handle.content = text


def rounded(value: float, digits: int = 3) -> float:
    """As a field shows it; the page may say back what it was told, and that must not round the
    film.
    """
    return round(value, digits)


def listing(plan: FilmPlan, selected: int, moves: bool) -> str:
    """One line for each keyframe, as HTML: number, moment of the clip, seconds until the next."""
    heads = ("Key", *(("Moment (s)",) if moves else ()), "Until next (s)")
    rows = ["".join(f"<th style='{CELL};font-weight:500'>{head}</th>" for head in heads)]
    for place, key in enumerate(plan.keyframes):
        leads_on = plan.loop or place < len(plan) - 1
        moment = (f"{key.seconds:.3f}",) if moves else ()
        cells = (str(place + 1), *moment, f"{key.transition:.2f}" if leads_on else "end")
        weight = ";font-weight:700;color:#e67700" if place == selected else ""
        rows.append("".join(f"<td style='{CELL}{weight}'>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    box = (
        "max-height:9.5em;overflow-y:auto;margin:0 0.75em "
        "0.5em;font-size:0.8em;font-variant-numeric:tabular-nums"
    )
    return f"<div style='{box}'><table>{body}</table></div>"


def _put(handle: Any, value: Any) -> None:
    if handle.value != value:  # an echo of what is being typed would disturb it
        handle.value = value


def _wh(plan: FilmPlan) -> tuple[float, float]:
    return float(plan.hw[1]), float(plan.hw[0])
