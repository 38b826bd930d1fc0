"""The gallery in a real browser, headless: from the start page into a scene and back."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import fsm.viewer.gallery.entries as module
from fsm.files import write_json
from fsm.viewer import Gallery, GalleryViewer
from tests.viewer.fakes import FakeScene, cameras, until

pytestmark = pytest.mark.browser
PATIENCE = 60_000
"""Milliseconds: drawn in software, on a machine that may have other things to do."""


def tilted(y: float) -> FakeScene:
    """Seen from the height ``y`` (which is its blue), looking down and to the side."""
    inputs = cameras(3)
    a, b = math.radians(25), math.radians(40)
    down = torch.tensor([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    aside = torch.tensor([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    inputs.c2w[:, :3, :3] = aside @ down
    inputs.c2w[:, 1, 3] = y
    return FakeScene(inputs)


@pytest.fixture
def scenes() -> dict[str, FakeScene]:
    return {"low": tilted(0.25), "tall": tilted(0.75)}


@pytest.fixture
def viewer(
    tmp_path: Path, scenes: dict[str, FakeScene], monkeypatch: pytest.MonkeyPatch
) -> Iterator[GalleryViewer]:
    for name in scenes:
        (tmp_path / "shelf" / name).mkdir(parents=True)
        write_json(tmp_path / "shelf" / name / "scene.json", {"kind": "memory"})
    monkeypatch.setattr(module, "open_scene", lambda path, *_: scenes[path.name])
    with GalleryViewer(Gallery(tmp_path / "shelf"), port=0) as running:
        yield running


def seen(page: Any) -> np.ndarray:
    """Colour at the lower left, 0 to 1."""
    coded = np.frombuffer(page.screenshot(), dtype=np.uint8)
    return (
        np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[560:600, 40:80, ::-1].mean((0, 1)) / 255
    )


def test_into_scenes_and_back(
    viewer: GalleryViewer, scenes: dict[str, FakeScene], open_page: Callable[..., Any]
) -> None:
    page = open_page(viewer.url)
    page.set_default_timeout(PATIENCE)
    page.get_by_text("2 scenes").wait_for()
    page.get_by_text("Memory, 3 inputs, 0.20 s").nth(1).wait_for()
    assert seen(page) == pytest.approx([1, 1, 1], abs=0.02)  # nothing is behind the page
    for name, blue in (("tall", 0.75), ("low", 0.25)):
        page.get_by_role("button", name=f"Open {name}").click()
        page.get_by_text(" px in ").first.wait_for()
        until(lambda blue=blue: seen(page) == pytest.approx([0, 0, blue], abs=0.02), seconds=60)
        wanted = scenes[name].inputs.c2w[0]
        until(
            lambda n=name, w=wanted: torch.allclose(scenes[n].requests[-1].c2w[0], w, atol=1e-3),
            seconds=30,
        )
        page.get_by_role("button", name="Next").click()
        until(lambda blue=blue: seen(page) == pytest.approx([0.1, 0, blue], abs=0.02), seconds=60)
        page.get_by_role("button", name="All scenes").click()
        page.get_by_text("2 scenes").wait_for()
        until(lambda: seen(page) == pytest.approx([1, 1, 1], abs=0.02), seconds=60)
        assert page.get_by_role("button", name="Play", exact=True).count() == 0
