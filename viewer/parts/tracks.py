"""The part of the panel about 3D tracks: points of the clip that were followed through it, over the
picture.
"""

import threading
from typing import Any

from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.parts.tracks_nodes import Palette, TrackNodes, point_size

MOST, USUAL = 500, 200
"""Tracks shown, at most and at first."""
LONGEST, TAIL = 2.0, 0.5
"""Seconds of a tail, at most and at first."""


class TracksPart(Part):
    """Draws the clip's tracks where the clip carries them, moment by moment with the pictures."""

    def __init__(self, host: Host) -> None:
        """A folder in the tab ``Scene``, hidden where there are no tracks."""
        self._host = host
        self._tracks = host.stage.tracks
        self._lock = threading.Lock()
        self._palette: Palette | None = None
        self._nodes: TrackNodes | None = None
        self._drawn: tuple[Any, ...] | None = None
        gui: Any = host.client.gui
        with host.tab("Scene"):
            self.folder = gui.add_folder("3D tracks", visible=host.stage.tracks is not None)
        with self.folder:
            self.on = gui.add_checkbox(
                "Tracks", False, hint="Points that the clip's makers followed in space."
            )
            self.tail = gui.add_slider(
                "Tail (s)", 0.0, LONGEST, 0.1, TAIL, visible=False, hint="How far back lines go."
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
            if self._host.stage.tracks is self._tracks:
                return
            self._tracks = self._host.stage.tracks
            self._forget()
            most = self._most()
            self.folder.visible = self._host.stage.tracks is not None
            self.number.max, self.number.value = most, min(self.number.value, most)

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
