"""Who is let in: the rules by themselves, then a running server attacked over plain sockets."""

import contextlib
import http.client
import socket
from collections.abc import Iterator

import pytest
import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fsm.errors import InputError
from fsm.viewer import Viewer
from fsm.viewer.gate import MAX_MESSAGE, Gate, guarded_by
from fsm.viewer.server import free_port
from tests.viewer.fakes import FakeScene, browser, until

TOKEN = "correct-horse-battery"


def refused(
    gate: Gate, path: str = "/", *, host: str = "127.0.0.1:8080", **headers: str
) -> int | None:
    found = gate.refusal(path, Headers({"Host": host, **headers}))
    return None if found is None else found[0].value


def test_other_addresses_need_a_token() -> None:
    for host in ("0.0.0.0", "192.168.1.2", "::"):
        with pytest.raises(
            InputError, match=r"others can reach; add a token \(as in --token [\w-]{16,}\)"
        ):
            Gate(host)
        assert not Gate(host, TOKEN).loopback
    for token in (
        "",
        "short",
        "x" * 15,
        "with space in the middle",
        "ünïcödé-ünïcödé-x",
        "a;b=c\r\nX: y........",
    ):
        with pytest.raises(InputError, match="token must be"):
            Gate("127.0.0.1", token)


def test_foreign_pages_are_refused() -> None:
    gate = Gate("127.0.0.1")
    assert refused(gate) is None
    assert refused(gate, Origin="http://127.0.0.1:8080") is None
    # a forwarded port
    assert refused(gate, host="localhost:9000", Origin="http://localhost:9000") is None
    assert refused(gate, host="[::1]:8080") is None
    assert refused(gate, Origin="https://evil.example") == 403
    assert refused(gate, Origin="null") == 403
    assert refused(gate, Origin="http://127.0.0.1:3000") == 403  # another server of this machine
    assert refused(gate, Origin="http://127.0.0.1:8080.evil.example") == 403
    assert refused(gate, host="evil.example:8080") == 403  # a name that was made to point here
    assert (
        refused(gate, host="127.0.0.1.evil.example", Origin="http://127.0.0.1.evil.example") == 403
    )
    assert refused(gate, host="[") == 403
    assert gate.refusal("/", Headers()) == (400, "one Host and at most one Origin header, please")


@pytest.mark.parametrize(
    "path",
    ["/../etc/passwd", "/a/../../x", "/%2e%2e/x", "/%252e%252e/x", "/..\\x", "/x/..", "/..?a=b"],
)
def test_paths_that_climb_are_refused(path: str) -> None:
    assert refused(Gate("127.0.0.1"), path) == 404


def test_paths_that_do_not_climb_are_not() -> None:
    assert refused(Gate("127.0.0.1"), "/index.html?next=../x") is None
    assert refused(Gate("127.0.0.1"), "/a..b/...") is None


def test_the_token_opens_by_query_or_cookie() -> None:
    gate = Gate("0.0.0.0", TOKEN)
    outside = "10.0.0.7:8080"
    assert refused(gate, host=outside) == 403
    assert refused(gate, "/?token=wrong-wrong-wrong-x", host=outside) == 403
    assert refused(gate, f"/?token={TOKEN}", host=outside) is None
    assert refused(gate, host=outside, Cookie=f"a=b; {gate.cookie}={TOKEN}") is None
    assert refused(gate, host=outside, Cookie=f"fsm_viewer={TOKEN}") == 403
    assert refused(gate, "/?token=%ff%fe", host=outside, Cookie=f"{gate.cookie}=\xff") == 403
    assert (
        refused(gate, host=outside, Cookie=f"{gate.cookie}={TOKEN}", Origin="http://evil.example")
        == 403
    )


def test_sockets_are_bounded() -> None:
    gate = Gate("127.0.0.1", max_clients=2)
    gate.clients = 2
    assert refused(gate, Upgrade="websocket") == 503
    assert refused(gate) is None  # the page still comes, and says so


def test_the_gate_is_taken_away_again() -> None:
    before = websockets.asyncio.server.serve
    with contextlib.suppress(KeyError), guarded_by(Gate("127.0.0.1")):
        assert websockets.asyncio.server.serve is not before
        raise KeyError
    assert websockets.asyncio.server.serve is before


# A running server from here on.


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    with Viewer(FakeScene(), port=0, max_clients=3) as running:
        yield running


def get(viewer: Viewer, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(viewer), timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def port_of(viewer: Viewer) -> int:
    return int(viewer.url.split(":")[2].split("/")[0])


def still_lives(viewer: Viewer) -> None:
    status, page, _ = get(viewer, "/")
    assert (status, page[:15].lower()) == (200, b"<!doctype html>")
    with browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures)


def test_binds_to_this_machine_only(viewer: Viewer) -> None:
    assert viewer.url == f"http://127.0.0.1:{port_of(viewer)}/"
    others = {a[4][0] for a in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    for address in others:
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((address, port_of(viewer))) != 0
    _, _, headers = get(viewer, "/")
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert "set-cookie" not in headers


def test_a_foreign_page_gets_neither_page_nor_socket(viewer: Viewer) -> None:
    assert get(viewer, "/", Origin="http://evil.example")[0] == 403
    assert get(viewer, "/", Host="evil.example")[0] == 403
    with (
        pytest.raises(InvalidStatus, match="403"),
        browser(viewer.url, Origin="http://evil.example"),
    ):
        pass
    with browser(viewer.url, Origin=viewer.url.rstrip("/")) as own:
        own.look()
        until(lambda: own.pictures)


def test_files_outside_the_page_are_not_served(viewer: Viewer) -> None:
    for path in (
        "/../../__init__.py",
        "/%2e%2e/%2e%2e/__init__.py",
        "/..%5c..%5c__init__.py",
        "//etc/passwd",
    ):
        status, body, _ = get(viewer, path)
        assert status == 404, path
        assert b"root:" not in body
        assert b"import" not in body


def test_a_message_that_is_too_long_closes_only_its_sender(viewer: Viewer) -> None:
    with browser(viewer.url) as other:
        with browser(viewer.url, reading=False) as sender:
            sender.socket.send(b"x" * (MAX_MESSAGE + 1))
            with pytest.raises(ConnectionClosed) as closed:
                sender.drain()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        other.look()
        until(lambda: other.pictures)


@pytest.mark.parametrize("message", [b"", b"\xc1", b"\x81\xa4type\xa4Nope", b"\x80", "text"])
def test_a_message_that_makes_no_sense_closes_only_its_sender(
    viewer: Viewer, message: bytes | str
) -> None:
    with browser(viewer.url, reading=False) as sender:
        sender.socket.send(message)
        with pytest.raises(ConnectionClosed):
            sender.drain()
    still_lives(viewer)


def test_one_more_browser_than_allowed_is_turned_away_until_another_leaves(viewer: Viewer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(browser(viewer.url))
        for _ in range(20):
            with pytest.raises(InvalidStatus, match="503"), browser(viewer.url):
                pass
    until(lambda: viewer._gate.clients == 0)
    still_lives(viewer)


def test_a_share_url_is_not_to_be_had(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    import viser._viser

    def tunnel(*_: object) -> None:
        raise AssertionError("a tunnel was asked for")

    monkeypatch.setattr(viser._viser, "ViserTunnel", tunnel)
    with browser(viewer.url) as one:
        one.look()
        one.send("ShareUrlRequest")
        until(lambda: one.pictures)
    assert viewer._server.request_share_url() is None


def test_with_a_token_nothing_is_served_without_it() -> None:
    with Viewer(FakeScene(), host="0.0.0.0", port=0, token=TOKEN) as viewer:
        assert viewer.url.endswith(f"/?token={TOKEN}")
        bare = viewer.url.split("?")[0]
        assert get(viewer, "/")[0] == 403
        with pytest.raises(InvalidStatus, match="403"), browser(bare):
            pass
        status, _, headers = get(viewer, f"/?token={TOKEN}")
        assert status == 200
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        with browser(bare, Cookie=cookie.split(";")[0]) as one:  # as the page opens its socket
            one.look()
            until(lambda: one.pictures)


def test_the_next_free_port_is_taken_and_bad_addresses_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) <= port + 100
    with pytest.raises(InputError, match="not an address of this machine"):
        free_port("203.0.113.7", 8080)
    with pytest.raises(InputError, match="no address"):
        free_port("no such host", 8080)
    with pytest.raises(InputError, match="port is 70000"):
        free_port("127.0.0.1", 70000)
