"""One browser: its controls, its camera, its clock and the worker that draws for it."""

import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fsm.errors import InputError
from fsm.viewer.cameras import Camera, place, up_direction, window_aspect
from fsm.viewer.film.part import FilmPart
from fsm.viewer.modes import bordered
from fsm.viewer.panel import Panel
from fsm.viewer.parts.base import Host, Part, Tab, user_events_only
from fsm.viewer.parts.compare import ComparePart
from fsm.viewer.parts.inputs import InputPart
from fsm.viewer.parts.layers import LayerPart
from fsm.viewer.parts.scale import ScalePart
from fsm.viewer.parts.splats import SplatPart
from fsm.viewer.parts.tracks import TracksPart
from fsm.viewer.parts.view import ViewPart
from fsm.viewer.picture_queue import PictureQueue
from fsm.viewer.render_worker import BUDGETS, RenderWorker, Resolution
from fsm.viewer.stage import Job, RenderedPicture, Stage
from fsm.viewer.time_controls import Playback
from fsm.viewer.viser_private import remove_camera_callback

TICK = 1 / 30
"""Seconds between moments while playing; drawing keeps its own pace and skips."""
SAME_MOMENT = 0.006
"""Seconds: what the slider rounds away."""
READOUT = 0.25
"""Seconds between updates of the readout."""
PARTS: tuple[Callable[["Session"], Part], ...] = (
    LayerPart,
    ComparePart,
    ViewPart,
    InputPart,
    TracksPart,
    ScalePart,
    FilmPart,
    SplatPart,
)
"""Beside time and picture, in the order in which they appear."""


class Session(Host):
    """Everything that belongs to one client, from its first camera to its leaving."""

    def __init__(
        self, client: Any, stage: Stage, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``client`` is viser's handle of a connected client."""
        self.client, self.stage = client, stage
        self.up = up_direction(stage.inputs.views)
        self._clock = clock
        self._lock = threading.RLock()
        self._playing = threading.Event()
        self._closed = False
        self._playback = Playback.over(stage.times)
        if stage.live:
            self._playback = self._playback.sought(stage.times[-1])
        self._failed: str | None = None
        self._backdrop: tuple[int, int, int] | None = None
        self._delivered: deque[float] = deque(maxlen=16)
        self._told = 0.0
        self._resolution = Resolution()
        self._pictures = PictureQueue(client)
        first = self.through(stage.nearest(self._playback.first))
        if first.fov > stage.through(stage.nearest(self._playback.first)).fov:  # a narrow window
            client.camera.fov = first.fov
        height = stage.scene.hw[0]
        self._panel = Panel(client.gui, self._playback, stage.modes, height)
        self._panel.show_reading(stage.reading)
        self._worker = RenderWorker[Job, RenderedPicture](
            self._draw,
            self._deliver,
            self._fail,
            ready=lambda: self._pictures.taken,
            turn=stage.turn,
        )
        self._ticker = threading.Thread(target=self._run, name="fsm-viewer-clock", daemon=True)
        # a control that is there may be used before the next one is
        self._parts: tuple[Part, ...] = ()
        self._parts = tuple(part(self) for part in PARTS)
        self._connect()
        self._ticker.start()
        self.refresh()

    def restage(self, stage: Stage) -> None:
        """Look at another stage: camera, clock and controls stay as far as they fit it."""
        with self._lock:
            if self._closed or stage is self.stage:
                return
            follow = self.stage.live and self._panel.newest.value and not self._playback.playing
            self.stage = stage
            playback = self._playback.over_frames(stage.times)
            with self.client.atomic():
                self._panel.restage(playback, stage.modes, stage.scene.hw[0])
                self._panel.show_reading(stage.reading)
            for part in self._parts:
                part.restaged()
            self.change(lambda _: playback.sought(stage.times[-1]) if follow else playback)

    def close(self) -> None:
        """Stop its threads. What it showed belongs to the browser and went with it, or is taken
        away by others.
        """
        with self._lock:  # no event may let the clock wait again
            self._closed = True
            self._playing.set()
        # viser offers no public way to take a callback back.
        remove_camera_callback(self.client, self._moved)
        for part in self._parts:
            part.close()
        self._worker.close()
        if threading.current_thread() is not self._ticker:
            self._ticker.join(5.0)

    @property
    def playback(self) -> Playback:
        """Where its clock stands."""
        return self._playback

    @property
    def camera(self) -> Camera:
        """The browser's camera; ``InputError`` where that is no pose."""
        return Camera.of_browser(self.client.camera)

    def tab(self, name: Tab) -> Any:
        """Controls that are added inside go to that tab."""
        return self._panel.tabs[name]

    def refresh(self) -> None:
        """Ask for the picture of the present moment, camera and controls."""
        with self._lock:
            if self._closed:
                return
            try:
                job = self._job()
            except InputError as error:
                self._fail(error)
                return
            self._request(job)
            for part in self._parts:
                part.asked(job.camera, job.seconds)

    def _request(self, job: Job) -> None:
        """Have ``job`` drawn, or leave that to the browser."""
        before, self._backdrop = self._backdrop, job.backdrop
        if job.backdrop is None:
            self._worker.submit(job)
        elif job.backdrop != before:
            self._worker.forget()
            self._pictures.plain(job.backdrop)
            self._failed = None
            self._panel.show_error(None)
            self._panel.status.content = "Drawn by the browser."

    def showed(self, seconds: float) -> None:
        """Let the parts keep pace with what the browser was sent."""
        for part in self._parts:
            part.shown(seconds)

    def _job(self) -> Job:
        """What clock, camera and controls ask for now; ``InputError`` where they make no sense."""
        seconds, panel = self._playback.moment, self._panel
        camera = self.camera
        job = Job(
            camera,
            seconds,
            self.stage.nearest(seconds, camera.position),
            panel.mode.value,
            int(panel.height.value),
        )
        for part in self._parts:
            job = part.wants(job)
        return job

    def through(self, index: int) -> Camera:
        """The camera of input ``index``; where pictures have the clip's frame, for a window that
        holds all of it.
        """
        camera = self.stage.through(index)
        framed = self.stage.aspect is not None
        return camera.around(window_aspect(self.client.camera)) if framed else camera

    def reshow(self) -> None:
        """Ask for another kind of picture; one that is seen from where an input was taken starts
        there.
        """
        with self._lock:
            if self._at_input():
                moment = self._playback.moment
                self.look_through(self.stage.nearest(moment, self.camera.position))
            else:
                self.refresh()

    def _at_input(self) -> bool:
        try:
            return self.stage.at_input(self._job())
        except InputError:
            return False

    def look_through(self, index: int) -> None:
        """Put the browser's camera where input ``index`` was, and the clock at its moment unless
        time is frozen.
        """
        with self._lock:
            self.go_to(self.through(index))
            if self._playback.frozen is None:
                self.change(lambda playback: playback.sought(self.stage.times[index]).paused())
            self.refresh()

    def _reset(self) -> None:
        """Back to what every browser starts with: the first input's camera, and nothing changed in
        what it shows.
        """
        self._panel.mode.value = self.stage.modes[0]
        for part in self._parts:
            part.reset()
        self.go_to(self.through(self.stage.nearest(self._playback.first)))
        self.refresh()

    def go_to(self, camera: Camera) -> None:
        """Move the browser's camera there; the picture follows."""
        with self.client.atomic():
            place(self.client.camera, camera, self.stage.distance, self.up)

    def show(self, camera: Camera, seconds: float) -> None:
        """Go to ``camera`` and stand at ``seconds``, also where time is frozen or the view follows
        the clip.
        """
        with self._lock:
            if self._closed:
                return
            self._playback = self._playback.put(seconds)
            self._playing.clear()
            self._panel.show_playback(self._playback)
            self.go_to(camera)
            self.refresh()

    def change(self, change: Callable[[Playback], Playback]) -> None:
        """Change the clock, show where it stands and ask for its picture."""
        with self._lock:
            if self._closed:
                return
            playback = change(self._playback)
            moved = playback.cursor != self._playback.cursor
            self._playback = playback
            (self._playing.set if playback.playing else self._playing.clear)()
            self._panel.show_playback(playback)
            if moved and self.stage.live:
                at_newest = abs(playback.cursor - self.stage.times[-1]) < SAME_MOMENT
                self._panel.newest.value = at_newest and not playback.playing
            if moved and self._at_input():
                self.go_to(self.through(self.stage.nearest(playback.moment)))
            elif moved and playback.follow:
                window = window_aspect(self.client.camera)
                self.go_to(self.stage.on_path(playback.fraction).around(window))
            self.refresh()

    def _connect(self) -> None:
        """Let the controls do what they say."""
        panel, user = self._panel, user_events_only
        panel.seconds.on_update(user(lambda value: self.change(lambda p: p.sought(float(value)))))
        panel.play.on_click(user(lambda _: self._toggle()))
        panel.step.on_click(
            user(lambda value: self.change(lambda p: p.stepped(1 if value == "Next" else -1)))
        )
        panel.speed.on_update(user(lambda value: self.change(lambda p: p.at_speed(float(value)))))
        panel.loop.on_update(user(lambda value: self.change(lambda p: p.looping(value))))
        panel.freeze_time.on_update(
            user(lambda value: self.change(lambda p: p.freezing_time(value)))
        )
        panel.freeze_view.on_update(
            user(lambda value: self.change(lambda p: p.freezing_view(value)))
        )
        panel.mode.on_update(user(lambda _: self.reshow()))
        for control in (panel.height, panel.transfer, panel.quality):
            control.on_update(user(lambda _: self.refresh()))
        panel.reset.on_click(user(lambda _: self._reset()))
        panel.newest.on_update(user(lambda _: self._follow_newest()))
        self.client.camera.on_update(self._moved)

    async def _moved(self, _: Any) -> None:
        self.refresh()

    def _follow_newest(self) -> None:
        if self._panel.newest.value:
            self.change(lambda playback: playback.sought(self.stage.times[-1]).paused())

    def _toggle(self) -> None:
        self.change(lambda playback: playback.paused() if playback.playing else playback.played())

    def _run(self) -> None:
        """The clock: moves the playback on while it plays."""
        before = self._clock()
        while not self._closed:
            if not self._playing.is_set():
                self._playing.wait()
                before = self._clock()
                continue
            time.sleep(TICK)
            now = self._clock()
            elapsed, before = now - before, now
            with self._lock:
                if self._playback.playing:
                    self.change(lambda playback, by=elapsed: playback.advanced(by))

    def _draw(self, job: Job, full: bool) -> tuple[RenderedPicture, bool]:
        self._resolution.budget = BUDGETS[self._panel.pace.value]
        job, stage = job.framed, self.stage
        height = job.height if full else self._resolution.height(job.camera.hw(job.height))
        # it may have been asked of the stage before
        job = dataclasses.replace(job, frame=stage.nearest(job.seconds, job.camera.position))
        return stage.render(job, height), height >= job.height

    def _deliver(self, job: Job, rendered: RenderedPicture) -> None:
        picture, began = rendered.picture, time.perf_counter()
        h, w = picture.shape[:2]
        if job.aspect is not None:
            picture = bordered(picture, job.camera.aspect)
        self._pictures.send(picture, self._panel.transfer.value, int(self._panel.quality.value))
        # coding a picture is part of its price
        self._resolution.observe(h * w, rendered.seconds + time.perf_counter() - began)
        if self._backdrop is not None:  # chosen while this was drawn
            self._pictures.plain(self._backdrop)
            return
        stage = self.stage
        at_input = stage.at_input(job)
        self.showed(stage.times[stage.nearest(job.seconds)] if at_input else job.seconds)
        self.client.flush()
        now = self._clock()
        self._delivered.append(now)
        if self._failed is not None:
            self._failed = None
            self._panel.show_error(None)
        if now - self._told >= READOUT or h >= job.height:
            self._told = now
            self._panel.status.content = readout((w, h), rendered.seconds, tuple(self._delivered))

    def _fail(self, error: Exception) -> None:
        sentence = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, InputError):
            sentence = f"{type(error).__name__}: {sentence}"
        if sentence != self._failed:
            self._failed = sentence
            with contextlib.suppress(Exception):  # a client that leaves at this moment
                self._panel.show_error(sentence[:500])


def readout(wh: tuple[int, int], seconds: float, delivered: tuple[float, ...]) -> str:
    """Size, time to draw, and pictures per second over the last ones ``delivered`` (clock times)
    without a pause.
    """
    run = [delivered[-1]]
    for moment in reversed(delivered[:-1]):
        if run[-1] - moment > 1.0:
            break
        run.append(moment)
    rate = (len(run) - 1) / (run[0] - run[-1]) if len(run) > 2 and run[0] > run[-1] else None
    text = f"{wh[0]} x {wh[1]} px in {1000 * seconds:.0f} ms"
    return text if rate is None else f"{text}, {rate:.1f} fps"
