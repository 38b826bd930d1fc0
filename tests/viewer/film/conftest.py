"""A browser with an empty film."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm.viewer import Viewer
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras
from tests.viewer.film.steps import ready


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene(cameras(11))  # a second of the clip


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and go away from again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def one(scene: FakeScene) -> Iterator[FakeBrowser]:
    with Viewer(scene, port=0) as viewer, browser(viewer.url) as connected:
        ready(connected)
        yield connected
