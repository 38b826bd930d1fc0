"""A viewer's public address, through viser's own service: asked for by whoever runs the viewer,
never by a browser.
"""

import queue
import secrets
import threading
from typing import Any
from urllib.parse import urlsplit

from fsm.errors import InputError
from fsm.viewer.gate import Gate
from fsm.viewer.viser_private import take_share_tunnel

SERVICE = "share.viser.studio"
PATIENCE = 30.0
"""Seconds for the service to answer; viser itself would wait for ever."""
REACHED = ("127.0.0.1", "localhost", "0.0.0.0")
"""Addresses to bind at which the tunnel finds the viewer: it connects to 127.0.0.1."""


def share(server: Any, gate: Gate, host: str) -> str:
    """Open the tunnel of viser's ``server``, bound to ``host`` behind ``gate``, and return its
    address with the token.

    The tunnel passes on bytes as they come, so the gate sees what browsers send: it lets in the
    tunnel's host name beside localhost, and everybody needs the token from now on, one that is made
    here if there was none. ``InputError`` where no address is to be had; then all is as it was.
    """
    if host not in REACHED:
        raise InputError(
            f"host is {host}, where viser's tunnel does not find the viewer; leave it out to share."
        )
    before = gate.token
    gate.token = before or secrets.token_urlsafe(16)
    try:
        address = _address(server)
    except InputError:
        gate.token = before
        # A tunnel that still waits for the service may take its time to end.
        threading.Thread(
            target=unshare, args=(server,), name="fsm-viewer-unshare", daemon=True
        ).start()
        raise
    gate.shared = urlsplit(address).hostname
    return f"{address.rstrip('/')}/?token={gate.token}"


def unshare(server: Any) -> None:
    """Close the tunnel, if there is one. Do so before the server stops: viser itself then tells
    browsers that are gone.
    """
    tunnel = take_share_tunnel(server)
    if tunnel is not None:
        tunnel.close()


def _address(server: Any) -> str:
    import viser

    answers: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

    def ask() -> None:
        try:  # the class's own: the server's refuses, because browsers can call it
            answers.put(viser.ViserServer.request_share_url(server, verbose=False))
        except Exception as error:  # raised again by whoever waits
            answers.put(error)

    threading.Thread(target=ask, name="fsm-viewer-share", daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise InputError(
            f"{SERVICE} did not answer within {PATIENCE:.0f} s; the viewer is not shared."
        ) from None
    if isinstance(answer, Exception):
        raise InputError(
            f"{SERVICE} gave no address ({answer}); the viewer is not shared."
        ) from answer
    if answer is None:
        raise InputError(
            f"{SERVICE} cannot be reached or gave no address; the viewer is not shared."
        )
    return answer
