"""What a user does in the Film tab, and what is read there."""

import json

from tests.viewer.fakes import FakeBrowser, until


def ready(one: FakeBrowser) -> None:
    """It has its first picture; a control that was used earlier might not be listened to yet."""
    one.look()
    until(lambda: one.pictures, seconds=60)


def value(one: FakeBrowser, label: str):
    control = one.find(label)
    assert control is not None
    return control["value"]


def visible(one: FakeBrowser, label: str) -> bool:
    control = one.find(label)
    assert control is not None
    return control["visible"]


def lines(one: FakeBrowser) -> list[str]:
    """The list of keyframes as it is read, a line each."""
    texts = [
        c["content"] for c in list(one.controls.values()) if "<table>" in str(c.get("content"))
    ]
    rows = texts[-1].split("<tr>")[2:] if texts else []
    return [" ".join(cell.split(">")[1] for cell in row.split("</td>")[:-1]) for row in rows]


def add(one: FakeBrowser, x: float, seconds: float, y: float = 0.0) -> None:
    before = len(lines(one))
    one.look(x=x, y=y)
    one.use("Time (s)", seconds)
    one.use("Add keyframe", True)
    until(lambda: len(lines(one)) == before + 1)


def two(one: FakeBrowser) -> None:
    """A film of half a second, ten frames a second: x from 0.2 to 0.6, clip from 0 to 0.5."""
    add(one, 0.2, 0.0)
    add(one, 0.6, 0.5)
    one.use("Selected", "1")
    one.use("Until next (s)", 0.5)
    one.use("Rate (fps)", 10)
    until(lambda: lines(one) == ["1 0.000 0.50", "2 0.500 end"])


def path_of(one: FakeBrowser) -> dict:
    one.use("Save path", True)
    return json.loads(one.file().content)


def places(one: FakeBrowser) -> list:
    return [m["position"] for m in one.moves if m["type"] == "SetCameraPositionMessage"]
