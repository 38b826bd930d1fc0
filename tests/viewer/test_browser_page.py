"""An exported page in a real browser, headless and from disk: it plays, orbits, sorts, and asks the
network for nothing.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.viewer.cameras import Camera
from fsm.viewer.recording import record
from fsm.views import SceneFrame, Views
from tests.viewer.fakes import until

pytestmark = pytest.mark.browser
# three.js says so of every node of splats that viser draws: their vertices have two coordinates.
OF_VISER = "THREE.BufferGeometry.computeBoundingSphere(): Computed radius is NaN"
GREEN = slice(3800, None)


def layers() -> GaussianScene:
    """A grey wall; before it, on the left, a red ball in front of a blue one, on the right a green
    one that falls for 2 s.

    The blue splats come after the red ones: drawn in that order, blue would cover red.
    """
    torch.manual_seed(0)
    kinds = [  # centre, extent, standard deviation, colour, number
        ((0.0, 0.0, 3.0), (3.0, 3.0, 0.05), 0.12, (0.5, 0.5, 0.5), 3000),
        ((-0.8, 0.0, 0.0), (0.3, 0.3, 0.1), 0.06, (0.9, 0.1, 0.1), 400),
        ((-0.9, 0.0, 0.5), (0.3, 0.3, 0.1), 0.06, (0.1, 0.1, 0.9), 400),
        ((0.8, 0.0, 0.0), (0.2, 0.2, 0.1), 0.06, (0.1, 0.8, 0.1), 300),
    ]
    means, deviations, colours = [], [], []
    for centre, extent, deviation, colour, n in kinds:
        means.append(torch.tensor(centre) + torch.tensor(extent) * (2 * torch.rand(n, 3) - 1))
        deviations.append(torch.full((n, 3), deviation))
        colours.append(((torch.tensor(colour) - 0.5) / SH_C0).expand(n, 1, 3))
    n = sum(kind[-1] for kind in kinds)
    upright = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    gaussians = Gaussians4D.static(
        torch.cat(means), upright, torch.cat(deviations), torch.full((n,), 0.95), torch.cat(colours)
    )
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[:, 2, 3] = -4.0
    inputs = Views(
        c2w, torch.tensor([[120.0, 120, 60, 60]]).repeat(2, 1), torch.tensor([0.0, 2.0]), (120, 120)
    )
    scene = GaussianScene(
        gaussians, SceneFrame.identity(), inputs, background=torch.tensor([0.1, 0.1, 0.1])
    )
    velocities = torch.zeros(n, 3)
    velocities[GREEN, 1] = 0.6
    scene.__dict__["moving"] = dataclasses.replace(scene.moving, velocities=velocities)
    return scene


class Page:
    """A page opened from disk without a network, and what it asked for and complained of."""

    def __init__(self, chromium: Any, path: Path) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = chromium.new_context(viewport={"width": 500, "height": 500}, offline=True)
        self.page = self.context.new_page()
        self.page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.locator("canvas").first.wait_for(timeout=60_000)

    @property
    def seconds(self) -> float:
        """Where the time slider stands."""
        return float(self.page.locator("[role=slider]").first.get_attribute("aria-valuenow"))

    def seek(self, fraction: float) -> None:
        """Click into the time slider."""
        box = self.page.locator(".mantine-Slider-root").bounding_box()
        self.page.mouse.click(box["x"] + fraction * box["width"], box["y"] + box["height"] / 2)

    def drag(self, dx: int) -> None:
        """Orbit."""
        self.page.mouse.move(250, 300)
        self.page.mouse.down()
        self.page.mouse.move(250 + dx, 300, steps=8)
        self.page.mouse.up()

    def seen(self) -> np.ndarray:
        """The scene as it is shown, 0 to 1, without the corner where the client says that it draws
        in software.
        """
        coded = self.page.screenshot(clip=self.page.locator("canvas").first.bounding_box())
        picture = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
        return without_corner(np.asarray(picture)[..., ::-1] / 255)


def without_corner(picture: np.ndarray) -> np.ndarray:
    """Black where a notice stands."""
    picture = picture.copy()
    picture[:190, :300] = 0.0
    return picture


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Page]:
    path = tmp_path / "a page.html"
    path.write_bytes(record(layers(), "html", fps=5.0).content)
    page = Page(chromium, path)
    yield page
    page.context.close()
    assert [c for c in page.complaints if not c.startswith(OF_VISER)] == []
    assert {request.split(":")[0] for request in page.requests} <= {"file", "data", "blob"}
    assert page.requests[0] == path.as_uri()


def off(page: Page, scene: GaussianScene, seconds: float) -> float:
    """Mean absolute difference between what is seen and what the scene renders from its first
    camera.
    """
    seen = page.seen()
    h, w = seen.shape[:2]
    camera = dataclasses.replace(Camera.of_view(scene.inputs), aspect=w / h)
    rendered = scene.render(camera.request(h, seconds)).rgb[0].permute(1, 2, 0).numpy()
    return float(np.abs(seen - without_corner(rendered)).mean())


def test_a_page_from_disk_shows_what_the_scene_renders(opened: Page) -> None:
    scene, page = layers(), opened.page
    page.keyboard.press("Space")  # pause
    for fraction in (0.95, 0.3, 0.02):  # 2.2 s with the last moment's own fifth; back and forth
        opened.seek(fraction)
        until(lambda at=fraction: opened.seconds == pytest.approx(2.2 * at, abs=0.06), seconds=60)
        moment = int(opened.seconds * 5) / 5
        # Edges differ by half a pixel of blur, which makes 0.002; the moment before or after makes
        # 0.005.
        until(lambda at=moment: off(opened, scene, at) < 0.004, seconds=60)
    seen = opened.seen()
    h, w = seen.shape[:2]
    red, _, blue = seen[h // 2, w // 2 - h // 5]  # the middle of the red ball
    assert red > 0.7
    assert blue < 0.3  # sorted: the blue one is behind it


def test_a_page_plays_and_orbits(opened: Page) -> None:
    page = opened.page
    until(lambda: opened.seen().std() > 0.05, seconds=60)
    stood = set()
    # it plays by itself
    until(lambda: stood.add(round(opened.seconds, 1)) or len(stood) >= 4, seconds=60)
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)
    paused, before = opened.seconds, opened.seen()
    opened.drag(60)
    until(lambda: np.abs(opened.seen() - before).mean() > 0.02, seconds=60)
    assert opened.seconds == paused
    turned = opened.seen()
    page.keyboard.press("Space")
    until(lambda: opened.seconds < paused, seconds=60)  # round once
    page.keyboard.press("Space")
    opened.seek((paused + 0.02) / 2.2)
    # the loop leaves the camera alone
    until(lambda: np.abs(opened.seen() - turned).mean() < 0.005, seconds=60)
