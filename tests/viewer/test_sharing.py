"""A shared viewer, through a stand-in of viser's service: it pairs browsers with waiting tunnels
and passes on bytes.
"""

import contextlib
import http.client
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import viser._tunnel
import viser._viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fsm.errors import InputError
from fsm.viewer import Viewer, sharing
from tests.viewer.fakes import PROTOCOL, FakeBrowser, FakeScene, until

NAME = "abc.share.test"


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Relay:
    """The service's end: one port for browsers, one for the tunnel's connections."""

    def __init__(self) -> None:
        self.public, self.tunnel = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        self.waiting: list[socket.socket] = []
        self.open: list[socket.socket] = [self.public, self.tunnel]
        self.lock, self.closed = threading.Lock(), False
        for listener, welcome in ((self.public, self.serve), (self.tunnel, self.keep)):
            threading.Thread(target=self.accept, args=(listener, welcome), daemon=True).start()

    @property
    def port(self) -> int:
        return self.public.getsockname()[1]

    def accept(self, listener: socket.socket, welcome: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with self.lock:
                    if self.closed:
                        connection.close()
                        return
                    self.open.append(connection)
                welcome(connection)

    def keep(self, connection: socket.socket) -> None:
        with self.lock:
            self.waiting.append(connection)

    def serve(self, browser: socket.socket) -> None:
        until(lambda: self.waiting)
        with self.lock:
            tunnel = self.waiting.pop()
        for pair in ((browser, tunnel), (tunnel, browser)):
            threading.Thread(target=pump, args=pair, daemon=True).start()

    def close(self) -> None:
        with self.lock:
            self.closed = True
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    """viser's own tunnel, in a thread, without TLS, to this machine; ``answer`` is the service's to
    the first request.
    """
    real = viser._tunnel.ViserTunnel
    monkeypatch.setattr(viser._tunnel, "_is_multiprocess_ok", lambda: False)
    monkeypatch.setattr(
        viser._tunnel, "ssl", types.SimpleNamespace(create_default_context=lambda: None)
    )
    monkeypatch.setattr(viser._viser, "ViserTunnel", lambda _, port: real("127.0.0.1", port))
    monkeypatch.setattr(requests, "request", lambda *_, **__: answer())


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    relay = Relay()
    found = {
        "url": f"http://{NAME}:{relay.port}",
        "max_conn_count": 6,
        "tls_port": relay.tunnel.getsockname()[1],
    }
    answering(monkeypatch, lambda: types.SimpleNamespace(status_code=200, json=lambda: found))
    yield relay
    relay.close()


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


@contextlib.contextmanager
def browser(port: int, host: str, **headers: str) -> Iterator[FakeBrowser]:
    with connect(
        f"ws://{host}:{port}",
        sock=socket.create_connection(("127.0.0.1", port)),
        subprotocols=[PROTOCOL],
        additional_headers=headers,
        max_size=None,
    ) as client:
        yield FakeBrowser(client)


def test_the_gate_works_through_the_tunnel(relay: Relay) -> None:
    with Viewer(FakeScene(), port=0) as viewer:
        address = urlsplit(viewer.share())
        assert (address.hostname, address.port, address.path) == (NAME, relay.port, "/")
        # whoever opens it here needs the same token
        assert urlsplit(viewer.url).query == address.query
        host, query = f"{NAME}:{relay.port}", f"/?{address.query}"
        status, headers = get(relay.port, query, Host=host)
        assert status == 200
        cookie = headers["set-cookie"].split(";")[0]
        assert get(relay.port, "/", Host=host)[0] == 403
        # no way round the token
        assert get(relay.port, "/", Host=f"localhost:{relay.port}")[0] == 403
        assert get(relay.port, query, Host=f"other.share.test:{relay.port}")[0] == 403
        assert get(relay.port, query, Host=host, Origin="http://other.share.test")[0] == 403
        with browser(relay.port, NAME, Cookie=cookie, Origin=f"http://{host}") as guest:
            guest.look()
            until(lambda: guest.pictures)
        for bad in ({}, {"Cookie": cookie, "Origin": "http://other.share.test"}):
            with pytest.raises(InvalidStatus, match="403"), browser(relay.port, NAME, **bad):
                pass
        assert viewer.share() == address.geturl()


def test_a_given_token_is_kept(relay: Relay) -> None:
    with Viewer(FakeScene(), port=0, token="correct-horse-battery") as viewer:
        assert viewer.share() == f"http://{NAME}:{relay.port}/?token=correct-horse-battery"


def test_no_browser_ends_it(relay: Relay) -> None:
    with Viewer(FakeScene(), port=0) as viewer:
        address = urlsplit(viewer.share())
        host = f"{NAME}:{relay.port}"
        cookie = get(relay.port, f"/?{address.query}", Host=host)[1]["set-cookie"].split(";")[0]
        with browser(relay.port, NAME, Cookie=cookie) as guest:
            guest.send("ShareUrlDisconnect")
            guest.look()
            until(lambda: guest.pictures)
        assert get(relay.port, f"/?{address.query}", Host=host)[0] == 200


@pytest.mark.parametrize("failure", ["unreachable", "refused", "nonsense", "silent"])
def test_without_the_service_the_viewer_goes_on(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def answer() -> Any:
        if failure == "unreachable":
            raise requests.exceptions.ConnectionError
        if failure == "silent":
            released.wait(20)
        return types.SimpleNamespace(status_code=200 if failure == "nonsense" else 503, json=dict)

    answering(monkeypatch, answer)
    if failure == "silent":
        monkeypatch.setattr(sharing, "PATIENCE", 0.3)
    with Viewer(FakeScene(), port=0) as viewer:
        before = viewer.url
        said = (
            "did not answer within"
            if failure == "silent"
            else "cannot be reached or gave no address"
        )
        with pytest.raises(InputError, match=f"share.viser.studio {said}"):
            viewer.share()
        released.set()
        assert viewer.url == before
        port = urlsplit(before).port
        assert port is not None
        assert get(port, "/")[0] == 200
        assert get(port, "/", Host=NAME)[0] == 403


def test_an_address_that_the_tunnel_cannot_find_is_refused() -> None:
    with (
        Viewer(FakeScene(), host="127.0.0.2", port=0, token="correct-horse-battery") as viewer,
        pytest.raises(
            InputError, match=r"host is 127\.0\.0\.2, where viser's tunnel does not find"
        ),
    ):
        viewer.share()
