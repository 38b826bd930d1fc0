"""A gallery in the browser: the start page, and each browser's own way from there into a scene and
back.
"""

import threading
from typing import Any

from fsm.errors import InputError
from fsm.viewer.cameras import Camera, place, up_direction
from fsm.viewer.gallery.entries import Gallery
from fsm.viewer.gallery.page import GalleryPage
from fsm.viewer.gate import MAX_CLIENTS
from fsm.viewer.parts.base import user_events_only
from fsm.viewer.server import Service
from fsm.viewer.session import Session
from fsm.viewer.stream import in_a_sentence
from fsm.viewer.viser_private import tolerate_disconnect

SETTLE = 0.5
"""Seconds after which the browser's camera must be where its scene begins; nobody has moved it by
then.
"""


class GalleryViewer(Service):
    """The scenes of a folder in the browser: ``GalleryViewer(Gallery(folder)).run()``, or in a
    ``with`` statement.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        """Serve ``gallery`` at once, on the next port that is free; ``stop`` closes it. Who may
        connect: as with ``Viewer``.
        """
        self.gallery = gallery
        super().__init__(host, port, token, max_clients, gallery.name)

    def _welcome(self, client: Any) -> "Visit":
        return Visit(client, self.gallery)

    def _end(self) -> None:
        self.gallery.close()


class Visit:
    """One browser in a gallery. A thread of its own opens and closes scenes, as both may take long;
    the newest wish counts.
    """

    def __init__(self, client: Any, gallery: Gallery) -> None:
        """Show the start page to ``client``, viser's handle of a connected client."""
        self._client, self._gallery = client, gallery
        self._changed = threading.Condition()
        self._wishes: list[int | None] = [None]
        self._closed = False
        self.page: GalleryPage | None = None
        self.session: Session | None = None
        self._entered: int | None = None
        tolerate_disconnect(client)
        self._thread = threading.Thread(target=self._run, name="fsm-viewer-visit", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """The browser has left."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _wish(self, index: int | None) -> None:
        """For an entry, or the start page."""
        with self._changed:
            self._wishes = [index]
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._wishes and not self._closed:
                    self._changed.wait()
                if self._closed:
                    break
                wish = self._wishes.pop()
            if wish is None:
                self._show_page()
            else:
                self._open(wish)
        self._clear()

    def _show_page(self) -> None:
        self._clear()
        self._client.gui.set_panel_label(self._gallery.name)
        self.page = GalleryPage(self._client, self._gallery, self._wish)

    def _open(self, index: int) -> None:
        """Go over from the page to a scene; where that cannot be opened, the page says why."""
        page, entry = self.page, self._gallery.entries[index]
        if page is None:  # two clicks: the first has led away already
            return
        page.say(f"Opening {entry.name} ...")
        try:
            stage = self._gallery.enter(index)
        except Exception as error:  # whatever a file may hold: the gallery outlives it
            page.say(f"**Not opened:** {in_a_sentence(error)}")
            return
        self._clear()
        self._entered = index
        client = self._client
        views = stage.inputs.views
        first, up = Camera.of_view(views, stage.nearest(min(stage.times))), up_direction(views)
        with client.atomic():
            client.gui.set_panel_label(entry.name)
            place(client.camera, first, stage.distance, up)
            client.gui.add_button("All scenes").on_click(
                user_events_only(lambda _: self._wish(None))
            )
        self.session = Session(client, stage)
        self._settle(self.session, first)

    def _settle(self, session: Session, start: Camera) -> None:
        """Put the camera at ``start`` again if the browser says that it is elsewhere.

        A report of where it was before may cross what it is told, and would be taken for a later
        movement.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._closed or bool(self._wishes), SETTLE):
                return
        try:
            there = session.camera
        except InputError:
            return
        away = max(abs(a - b) for a, b in zip(there.position, start.position, strict=True))
        turned = abs(sum(a * b for a, b in zip(there.wxyz, start.wxyz, strict=True)))
        if away > 1e-3 * session.stage.distance or turned < 1 - 1e-4:
            session.go_to(start)
            session.refresh()

    def _clear(self) -> None:
        """Take away what is shown and stop what works for it."""
        if self.page is not None:
            self.page.close()
        if self.session is not None:
            self.session.close()
        if self._entered is not None:
            self._gallery.leave(self._entered)
        self.page, self.session, self._entered = None, None, None
        with self._client.atomic():
            self._client.gui.reset()
            self._client.scene.reset()
