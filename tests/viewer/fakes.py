"""A scene whose pixels say what was asked of it, and a browser reduced to its socket."""

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
import viser
import websockets
import zstandard
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.typing import Subprotocol

from fsm.views import Rendering, Views

PROTOCOL = Subprotocol(f"viser-v{viser.__version__}")
WINDOW = (60, 90)


def cameras(count: int = 5, hw: tuple[int, int] = (32, 48), rgb: bool = False) -> Views:
    """Along x, looking at +z; a tenth of a second apart."""
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.arange(count) * 0.1
    intrinsics = torch.tensor([40.0, 40.0, hw[1] / 2, hw[0] / 2]).repeat(count, 1)
    return Views(
        c2w, intrinsics, torch.arange(count) / 10, hw, torch.rand(count, 3, *hw) if rgb else None
    )


class FakeScene:
    """Red is the time in seconds, green the camera's x, blue its y; depth 2, half opaque."""

    def __init__(self, inputs: Views | None = None, seconds: float = 0.0) -> None:
        self.inputs = cameras() if inputs is None else inputs
        self.seconds = seconds
        self.requests: list[Views] = []
        self.fail: Exception | None = None
        self.drawing = 0
        self.together = 0

    @property
    def hw(self) -> tuple[int, int]:
        return self.inputs.hw

    def save(self, path: Path | str) -> None:
        raise NotImplementedError

    frames_seen = None

    def render(self, views: Views) -> Rendering:
        self.drawing += 1
        self.together = max(self.together, self.drawing)
        try:
            time.sleep(self.seconds)
            self.requests.append(views)
            if self.fail is not None:
                raise self.fail
            v = len(views)
            values = torch.stack([views.time, views.c2w[:, 0, 3], views.c2w[:, 1, 3]], dim=-1)
            rgb = values[:, :, None, None].expand(v, 3, *views.hw).clamp(0, 1)
            one = torch.ones(v, 1, *views.hw)
            return Rendering(rgb, alpha=0.5 * one, depth=2.0 * one)
        finally:
            self.drawing -= 1


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for something to become true and return it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
    return value


@dataclasses.dataclass
class Download:
    """A file that the server sends."""

    name: str
    size: int
    uuid: str
    content: bytes = b""


class FakeBrowser:
    """Speaks viser's protocol as far as needed: sends cameras and control values, keeps pictures
    and controls.
    """

    def __init__(self, socket: Connection, reading: bool = True) -> None:
        self.socket = socket
        self.pictures: list[np.ndarray] = []
        self.controls: dict[str, dict[str, Any]] = {}
        self.nodes: dict[str, dict[str, Any]] = {}
        self.moves: list[dict[str, Any]] = []
        self.files: list[Download] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        if reading:
            self.reader.start()

    def look(
        self,
        x: float = 0.0,
        y: float = 0.0,
        fov: float = 0.8,
        hw: tuple[int, int] = WINDOW,
        **other: Any,
    ) -> None:
        """The user's camera at (x, y, 0), looking along +z."""
        camera = {
            "wxyz": (1.0, 0.0, 0.0, 0.0),
            "position": (x, y, 0.0),
            "fov": fov,
            "near": 0.01,
            "far": 1000.0,
            "image_height": hw[0],
            "image_width": hw[1],
            "look_at": (x, y, 1.0),
            "up_direction": (0.0, -1.0, 0.0),
        }
        self.send("ViewerCameraMessage", **{**camera, **other})

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(msgspec.msgpack.encode({"type": kind, **fields}))

    def use(self, label: str, value: Any) -> None:
        """What the user does to the control called ``label``."""
        control = until(lambda: self.find(label))["uuid"]
        self.send("GuiUpdateMessage", uuid=control, updates={"value": value})

    def upload(
        self,
        label: str,
        name: str,
        content: bytes,
        claimed: int | None = None,
        part: int = 512 << 10,
    ) -> None:
        """What the page does when the user picks a file for the button called ``label``."""
        button, transfer = until(lambda: self.find(label))["uuid"], str(uuid.uuid4())
        parts = [content[i : i + part] for i in range(0, len(content), part)]
        source = {"source_component_uuid": button, "transfer_uuid": transfer}
        size = len(content) if claimed is None else claimed
        about = {
            "filename": name,
            "mime_type": "application/json",
            "part_count": len(parts),
            "size_bytes": size,
        }
        self.send("FileTransferStartUpload", **source, **about)
        for i, piece in enumerate(parts):
            self.send("FileTransferPart", **source, part_index=i, content=piece)

    def file(self, seconds: float = 30.0) -> "Download":
        """The next file that arrives whole; it is taken out of ``files``."""
        until(lambda: self.files and len(self.files[0].content) == self.files[0].size, seconds)
        return self.files.pop(0)

    def drain(self) -> None:
        """Read on until the server closes the socket, which raises."""
        while True:
            self.socket.recv(timeout=10)

    def click(self, name: str) -> None:
        """What the user does to a node of the scene."""
        node = until(lambda: self.nodes.get(name))
        where = {"ray_origin": (0.0, 0, 0), "ray_direction": (0.0, 0, 1), "screen_pos": (0.5, 0.5)}
        self.send(
            "SceneNodeClickMessage",
            name=name,
            instance_index=None,
            modifier=None,
            owner=node.get("owner", ""),
            **where,
        )

    def find(self, label: str) -> dict[str, Any] | None:
        """The control called ``label``, with its properties as the browser has them."""
        found = [c for c in list(self.controls.values()) if c.get("label") == label]
        return found[-1] if found else None

    def says(self, words: str) -> bool:
        """Whether a text that is visible holds ``words``."""
        texts = (c.get("_markdown") or "" for c in list(self.controls.values()) if c.get("visible"))
        return any(words in t for t in texts)

    @property
    def colour(self) -> np.ndarray:
        """Mean colour of the newest picture, 0 to 1."""
        return self.pictures[-1].mean((0, 1)) / 255

    def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed, EOFError):
            for raw in self.socket:
                assert isinstance(raw, bytes)
                self._take(raw)

    def _take(self, raw: bytes) -> None:
        size, packed = (int.from_bytes(raw[i : i + 8], "little") for i in (0, 8))
        inner = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], max_output_size=size)
        whole = msgspec.msgpack.decode(inner)
        arrays, start = [], 16 + packed
        for length in whole["binaryBufferLengths"]:
            start += -start % 8
            arrays.append(raw[start : start + length])
            start += length
        for message in whole["messages"]:
            kind = message["type"]
            for fields in (message.get("props"), message.get("updates")):
                for key, value in (fields or {}).items():
                    if isinstance(value, dict) and "__binary_index" in value:
                        fields[key] = np.frombuffer(
                            arrays[value["__binary_index"]], dtype=value["dtype"]
                        )
            if kind == "BackgroundImageMessage" and message["rgb_data"] is not None:
                coded = np.frombuffer(message["rgb_data"], dtype=np.uint8)
                self.pictures.append(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1])
            elif kind == "GuiUpdateMessage":
                self.controls.setdefault(message["uuid"], {}).update(message["updates"])
            elif kind == "GuiRemoveMessage":
                self.controls.pop(message["uuid"], None)
            elif kind.startswith("Gui") and "uuid" in message:
                known = {
                    "uuid": message["uuid"],
                    "value": message.get("value"),
                    **(message.get("props") or {}),
                }
                self.controls.setdefault(message["uuid"], {}).update(known)
            elif kind == "FileTransferStartDownload":
                self.files.append(
                    Download(message["filename"], message["size_bytes"], message["transfer_uuid"])
                )
            elif kind == "FileTransferPart":
                next(
                    f for f in self.files if f.uuid == message["transfer_uuid"]
                ).content += message["content"]
            elif kind.startswith("SetCamera"):
                self.moves.append(message)
            elif kind == "RemoveSceneNodeMessage":
                self.nodes.pop(message["name"], None)
            elif "name" in message:
                node = self.nodes.setdefault(message["name"], {})
                node.update(message.get("props") or {}, **(message.get("updates") or {}))
                node.update(
                    {
                        k: v
                        for k, v in message.items()
                        if k in ("visible", "wxyz", "position", "owner")
                    }
                )


@contextlib.contextmanager
def browser(url: str, reading: bool = True, **headers: str) -> Iterator[FakeBrowser]:
    """A connected browser that has sent no camera yet."""
    address = url.replace("http://", "ws://")
    patience = (16, 10.0) if reading else (1, 0.2)
    with connect(
        address,
        subprotocols=[PROTOCOL],
        additional_headers=headers,
        max_size=None,
        max_queue=patience[0],
        close_timeout=patience[1],
    ) as socket:
        yield FakeBrowser(socket, reading)
