"""Everything of viser that is not public and that the viewer relies on, true for viser 1.1.

No other file of the viewer reads a private name of viser. ``pyproject.toml`` bounds viser to the
versions for which this file was tested.
"""

import contextlib
from collections.abc import Callable
from typing import Any


def picture_waits(client: Any) -> bool:
    """Whether a background picture for ``client`` has not been picked up for sending yet."""
    from viser._messages import BackgroundImageMessage

    return message_waits(client, lambda message: isinstance(message, BackgroundImageMessage))


def message_waits(client: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether a message that is ``wanted`` has not been picked up for sending yet."""
    queue = client._websock_connection.get_message_buffer()
    with queue.buffer_lock:
        return any(wanted(message) for message in queue.message_from_id.values())


def is_disconnected(client: Any) -> bool:
    """Whether nothing is sent to ``client`` any more."""
    return client._websock_connection.get_message_buffer().done


def tolerate_disconnect(client: Any) -> None:
    """Lose messages to a browser that has left without a warning: it may leave at any moment."""
    queue = client._websock_connection.get_message_buffer()
    # What viser's ``sanctioned_dead_writes`` does for the time of a with statement.
    with queue.buffer_lock:
        queue._sanctioned_dead_writes += 1


def remove_camera_callback(client: Any, callback: Callable[[Any], Any]) -> None:
    """Take a callback of ``client.camera.on_update`` back, if it is there."""
    with contextlib.suppress(ValueError):
        client.camera._state.camera_cb.remove(callback)


def replace_uploads(client: Any, uploads: dict[str, Any]) -> None:
    """Let ``uploads`` collect the files that ``client`` sends: state by the identifier of each."""
    client.gui._current_file_upload_states = uploads


def acknowledge_upload(client: Any, uuid: str, size: int) -> None:
    """Tell the page of ``client`` that a file of ``size`` bytes has arrived whole."""
    from viser._messages import FileTransferPartAck

    client.gui._websock_interface.queue_message(FileTransferPartAck(None, uuid, size, size))


def take_share_tunnel(server: Any) -> Any:
    """The tunnel to the public address of ``server``, which forgets it; None without one."""
    with server._share_tunnel_lock:
        tunnel, server._share_tunnel = server._share_tunnel, None
    return tunnel
