"""The start page of a gallery in one browser: its entries with their pictures, in the panel."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fsm.viewer.gallery.entries import HEIGHT, Card, Entry, Gallery
from fsm.viewer.parts.base import user_events_only

FILTER_FROM = 12
"""Entries beyond which one can look for a name."""
BLANK = np.full((HEIGHT, 3 * HEIGHT // 2, 3), 236, dtype=np.uint8)
"""Where a picture will be."""


class GalleryPage:
    """The entries with their pictures, in the panel."""

    def __init__(self, client: Any, gallery: Gallery, chosen: Callable[[int], None]) -> None:
        """``client`` is viser's handle; ``chosen`` gets the number of the entry that the user wants
        to see, and is quick.
        """
        self._gallery, self._lock, self._closed = gallery, threading.Lock(), False
        gui: Any = client.gui
        count = len(gallery.entries)
        text = f"{count} scene{'s' * (count != 1)}"
        if gallery.truncated:
            text = f"The first {text}; there is more in this folder."
        self.count = gui.add_markdown(text)
        self.notice = gui.add_markdown("", visible=False)
        self.filter = gui.add_text(
            "Filter", "", visible=count > FILTER_FROM, hint="Part of a name."
        )
        self.filter.on_update(user_events_only(lambda _: self._sift()))
        self.none = gui.add_markdown("No name holds that.", visible=False)
        self._rows = [
            _Row(gui, entry, lambda i=i: chosen(i)) for i, entry in enumerate(gallery.entries)
        ]
        gallery.watch(self._tell)
        for index in range(count):
            self._tell(index)

    def say(self, sentence: str | None) -> None:
        """Put a sentence above the entries, or take it away."""
        with self._lock:
            if not self._closed:
                self.notice.visible = sentence is not None
                self.notice.content = sentence or ""

    def close(self) -> None:
        """Take no more news."""
        self._gallery.unwatch(self._tell)
        with self._lock:
            self._closed = True

    def _tell(self, index: int) -> None:
        card = self._gallery.card(index)
        with self._lock:
            if card is not None and not self._closed:
                self._rows[index].show(card)

    def _sift(self) -> None:
        wanted = str(self.filter.value).casefold().strip()
        with self._lock:
            if self._closed:
                return
            hits = [wanted in entry.name.casefold() for entry in self._gallery.entries]
            for row, hit in zip(self._rows, hits, strict=True):
                row.folder.visible = hit
            self.none.visible = not any(hits)


class _Row:
    """One entry: picture, facts and a button."""

    def __init__(self, gui: Any, entry: Entry, chosen: Callable[[], None]) -> None:
        self._shown = False
        self.folder = gui.add_folder(entry.name)
        with self.folder:
            self.picture = gui.add_image(BLANK, format="jpeg", jpeg_quality=90)
            self.facts = gui.add_markdown(f"{entry.kind}, not opened yet")
            self.open = gui.add_button(f"Open {entry.name}")
        self.open.on_click(user_events_only(lambda _: chosen()))

    def show(self, card: Card) -> None:
        """What is known of it now; said once."""
        if self._shown:
            return
        self._shown = True
        if card.picture is not None:
            self.picture.image = card.picture
        self.picture.visible = card.picture is not None
        self.facts.content = card.facts if card.good else f"**Not opened:** {card.facts}"
        self.open.visible = card.good
