"""How much a browser may send as files: viser itself keeps whatever comes."""

from collections.abc import Callable
from typing import Any

from fsm.errors import InputError
from fsm.viewer.viser_private import acknowledge_upload, replace_uploads

PART = 256 << 10
"""Bytes; the page sends parts of twice as many."""
AT_ONCE = 2


def bound_uploads(client: Any, limit: int, refused: Callable[[Exception], None]) -> None:
    """Drop files of more than ``limit`` bytes from ``client`` (viser's handle) before they are
    kept, and say so.

    Files that claim to be smaller than they are end when they have sent what they claimed.
    """

    class Parts(dict[int, bytes]):
        def __init__(self, room: int) -> None:
            self._room = room

        def __setitem__(self, index: int, content: bytes) -> None:
            self._room -= len(content)
            if self._room >= 0:
                super().__setitem__(index, content)

    class Uploads(dict[str, Any]):
        def __setitem__(self, uuid: str, state: Any) -> None:
            size, parts = int(state["total_bytes"]), int(state["part_count"])
            sentence = None
            if not 0 <= parts <= limit // PART or not 0 <= size <= limit:
                sentence = (
                    f"the file has {size / 1e6:.1f} MB, more than {limit / 1e6:.0f}; choose a "
                    "smaller one."
                )
            elif len(self) >= AT_ONCE:
                sentence = (
                    f"{AT_ONCE} files are on their way already; reload the page if they do not "
                    "arrive."
                )
            if sentence is not None:
                refused(InputError(sentence))
                # The page waits for this before it offers the button again.
                acknowledge_upload(client, uuid, size)
                return
            super().__setitem__(uuid, {**state, "parts": Parts(size)})

    replace_uploads(client, Uploads())
