"""Comparing and the view settings in a real browser: what viser's client makes of them."""

import math
import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from fsm.viewer import Viewer
from fsm.viewer.cameras import Camera
from tests.viewer.fakes import FakeScene, cameras, until
from tests.viewer.test_compare import OtherScene

pytestmark = pytest.mark.browser


def inputs_of(page: Any, label: str) -> Any:
    """The fields of the control that is called ``label``."""
    called = (
        page.locator("label")
        .filter(has_text=re.compile("^" + re.escape(label)))
        .filter(visible=True)
        .first
    )
    return called.locator("xpath=ancestor::*[.//input][1]").locator("input")


def choose(page: Any, label: str, option: str) -> None:
    inputs_of(page, label).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def enter(page: Any, label: str, value: str) -> None:
    field = inputs_of(page, label).last
    field.fill(value)
    field.press("Enter")


def colours(page: Any) -> tuple[list[float], list[float]]:
    """At the left and right of the lowest part of the window, where no control is."""
    picture = np.asarray(
        cv2.imdecode(np.frombuffer(page.screenshot(), dtype=np.uint8), cv2.IMREAD_COLOR)
    )
    low = picture[-40:-20, :, ::-1] / 255
    return low[:, 20:60].mean((0, 1)).tolist(), low[:, -60:-20].mean((0, 1)).tolist()


def test_compare_zoom_up_and_back(open_page: Callable[..., Any]) -> None:
    scene = FakeScene()
    with Viewer(scene, compare={"second": OtherScene()}, port=0) as viewer:
        page = open_page(viewer.url, 1200, 1000)
        page.get_by_text(" px in ").first.wait_for(timeout=60_000)
        black, white = pytest.approx([0, 0, 0], abs=0.02), pytest.approx([1, 1, 1], abs=0.02)
        until(lambda: colours(page) == (black, black), seconds=30)
        choose(page, "Compare with", "second")
        until(lambda: colours(page) == (black, white), seconds=30)
        page.get_by_text("Left: this scene, right: second").wait_for()
        enter(page, "Wipe (%)", "0")
        until(lambda: colours(page) == (white, white), seconds=30)

        page.get_by_role("tab", name="Scene").click()
        enter(page, "View angle", "90")
        tall = lambda: scene.requests[-1].hw[0] / 2 / float(scene.requests[-1].intrinsics[0, 1])  # noqa: E731
        # At 0 % the first scene is not drawn: bring it back.
        page.get_by_role("tab", name="Picture").click()
        enter(page, "Wipe (%)", "100")
        until(lambda: tall() == pytest.approx(math.tan(math.radians(45)), abs=1e-3), seconds=30)
        page.get_by_role("tab", name="Scene").click()
        choose(page, "Up", "+x")
        until(
            lambda: (
                scene.requests[-1].c2w[0, :3, 1].tolist() == pytest.approx([-1, 0, 0], abs=1e-3)
            ),
            seconds=30,
        )
        # rolled, not turned
        assert scene.requests[-1].c2w[0, :3, 2].tolist() == pytest.approx([0, 0, 1], abs=1e-3)

        page.get_by_role("tab", name="Picture").click()
        page.get_by_role("button", name="Reset view", exact=True).click()
        first = Camera.of_view(cameras())
        until(lambda: (scene.requests[-1].c2w[0] - first.c2w).abs().max() < 1e-3, seconds=30)
        until(lambda: tall() == pytest.approx(math.tan(first.fov / 2), abs=1e-3), seconds=30)
        until(lambda: colours(page) == (black, black), seconds=30)
        assert page.get_by_text("Left: this scene").count() == 0
