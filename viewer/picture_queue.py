"""Pictures on their way to one browser: at most one waits, and a browser that has left gets
none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from fsm.viewer.viser_private import (
    is_disconnected,
    message_waits,
    picture_waits,
    tolerate_disconnect,
)


class PictureQueue:
    """The end of viser's queue for one client that pictures are put into."""

    def __init__(self, client: Any) -> None:
        self._client = client
        tolerate_disconnect(client)

    @property
    def taken(self) -> bool:
        """Whether the last picture has been picked up for sending: a slow browser is not drawn for
        in vain.
        """
        return not picture_waits(self._client)

    def holds(self, wanted: Callable[[Any], bool]) -> bool:
        """Whether a message of that kind still waits to be picked up."""
        return message_waits(self._client, wanted)

    def send(self, picture: UInt8[ndarray, "h w 3"], transfer: str, quality: int) -> None:
        """Queue a picture as ``transfer`` JPEG (of ``quality`` up to 100) or PNG, in place of any
        that waits.
        """
        if not is_disconnected(self._client):
            self._client.scene.set_background_image(
                picture, format=transfer.lower(), jpeg_quality=quality
            )

    def plain(self, colour: tuple[int, int, int]) -> None:
        """Queue nothing but a ``colour`` (bytes), in place of any picture that waits."""
        self.send(np.full((2, 2, 3), colour, dtype=np.uint8), "PNG", 100)
