"""In a real browser, headless: what is seen is what was asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from fsm.viewer import Viewer
from tests.viewer.fakes import FakeScene, cameras, until

pytestmark = pytest.mark.browser
PATIENCE = 60_000
"""Milliseconds: drawn in software, on a machine that may have other things to do."""


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene(cameras())


@pytest.fixture
def viewer(scene: FakeScene) -> Iterator[Viewer]:
    with Viewer(scene, port=0) as running:
        yield running


@pytest.fixture
def page(viewer: Viewer, open_page: Callable[..., Any]) -> Any:
    page = open_page(viewer.url)
    page.get_by_text(" px in ").first.wait_for(timeout=PATIENCE)
    page.set_default_timeout(PATIENCE)
    return page


def picture(page: Any) -> np.ndarray:
    """The window as it is seen, 0 to 1."""
    coded = np.frombuffer(page.screenshot(), dtype=np.uint8)
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1] / 255


def seen(page: Any) -> np.ndarray:
    """Colour at the lower left: no control, frustum or notice is there."""
    return picture(page)[560:600, 40:80].mean((0, 1))


def shows(page: Any, *colour: float) -> None:
    until(lambda: seen(page) == pytest.approx(colour, abs=0.02), seconds=60)


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def choose(page: Any, label: str, option: str) -> None:
    """An option of a dropdown."""
    called = page.locator("label").filter(has_text=label).filter(visible=True).first
    called.locator("xpath=ancestor::*[.//input][1]").locator("input").first.click()
    page.get_by_role("option", name=option, exact=True).click()


def orbit(page: Any, dx: int) -> None:
    page.mouse.move(300, 350)
    page.mouse.down()
    page.mouse.move(300 + dx, 350, steps=8)
    page.mouse.up()


def test_the_picture_follows_time_and_camera(page: Any, scene: FakeScene) -> None:
    shows(page, 0, 0, 0)
    slider = page.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("End")
    shows(page, 0.4, 0, 0)
    assert float(slider.get_attribute("aria-valuenow")) == pytest.approx(0.4)
    page.get_by_role("button", name="Previous").click()
    shows(page, 0.3, 0, 0)
    tab(page, "Scene")
    page.get_by_text("Nearest: input 4 of 5, at 0.300 s").wait_for()
    before = scene.requests[-1].c2w
    orbit(page, 120)
    until(lambda: float((scene.requests[-1].c2w - before).abs().max()) > 0.05, seconds=60)
    assert scene.requests[-1].time.tolist() == pytest.approx([0.3])


def test_playing_is_seen_and_pausing_stops_it(page: Any, scene: FakeScene) -> None:
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause", exact=True).wait_for()
    reds: set[float] = set()
    until(lambda: reds.add(round(float(seen(page)[0]), 2)) or len(reds) >= 3, seconds=60)
    page.get_by_role("button", name="Pause", exact=True).click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    until(
        lambda: seen(page)[0] == pytest.approx(float(scene.requests[-1].time), abs=0.02), seconds=60
    )


def test_modes_are_seen(page: Any) -> None:
    shows(page, 0, 0, 0)
    choose(page, "Show", "Opacity")
    shows(page, 0.5, 0.5, 0.5)
    choose(page, "Show", "Depth")
    shows(page, 0.19, 0.07, 0.23)  # the far end of turbo: all is equally far
    choose(page, "Show", "Colour")
    shows(page, 0, 0, 0)


def test_an_error_is_read_in_the_panel_and_goes_away(page: Any, scene: FakeScene) -> None:
    scene.fail = RuntimeError("no such thing")
    page.get_by_role("button", name="Next").click()
    page.get_by_text("RuntimeError: no such thing").wait_for()
    scene.fail = None
    page.get_by_role("button", name="Next").click()
    page.get_by_text("RuntimeError: no such thing").wait_for(state="hidden")


def test_a_narrow_window_can_use_everything(viewer: Viewer, open_page: Callable[..., Any]) -> None:
    page = open_page(viewer.url, width=420, height=800)
    page.set_default_timeout(PATIENCE)
    page.get_by_text(" px in ").first.wait_for()
    for control in (page.get_by_role("slider").first, page.get_by_role("tab", name="Film")):
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 420
    tab(page, "Film")
    page.get_by_role("button", name="Add keyframe").click()
    page.get_by_role("cell", name="end").wait_for()
