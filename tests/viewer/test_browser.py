"""In a real browser, headless: what is seen is what was asked for."""

import shutil
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from fsm.viewer import Viewer
from tests.viewer.fakes import FakeScene, until

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene()


@pytest.fixture
def page(chromium: Any, scene: FakeScene) -> Iterator[Any]:
    complaints = []
    with Viewer(scene, port=0) as viewer:
        page = chromium.new_page(viewport={"width": 1000, "height": 700})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(viewer.url)
        page.get_by_text(" px in ").first.wait_for(timeout=60_000)
        yield page
        page.close()
    assert complaints == []


def seen(page: Any) -> np.ndarray:
    """Colour at the lower left, 0 to 1: no control, frustum or notice is there."""
    coded = np.frombuffer(page.screenshot(), dtype=np.uint8)
    picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1]
    return picture[560:600, 40:80].mean((0, 1)) / 255


def test_the_picture_follows_time_and_camera(page: Any, scene: FakeScene) -> None:
    until(lambda: seen(page) == pytest.approx([0, 0, 0], abs=0.02), seconds=30)
    for _ in range(4):
        page.get_by_role("button", name="Next").click()
        page.wait_for_timeout(300)
    until(lambda: seen(page) == pytest.approx([0.4, 0, 0], abs=0.02), seconds=30)
    page.get_by_text("Nearest: input 5 of 5, at 0.400 s").wait_for()
    before = scene.requests[-1].c2w
    page.mouse.move(300, 350)
    page.mouse.down()
    page.mouse.move(420, 350, steps=8)
    page.mouse.up()
    until(lambda: float((scene.requests[-1].c2w - before).abs().max()) > 0.05, seconds=30)
    assert scene.requests[-1].time.tolist() == pytest.approx([0.4])


def test_playing_is_seen(page: Any, scene: FakeScene) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause", exact=True).wait_for()
    reds = {round(float(seen(page)[0]), 2) for _ in range(8)}
    assert len(reds) >= 3
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.wait_for_timeout(1500)
    red = float(scene.requests[-1].time)
    until(lambda: seen(page)[0] == pytest.approx(red, abs=0.02), seconds=30)


def test_an_error_is_read_in_the_panel(page: Any, scene: FakeScene) -> None:
    scene.fail = RuntimeError("no such thing")
    page.get_by_role("button", name="Next").click()
    page.get_by_text("RuntimeError: no such thing").wait_for(timeout=30_000)
    scene.fail = None
    page.get_by_role("button", name="Next").click()
    page.get_by_text("RuntimeError: no such thing").wait_for(state="hidden", timeout=30_000)
