"""The part of the panel about 3D tracks: points of the clip that were followed through it, over the
picture.
"""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsm.viewer.background_task import BackgroundTask
from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.parts.tracks_nodes import Palette, TrackNodes, point_size
from fsm.viewer.stream import in_a_sentence

MOST, USUAL = 500, 200
"""Tracks shown, at most and at first."""
LONGEST, TAIL = 2.0, 0.5
"""Seconds of a tail, at most and at first."""


class TracksPart(Part):
    """Draws tracks that the clip carries or the scene found, moment by moment with the pictures."""

    def __init__(self, host: Host) -> None:
        """A folder in the tab ``Scene``, hidden where there are no tracks."""
        self._host = host
        self._tracks = host.stage.tracks
        self._lock = threading.Lock()
        self._palette: Palette | None = None
        self._nodes: TrackNodes | None = None
        self._drawn: tuple[Any, ...] | None = None
        self._task: BackgroundTask[bool] | None = None
        gui: Any = host.client.gui
        with host.tab("Scene"):
            self.folder = gui.add_folder("3D tracks", visible=self._offered)
        with self.folder:
            self.find = gui.add_button(
                "Find tracks",
                visible=host.stage.may_find_tracks,
                hint="Follows what moves through all input frames. Pictures go on meanwhile.",
            )
            self.news = gui.add_markdown("", visible=False)
            self.on = gui.add_checkbox(
                "Tracks",
                False,
                visible=self._tracks is not None,
                hint="Points that were followed in space.",
            )
            longest = max(LONGEST, math.ceil(10 * host.playback.duration) / 10)
            self.tail = gui.add_slider(
                "Tail (s)", 0.0, longest, 0.1, TAIL, visible=False, hint="How far back lines go."
            )
            most = self._most()
            self.number = gui.add_slider(
                "Tracks shown", 1, most, 1, min(USUAL, most), visible=False
            )
            self.colouring = gui.add_dropdown(
                "Track colour",
                ("Track", "Speed"),
                visible=False,
                hint="Track: by number. Speed: slow blue, fast red.",
            )
        self.find.on_click(user_events_only(lambda _: self._find()))
        self.on.on_update(user_events_only(lambda _: self._switch()))
        for control in (self.tail, self.number, self.colouring):
            control.on_update(user_events_only(lambda _: self._redraw()))

    def shown(self, seconds: float) -> None:
        """Draw them at that moment."""
        with self._lock:
            self._draw(seconds)

    def restaged(self) -> None:
        """Those of the new stage."""
        with self._lock:
            self._take()

    def close(self) -> None:
        """Find no more."""
        if self._task is not None:
            self._task.close()

    @property
    def _offered(self) -> bool:
        return self._host.stage.tracks is not None or self._host.stage.may_find_tracks

    def _find(self) -> None:
        """Have the stage find tracks, off the threads that serve the page."""
        if self._task is not None and self._task.busy:
            return
        stage = self._host.stage
        self.find.visible = False
        self._say("Finding tracks ...")

        def work(_: Path, cancelled: Callable[[], bool]) -> bool | None:
            return stage.find_tracks(cancelled, self._tell) or None

        self._task = BackgroundTask(work, lambda _: self._found(), self._failed)

    def _tell(self, frame: int) -> None:
        self._say(f"Finding tracks: frame {frame + 1} of {len(self._host.stage.times)}")

    def _found(self) -> None:
        with self._lock:
            self._take()
            tracks = self._tracks
            if tracks is not None and len(tracks) > 0:
                self._say(None)
                self.on.value = True
        if tracks is not None and len(tracks) == 0:
            self._say("Nothing that moves could be followed.")
            return
        self._switch()

    def _failed(self, error: Exception) -> None:
        self.find.visible = True
        self._say(f"**Not found:** {in_a_sentence(error)}")

    def _say(self, text: str | None) -> None:
        self.news.visible = text is not None
        self.news.content = text or ""

    def _take(self) -> None:
        """The tracks of the stage as it is now. Hold the lock."""
        if self._host.stage.tracks is self._tracks:
            return
        wanted = USUAL if self._tracks is None else self.number.value
        self._tracks = self._host.stage.tracks
        self._forget()
        most = self._most()
        self.folder.visible = self._offered
        self.find.visible = self._host.stage.may_find_tracks
        self.on.visible = self._tracks is not None
        self.number.max, self.number.value = most, min(wanted, most)

    def _most(self) -> int:
        tracks = self._host.stage.tracks
        return max(2, min(MOST, 0 if tracks is None else len(tracks)))

    def _switch(self) -> None:
        for control in (self.tail, self.number, self.colouring):
            control.visible = self.on.value
        self._redraw()

    def _redraw(self) -> None:
        with self._lock:
            self._draw(self._host.playback.moment)

    def _draw(self, seconds: float) -> None:
        """What is there now, unless that is what was drawn last. Hold the lock."""
        tracks = self._host.stage.tracks
        if tracks is None or not self.on.value:
            self._forget()
            return
        wanted = (seconds, self.tail.value, int(self.number.value), self.colouring.value)
        if wanted == self._drawn:
            return
        if self._palette is None or self._drawn is None or wanted[2:] != self._drawn[2:]:
            self._palette = Palette.of(tracks.some(wanted[2]), wanted[3])
        if self._nodes is None:
            centres = self._host.stage.inputs.views.c2w[:, :3, 3]
            self._nodes = TrackNodes(self._host.client, point_size(self._palette.tracks, centres))
        self._nodes.draw(self._palette.draw(seconds, wanted[1]))
        self._drawn = wanted

    def _forget(self) -> None:
        if self._nodes is not None:
            self._nodes.clear()
        self._palette, self._nodes, self._drawn = None, None, None
