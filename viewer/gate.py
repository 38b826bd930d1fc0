"""Who may talk to the viewer's server.

viser serves its page and its socket without asking who is there. This gate stands before both: it
refuses foreign ``Origin`` and (on a loopback address) foreign ``Host`` headers, so that no web page
elsewhere can reach the viewer through the user's browser; asks for the token where there is one;
refuses paths that climb; bounds clients and message size. viser itself (1.1) refuses climbing paths
too; older versions did not.
"""

import contextlib
import hashlib
import hmac
import http
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fsm.errors import InputError

MAX_CLIENTS = 16
"""Browsers at once."""
MAX_MESSAGE = 8 << 20
"""Bytes of one message from a browser; the largest, its own screenshot, is a few million."""
HANDSHAKE_SECONDS = 5.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,128}")

_log = logging.getLogger("fsm.viewer.connections")
_log.addHandler(logging.NullHandler())
# what hostile clients send is no news; turn it on to look into a failing connection
_log.propagate = False
_replacing = threading.Lock()


class Gate:
    """The rules of one server, and the number of its clients."""

    def __init__(self, host: str, token: str | None = None, max_clients: int = MAX_CLIENTS) -> None:
        """``host`` is the address to bind; one that others can reach without a good token raises
        ``InputError``.
        """
        self.loopback = host in LOOPBACK
        if token is not None and not TOKEN.fullmatch(token):
            raise InputError(
                "the token must be 16 to 128 letters, digits or any of . _ ~ -; choose another."
            )
        if not self.loopback and token is None:
            example = secrets.token_urlsafe(16)
            raise InputError(
                f"host is {host}, which others can reach; add a token (as in --token "
                f"{example}) for them."
            )
        self.token = token
        self.max_clients = max_clients
        self.shared: str | None = None
        """Name of the host through which a tunnel brings in others; no other is let in beside
        localhost.
        """
        self.clients = 0
        """Open sockets."""
        self.used = False
        """Whether a server has been put behind this gate."""

    @property
    def cookie(self) -> str:
        """Name of the cookie with the token: another one for every token, as cookies know no
        ports.
        """
        return f"fsm_viewer_{hashlib.sha256((self.token or '').encode()).hexdigest()[:12]}"

    def refusal(self, path: str, headers: Any) -> tuple[http.HTTPStatus, str] | None:
        """Why a request is turned away, or None. ``headers`` has ``get_all(name)`` as in
        ``websockets``.
        """
        if ".." in unquote(unquote(path.partition("?")[0])).replace("\\", "/").split("/"):
            return http.HTTPStatus.NOT_FOUND, "not found"
        hosts, origins = headers.get_all("Host"), headers.get_all("Origin")
        if len(hosts) != 1 or len(origins) > 1:
            return http.HTTPStatus.BAD_REQUEST, "one Host and at most one Origin header, please"
        if self.loopback and _name(hosts[0]) not in LOOPBACK | {self.shared}:
            return http.HTTPStatus.FORBIDDEN, "this viewer answers to localhost only"
        if origins and urlsplit(origins[0]).netloc.lower() != hosts[0].lower():
            return http.HTTPStatus.FORBIDDEN, "this viewer does not talk to other web pages"
        if self.token is not None and not self._has_token(path, headers):
            return (
                http.HTTPStatus.FORBIDDEN,
                "open the address with ?token=... that the viewer printed",
            )
        if headers.get_all("Upgrade") and self.clients >= self.max_clients:
            return (
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self.max_clients} browsers are connected already",
            )
        return None

    def _has_token(self, path: str, headers: Any) -> bool:
        given = parse_qs(urlsplit(path).query).get("token", [])
        for line in headers.get_all("Cookie"):
            pairs = (part.strip().partition("=") for part in line.split(";"))
            given += [value for name, _, value in pairs if name == self.cookie]
        wanted = (self.token or "").encode()
        return any(hmac.compare_digest(g.encode(errors="replace"), wanted) for g in given)

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options of ``websockets.asyncio.server.serve`` with this gate before its
        ``process_request``.
        """
        inner: Callable[[Any, Any], Any] = options["process_request"]

        def process_request(connection: Any, request: Any) -> Any:
            refused = self.refusal(request.path, request.headers)
            if refused is not None:
                return connection.respond(refused[0], f"{refused[1]}\n")
            response = inner(connection, request)
            if response is not None:
                response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
                response.headers["Referrer-Policy"] = "no-referrer"
                response.headers["X-Content-Type-Options"] = "nosniff"
                if self.token is not None:
                    # The page opens its socket without the query, so the token has to come back as
                    # a cookie.
                    response.headers["Set-Cookie"] = (
                        f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    )
            return response

        bounds = {"max_size": MAX_MESSAGE, "open_timeout": HANDSHAKE_SECONDS, "logger": _log}
        return {**options, "process_request": process_request, **bounds}

    def counted(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """``handler`` of one socket, counted while it is open; handshakes that overlapped may still
        be one too many.
        """

        async def handle(connection: Any) -> None:
            if self.clients >= self.max_clients:
                await connection.close(1013, f"{self.max_clients} browsers are connected already")
                return
            self.clients += 1
            try:
                await handler(connection)
            finally:
                self.clients -= 1

        return handle


@contextlib.contextmanager
def guarded_by(gate: Gate) -> Iterator[None]:
    """Servers that are started inside are put behind ``gate``: viser starts its own and offers no
    way to say how.

    Sets ``gate.used``; the caller checks it, so that a viser that starts its server in another way
    is never left open.
    """
    import websockets.asyncio.server as module

    original = module.serve

    def serve(handler: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        gate.used = True
        return original(gate.counted(handler), host, port, **gate.options(options))

    with _replacing:
        module.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            module.serve = original


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
