"""The part of the panel about the film: keyframes, their path in the scene, its playback, its
files.
"""

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsm.errors import InputError
from fsm.viewer.background_task import BackgroundTask
from fsm.viewer.cameras import Camera
from fsm.viewer.film.clock import FilmClock
from fsm.viewer.film.files import MAX_UPLOAD, Parcel, load_path, make_film, save_path
from fsm.viewer.film.keyframes import TRANSITIONS, Curve, FilmPlan, History, Keyframe
from fsm.viewer.film.nodes import FilmNodes
from fsm.viewer.film.panel import DEGREES, RATES, SIDES, FilmPanel, rounded
from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.time_controls import Playback
from fsm.viewer.uploads import bound_uploads

AGES = (-1e6, 1e6)
"""Seconds of the clip that can be typed: rendering decides what lies outside it."""
TOLD = 0.1
"""Seconds between moves of the progress bar."""


class FilmPart(Part):
    """Makes a film out of views and moments.

    Its own lock is never held while the host is asked for something: the host may be calling at
    that moment.
    """

    def __init__(self, host: Host) -> None:
        """Controls in the tab ``Film``, path and keyframes in the scene."""
        self._host = host
        self._lock = threading.RLock()
        plan = FilmPlan(hw=tuple(host.stage.scene.hw))  # pyright: ignore[reportArgumentType]
        self._history, self._selected = History(plan), 0
        self._clock: FilmClock | None = None
        self._film: BackgroundTask[Parcel] | None = None
        self._file: BackgroundTask[Any] | None = None
        self._closed, self._told = False, 0.0
        with host.tab("Film"):
            self.panel = FilmPanel(host.client.gui, plan, host.playback.duration > 0)
        self._nodes = FilmNodes(host.client, host.stage.inputs.size, self._visit)
        self._connect()

    @property
    def plan(self) -> FilmPlan:
        """The film as it is now."""
        return self._history.present

    def asked(self, camera: Camera, seconds: float) -> None:
        """Take keyframes away that stand before the eye."""
        self._nodes.seen_from(camera.position)

    def restaged(self) -> None:
        """Colours follow the clip's time, which may have become longer."""
        self._show()

    def close(self) -> None:
        """Stop playing and give up what is being made."""
        with self._lock:  # nothing is begun after this
            self._closed = True
        self._pause()
        for task in (self._film, self._file):
            if task is not None:
                task.close()

    def _connect(self) -> None:
        """Let the controls do what they say."""
        panel = self.panel
        panel.add.on_click(self._user(lambda _: self._add()))
        panel.selected.on_update(self._user(lambda value: self._select(int(value) - 1)))
        panel.act.on_click(self._user(self._act))
        panel.move.on_click(self._user(lambda value: self._move(-1 if value == "Earlier" else 1)))
        panel.seconds.on_update(
            self._user(lambda v: self._alter("seconds", _within("the moment", v, AGES)))
        )
        panel.fov.on_update(
            self._user(lambda v: self._alter("fov", _within("field of view", v, DEGREES)))
        )
        panel.transition.on_update(
            self._user(lambda v: self._alter("transition", _within("until next", v, TRANSITIONS)))
        )
        panel.edit.on_click(self._user(self._edit))
        panel.position.on_update(
            self._user(lambda value: self._seek(_within("film time", value, (0.0, math.inf))))
        )
        panel.play.on_click(self._user(lambda _: self._toggle()))
        panel.path.on_update(self._user(lambda _: self._show()))
        panel.loop.on_update(self._user(lambda value: self._set("loop", loop=bool(value))))
        panel.tension.on_update(
            self._user(
                lambda value: self._set("tension", tension=_within("tension", value, (0.0, 1.0)))
            )
        )
        panel.fps.on_update(self._user(lambda v: self._set_rate(_within("frame rate", v, RATES))))
        panel.size.on_update(self._user(self._set_size))
        panel.render.on_click(self._user(lambda _: self._render()))
        panel.cancel.on_click(self._user(lambda _: self._cancel()))
        panel.save.on_click(self._user(lambda _: self._save()))
        panel.load.on_upload(self._user(self._load))
        bound_uploads(self._host.client, MAX_UPLOAD, self._fail)

    def _user(self, act: Callable[[Any], None]) -> Callable[[Any], Any]:
        """``act`` on what the user gives a control; what is wrong with that is said in the
        panel.
        """

        def careful(value: Any) -> None:
            try:
                act(value)
            except InputError as error:
                self._fail(error)

        return user_events_only(careful)

    def _change(
        self, plan: FilmPlan, selected: int | None = None, doing: str | None = None
    ) -> None:
        """The film becomes ``plan``."""
        self._step(lambda history: history.changed(plan, doing), selected)

    def _step(self, step: Callable[[History], History], selected: int | None = None) -> None:
        self._pause()
        with self._lock:
            self._history = step(self._history)
            self._selected = self._selected if selected is None else selected
        self.panel.say()
        self._show()

    def _show(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._selected = min(max(self._selected, 0), max(0, len(self.plan) - 1))
            self.panel.show(self._history, self._selected, self._host.playback.duration > 0)
            playing = self._clock is not None
            self._nodes.show(
                self.plan, self._selected, self.panel.path.value and not playing, self._time_range()
            )

    def _add(self) -> None:
        place = min(self._selected + 1, len(self.plan))
        keyframe = Keyframe(self._host.camera, self._host.playback.moment)
        self._change(self.plan.added(keyframe, place), place)

    def _select(self, place: int) -> None:
        with self._lock:
            self._selected = place
        self._show()

    def _visit(self, place: int) -> None:
        """Select a keyframe and go to its view and moment."""
        self._pause()
        self._select(place)
        if place < len(self.plan):
            key = self.plan.keyframes[place]
            self._host.show(key.camera, key.seconds)

    def _act(self, what: str) -> None:
        place, plan = self._selected, self.plan
        if place >= len(plan):
            return
        if what == "Go to":
            self._visit(place)
        elif what == "Delete":
            self._change(plan.removed(place))
        else:
            seen = Keyframe(
                self._host.camera, self._host.playback.moment, plan.keyframes[place].transition
            )
            self._change(plan.replaced(place, seen))

    def _move(self, by: int) -> None:
        place, plan = self._selected, self.plan
        if 0 <= place + by < len(plan):
            self._change(plan.moved(place, place + by), place + by)

    def _alter(self, name: str, value: float) -> None:
        """Another number for the selected keyframe."""
        place, plan = self._selected, self.plan
        if place >= len(plan):
            return
        key = plan.keyframes[place]
        if name == "fov":
            if value == rounded(math.degrees(key.camera.fov), 1):
                return
            key = dataclasses.replace(
                key, camera=dataclasses.replace(key.camera, fov=math.radians(value))
            )
        elif value != rounded(getattr(key, name)):
            key = dataclasses.replace(key, **{name: value})
        self._change(plan.replaced(place, key), doing=f"{name} of {place}")

    def _set_rate(self, fps: float) -> None:
        if fps != rounded(self.plan.fps):
            self._set("fps", fps=fps)

    def _set_size(self, wh: tuple[float, float]) -> None:
        w, h = (
            round(_within(what, side, SIDES))
            for what, side in zip(("width", "height"), wh, strict=True)
        )
        self._set("size", hw=(h, w))

    def _set(self, what: str, **values: Any) -> None:
        """Another setting of the whole film."""
        self._change(dataclasses.replace(self.plan, **values), doing=what)

    def _edit(self, what: str) -> None:
        if what == "Clear":
            self._change(self.plan.with_keyframes(()), 0)
        else:
            self._step(History.undone if what == "Undo" else History.redone)

    def _seek(self, film_seconds: float) -> None:
        self._pause()
        self._host.show(*self.plan.at(film_seconds))

    def _toggle(self) -> None:
        if self._clock is not None:
            self._pause()
            self._show()
            return
        plan, curve = self.plan, Curve(self.plan)
        self._host.change(Playback.paused)
        start = self.panel.position.value
        start = 0.0 if not plan.loop and start >= self.panel.position.max else start
        with self._lock:
            if self._closed:
                return
            self.panel.show_playing(True)
            self._clock = FilmClock(
                start, plan.duration, plan.loop, lambda now: self._tick(curve, now), self._ended
            )
        self._show()

    def _tick(self, curve: Curve, film_seconds: float) -> bool:
        """Show that moment of the film; False when the clip's own clock was started, which then has
        its way.
        """
        if self._host.playback.playing:
            return False
        camera, seconds = curve.camera(film_seconds, 1.0)  # the browser keeps its own aspect
        self.panel.show_position(film_seconds)
        self._host.show(camera, seconds)
        return True

    def _ended(self) -> None:
        """It has come to its end by itself."""
        self._pause()
        self._show()

    def _pause(self) -> None:
        with self._lock:
            clock, self._clock = self._clock, None
        if clock is not None:
            clock.stop()
            if not self._closed:
                self.panel.show_playing(False)

    def _time_range(self) -> tuple[float, float]:
        times = self._host.stage.times
        return min(times), max(times)

    def _render(self) -> None:
        plan, kind, stage = self.plan, self.panel.kind.value, self._host.stage

        def work(folder: Path, cancelled: Callable[[], bool]) -> Parcel | None:
            return make_film(plan, kind, stage.scene, stage.turn, folder, cancelled, self._progress)

        with self._lock:
            if self._closed or (self._film is not None and self._film.busy):
                return
            self.panel.say()
            self.panel.show_rendering(True)
            self._film = BackgroundTask(work, self._film_done, self._film_failed)

    def _progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told >= TOLD and not self._closed:
            self._told = now
            self.panel.progress.value = 100 * done / total

    def _cancel(self) -> None:
        if self._film is not None and self._film.busy:
            self._film.cancel()
            self.panel.show_rendering(False)
            self.panel.say("Cancelled; no film was made.")

    def _save(self) -> None:
        plan, times = self.plan, self._time_range()
        self._run_file(lambda folder, _: save_path(plan, times, folder), self._send)

    def _load(self, file: Any) -> None:
        times = self._time_range()
        self._run_file(
            lambda folder, _: load_path(file.name, file.content, times, folder), self._take
        )

    def _run_file(self, work: Callable[..., Any], done: Callable[[Any], None]) -> None:
        with self._lock:
            if self._closed:
                return
            if self._file is not None:
                self._file.cancel()  # the newest wish counts
            self.panel.say()
            self._file = BackgroundTask(work, done, self._fail)

    def _take(self, loaded: tuple[FilmPlan, str]) -> None:
        plan, message = loaded
        self._change(plan, 0)
        self.panel.say(message)

    def _film_done(self, parcel: Parcel) -> None:
        if not self._closed:
            self.panel.show_rendering(False)
            self._send(parcel)

    def _film_failed(self, error: Exception) -> None:
        if not self._closed:
            self.panel.show_rendering(False)
            self._fail(error)

    def _send(self, parcel: Parcel) -> None:
        if not self._closed:
            self._host.client.send_file_download(parcel.name, parcel.content, save_immediately=True)
            self.panel.say(f"Sent **{parcel.name}**: {parcel.note}.")

    def _fail(self, error: Exception) -> None:
        if not self._closed:
            sentence = " ".join(str(error).split())
            named = (
                sentence if isinstance(error, InputError) else f"{type(error).__name__}: {sentence}"
            )
            self.panel.say(error=f"**Not done:** {named}")


def _within(what: str, value: Any, limits: tuple[float, float]) -> float:
    """A number that was typed; what is out of bounds, perhaps half typed, changes nothing."""
    if not math.isfinite(value) or not limits[0] <= value <= limits[1]:
        raise InputError(f"{what} is {value:g}; type a number from {limits[0]:g} to {limits[1]:g}.")
    return float(value)
