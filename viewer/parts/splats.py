"""The part of the panel that leaves drawing to the browser: it is sent Gaussians, moment by moment,
instead of pictures.
"""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from fsm.viewer.cameras import Camera
from fsm.viewer.native_splats import Native, Rows, add_rows
from fsm.viewer.parts.base import Host, Part, user_events_only
from fsm.viewer.picture_queue import PictureQueue
from fsm.viewer.stage import Job
from fsm.viewer.stream import in_a_sentence

NODE = "/gaussians"
RATE = 15.0
"""Moments a second, at most."""
POLL = 0.02
"""Seconds between looks whether a slow browser has taken the last moment."""
HINT = (
    "Sends Gaussians instead of pictures: turning the view then costs the server nothing. "
    "Colour only, the same from all sides; Gaussians of less than half a pixel are left out."
)


class SplatPart(Part):
    """Sends a scene of Gaussians as viser's own splats while that is chosen and what is shown is
    plain colour.
    """

    def __init__(self, host: Host) -> None:
        """A check box in the tab ``Picture``, hidden where a browser cannot draw the scene."""
        self._host = host
        self._chosen: Native | None = None
        gui: Any = host.client.gui
        with host.tab("Picture"):
            self.on = gui.add_checkbox(
                "Draw in the browser", False, hint=HINT, visible=host.stage.native is not None
            )
            self.sent = gui.add_markdown("", visible=False)
        self._sender = Sender(host, self._report)
        self.on.on_update(user_events_only(lambda _: host.refresh()))

    def wants(self, job: Job) -> Job:
        """No picture where the browser can draw what it would show."""
        native = self._host.stage.native
        plain = job.mode == "Colour" and job.layer == "all"
        plain = plain and job.wipe is None and job.limits.open
        self._chosen = native if self.on.value and plain else None
        if self._chosen is None:
            return job
        r, g, b = (255 * self._chosen.scene.background.clamp(0, 1)).round().int().tolist()
        return dataclasses.replace(job, backdrop=(r, g, b))

    def asked(self, camera: Camera, seconds: float) -> None:
        """Send that moment, unless it is there."""
        self._sender.want(self._chosen, seconds)

    def reset(self) -> None:
        """Pictures again."""
        self.on.value = False

    def restaged(self) -> None:
        """Offer it for what a browser can draw."""
        self.on.visible = self._host.stage.native is not None

    def close(self) -> None:
        """Send no more."""
        self._sender.close()

    def _report(self, text: str | None) -> None:
        if text is not None and text != self.sent.content:
            self.sent.content = text
        self.sent.visible = text is not None


class Sender:
    """A thread that sends one browser the Gaussians of the moment asked for last, at its pace."""

    def __init__(self, host: Host, report: Callable[[str | None], None]) -> None:
        """``report`` gets what was sent, or why not, in words; None once nothing is there any
        more.
        """
        self._host, self._report = host, report
        self._pictures = PictureQueue(host.client)
        self._changed = threading.Condition()
        self._asked: tuple[Native | None, float] = (None, 0.0)
        self._news = self._closed = False
        self._due = 0.0
        self._thread: threading.Thread | None = None
        self._native: Native | None = None
        self._rows: Rows | None = None
        self._node: Any = None

    def want(self, native: Native | None, seconds: float) -> None:
        """That moment of that scene, in place of any that waits; None: nothing."""
        asked = (native, seconds if native is not None else 0.0)
        with self._changed:
            if self._closed or asked == self._asked:
                return
            self._asked, self._news = asked, True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="fsm-viewer-splats", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Stop after the moment in work."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and threading.current_thread() is not thread:
            thread.join(timeout)

    def _run(self) -> None:
        while (asked := self._wait()) is not None:
            try:
                self._send(*asked)
            except Exception as error:  # whatever a scene may raise: the viewer outlives it
                self._report(f"**Not sent:** {in_a_sentence(error)}")

    def _wait(self) -> tuple[Native | None, float] | None:
        """Sleep until there is something to send and a browser to take it; None when closed."""
        with self._changed:
            while not self._closed:
                late = time.monotonic() >= self._due
                if self._news and (self._asked[0] is None or (late and self._taken())):
                    self._news, self._due = False, time.monotonic() + 1 / RATE
                    return self._asked
                self._changed.wait(POLL if self._news else None)
            return None

    def _taken(self) -> bool:
        """Whether the last moment has been picked up for sending."""
        return not self._pictures.holds(lambda message: getattr(message, "name", None) == NODE)

    def _send(self, native: Native | None, seconds: float) -> None:
        if native is not self._native:
            if self._node is not None:
                self._node.remove()
            self._native, self._node, self._rows = native, None, None
        if native is None:
            self._report(None)
            return
        if self._rows is None:
            self._rows = Rows(native)
        with self._host.stage.turn:
            rows, count = self._rows.at(seconds)
        if self._node is None:
            self._node = add_rows(self._host.client, NODE, rows, native.unit)
        else:
            self._node.buffer = rows
        self._report(f"{count:,} Gaussians, {rows.nbytes / 1e6:.2g} MB a moment")
        self._host.showed(seconds)
        self._host.client.flush()
