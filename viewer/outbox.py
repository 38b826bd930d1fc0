"""Pictures on their way to one browser: at most one waits, and a browser that has left gets
none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray


class Outbox:
    """The end of viser's queue for one client that pictures are put into."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._queue = client._websock_connection.get_message_buffer()
        forgive(client)

    @property
    def taken(self) -> bool:
        """Whether the last picture has been picked up for sending: a slow browser is not drawn for
        in vain.
        """
        from viser._messages import BackgroundImageMessage

        return not self.holds(lambda message: isinstance(message, BackgroundImageMessage))

    def holds(self, wanted: Callable[[Any], bool]) -> bool:
        """Whether a message of that kind still waits to be picked up."""
        with self._queue.buffer_lock:
            return any(wanted(m) for m in self._queue.message_from_id.values())

    def send(self, picture: UInt8[ndarray, "h w 3"], transfer: str, quality: int) -> None:
        """Queue a picture as ``transfer`` JPEG (of ``quality`` up to 100) or PNG, in place of any
        that waits.
        """
        if not self._queue.done:
            self._client.scene.set_background_image(
                picture, format=transfer.lower(), jpeg_quality=quality
            )

    def plain(self, colour: tuple[int, int, int]) -> None:
        """Queue nothing but a ``colour`` (bytes), in place of any picture that waits."""
        self.send(np.full((2, 2, 3), colour, dtype=np.uint8), "PNG", 100)


def forgive(client: Any) -> None:
    """Let what is said to a browser that has left be lost without a warning: it may leave between a
    look and a word.
    """
    queue = client._websock_connection.get_message_buffer()
    with queue.buffer_lock:  # what ``sanctioned_dead_writes`` does for the time of a with statement
        queue._sanctioned_dead_writes += 1
