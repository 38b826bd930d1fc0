"""The viewer: one server, any number of browsers up to a bound, each with its own camera, clock and
controls.
"""

import contextlib
import errno
import io
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fsm.errors import InputError
from fsm.viewer.cameras import Camera, up_direction
from fsm.viewer.gate import MAX_CLIENTS, Gate, guarded_by
from fsm.viewer.session import Session
from fsm.viewer.sharing import share, unshare
from fsm.viewer.stage import Stage
from fsm.viewer.stream import ReadingProgress, SceneStream
from fsm.viewer.viewable import Viewable

if TYPE_CHECKING:
    import viser

AnyService = TypeVar("AnyService", bound="Service")

PORTS = 100
"""Ports tried upward from the one asked for."""


class Service:
    """One server behind its gate, and what it does for each browser until that leaves. Subclasses
    say what that is.
    """

    def __init__(
        self, host: str, port: int, token: str | None, max_clients: int, name: str
    ) -> None:
        """Serve at once, on the next port that is free; ``name`` is the title of the panel."""
        gate = Gate(host, token, max_clients)
        port = free_port(host, port)
        self._sessions: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._host, self._gate = host, gate
        self._server = start_server(host, port, gate)
        self._server.gui.configure_theme(show_share_button=False, show_logo=False)
        self._server.gui.set_panel_label(name)
        self._dress()
        self._server.on_client_connect(self._join)
        self._server.on_client_disconnect(self._leave)

    def _welcome(self, client: Any) -> Any:
        """What serves one browser, ``client`` in viser's terms, until its ``close()`` is called."""
        raise NotImplementedError

    def _dress(self) -> None:
        """What is the same for every browser."""

    def _joined(self, session: Any) -> None:
        """It is among those served now."""

    def _end(self) -> None:
        """Stop what works for all browsers."""

    @property
    def url(self) -> str:
        """Address to open, with the token."""
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self._host, self._host)
        query = "" if self._gate.token is None else f"?token={self._gate.token}"
        return f"http://{name}:{self._server.get_port()}/{query}"

    def share(self) -> str:
        """Open a public address through viser's service and return it, with the token that
        everybody needs from now on.

        One is made if there was none. Where the service cannot be reached, ``InputError``; the
        viewer goes on as it was.
        """
        return share(self._server, self._gate, self._host)

    @property
    def clients(self) -> int:
        """Browsers being drawn for."""
        return len(self._sessions)

    def run(self) -> None:
        """Serve until ``stop`` is called or the user interrupts."""
        with contextlib.suppress(KeyboardInterrupt):
            self._stopped.wait()
        self.stop()

    def stop(self) -> None:
        """Disconnect everybody and free the port; harmless when repeated."""
        with self._lock:
            if self._stopped.is_set() and not self._sessions:
                return
            self._stopped.set()
            sessions, self._sessions = list(self._sessions.values()), {}
        self._end()
        for session in sessions:
            session.close()
        unshare(self._server)
        with quiet():
            self._server.stop()

    def __enter__(self: AnyService) -> AnyService:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _join(self, client: Any) -> None:
        session = self._welcome(client)
        with self._lock:
            # It may have left again while its controls were built: then nobody else will close the
            # session.
            admitted = not self._stopped.is_set() and client.client_id in self._server.get_clients()
            if admitted:
                self._sessions[client.client_id] = session
        if not admitted:
            session.close()
            return
        self._joined(session)

    def _leave(self, client: Any) -> None:
        with self._lock:
            session = self._sessions.pop(client.client_id, None)
        if session is not None:
            session.close()


class Viewer(Service):
    """A scene in the browser, live: ``Viewer(scene).run()``, or ``with Viewer(scene) as viewer: ...
    viewer.url``.
    """

    def __init__(
        self,
        scene: Viewable,
        *,
        clip: Any = None,
        compare: Viewable | Mapping[str, Viewable] | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        max_clients: int = MAX_CLIENTS,
        name: str = "FSM",
    ) -> None:
        """Serve ``scene`` (anything with ``render``, ``inputs`` and ``hw``) at once, on the next
        port that is free.

        ``clip`` is what it was made from, for pictures of the inputs. ``compare``: another scene,
        or several by name, to set beside it; they are taken to be in its space and on its clock. A
        ``host`` that others can reach needs a ``token``. Bad values raise ``InputError``. ``port``
        0 takes any.
        """
        others = (
            compare if compare is None or isinstance(compare, Mapping) else {"Other scene": compare}
        )
        self._stage = Stage(scene, clip, others)
        self._showing = threading.Lock()
        self._stream: SceneStream | None = None
        super().__init__(host, port, token, max_clients, name)

    def show(self, scene: Viewable, clip: Any = None) -> None:
        """Put ``scene`` in the place of the one shown; browsers keep camera, clock and controls as
        far as they fit it.

        ``clip`` is what it was made from; the same object as before where a scene has grown, so
        that its frames are not read again.
        """
        self._show(scene, clip, None)

    def stream(
        self, scenes: Iterable[Viewable], *, clip: Any = None, total: int | None = None
    ) -> None:
        """Show each of ``scenes`` as it comes, in a thread that makes them, until they end or the
        viewer stops; return at once.

        The one before is rendered while the next is made, so making must bear that: ``FSM.stream``
        does. The panel says how many of ``total`` frames were read, and why it ended early.
        """
        if self._stream is not None and self._stream.alive:
            raise InputError(
                "a stream is being read already; wait for its end or open another viewer."
            )
        read = len(self._stage.scene.inputs)
        self._show(None, clip, ReadingProgress(read, total))
        self._stream = SceneStream(
            scenes, lambda scene, reading: self._show(scene, clip, reading), read, total
        )

    def _show(self, scene: Viewable | None, clip: Any, reading: ReadingProgress | None) -> None:
        """``scene`` or, where it is None or the one shown, only the news of it."""
        with self._showing:
            before = self._stage
            if reading is not None and (scene is None or scene is before.scene):
                stage = before.with_progress(reading)
            else:
                assert scene is not None
                compare = before.compare if clip is not None and clip is before.clip else None
                stage = Stage(
                    scene, clip, compare, turn=before.turn, before=before, reading=reading
                )
            with self._lock:
                self._stage, sessions = stage, list(self._sessions.values())
            if stage.scene is not before.scene:
                self._first_camera()
            for session in sessions:
                session.restage(stage)

    def _welcome(self, client: Any) -> Session:
        return Session(client, self._stage)

    def _joined(self, session: Session) -> None:
        with self._showing:
            session.restage(self._stage)  # it may have been replaced meanwhile

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _dress(self) -> None:
        """Up direction and the first camera of every browser."""
        self._server.scene.set_up_direction(up_direction(self._stage.inputs.views))
        self._first_camera()

    def _first_camera(self) -> None:
        """Let browsers start at the first input's camera; those that are there stay where they
        are.
        """
        inputs, camera = self._stage.inputs.views, self._server.initial_camera
        first = Camera.of_view(inputs, self._stage.nearest(float(inputs.time.min())))
        start, forward = first.c2w[:3, 3], first.c2w[:3, 2]
        camera.position = first.position
        camera.look_at = tuple((start + self._stage.distance * forward).tolist())
        camera.up, camera.fov = up_direction(inputs), first.fov


def free_port(host: str, port: int) -> int:
    """The first free port from ``port`` on; none, or a host that is no address of this machine, is
    an ``InputError``.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}; choose one from 1024 to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"host is {host!r}, which is no address ({error.strerror}); leave it out."
        ) from error
    for candidate in range(port, min(port + PORTS, 65536)):
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate, *address[2:]))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise InputError(
                    f"host is {host!r}, not an address of this machine; leave it out."
                ) from error
            return probe.getsockname()[1]
    raise InputError(
        f"no port from {port} to {min(port + PORTS, 65536) - 1} is free; choose another "
        "with --port."
    )


def start_server(host: str, port: int, gate: Gate) -> "viser.ViserServer":
    """viser's server behind ``gate``; never shared with the outside at a browser's request."""
    import viser

    class Server(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """Any browser could ask for it; that would widen what was bound to one address. See
            ``sharing``.
            """

        def disconnect_share_url(self) -> None:
            """Any browser could ask for it."""

    with guarded_by(gate), quiet():
        server = Server(host=host, port=port, verbose=False)
    if not gate.used:
        server.stop()
        raise RuntimeError(
            "this viser starts its server in a way that the gate does not know; install viser 1.1."
        )
    return server


@contextlib.contextmanager
def quiet() -> Any:
    """viser announces itself with an address that lacks the token."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
