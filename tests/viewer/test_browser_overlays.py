"""In a real browser: what it draws itself looks like the server's picture, and 3D tracks stand
before the picture.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fsm.datasets.base import MemoryClip
from fsm.datasets.tracks import Tracks
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.viewer import Viewer
from fsm.views import SceneFrame, Views
from tests.viewer.fakes import FakeScene, cameras, until

pytestmark = pytest.mark.browser
PATIENCE = 60_000
WINDOW = {"width": 1000, "height": 700}
FREE = (slice(200, 680), slice(20, 640))
"""Rows and columns of the window where no control and no notice is."""
VISERS_OWN = "computeBoundingSphere(): Computed radius is NaN"
"""viser's client says so of every cloud of splats, and draws it."""


@pytest.fixture
def window(chromium: Any) -> Iterator[Any]:
    """A page that must not complain of anything of ours."""
    complaints: list[str] = []
    page = chromium.new_page(viewport=WINDOW)
    page.set_default_timeout(PATIENCE)
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert [text for text in complaints if VISERS_OWN not in text] == []


def picture(page: Any) -> np.ndarray:
    """What is seen, 0 to 1."""
    coded = np.frombuffer(page.screenshot(), dtype=np.uint8)
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[..., ::-1] / 255


def coarse(page: Any) -> np.ndarray:
    """The free part of what is seen, in blocks of 20 pixels."""
    free = picture(page)[FREE]
    h, w = free.shape[:2]
    return free.reshape(h // 20, 20, w // 20, 20, 3).mean((1, 3))


def blobs() -> GaussianScene:
    """Slanting Gaussians of many colours before a blue background."""
    generator = torch.Generator().manual_seed(1)
    n = 60
    means = torch.rand(n, 3, generator=generator) * torch.tensor([6.0, 4.0, 3.0]) - torch.tensor(
        [3.0, 2.0, -4.0]
    )
    scales = 0.1 + 0.4 * torch.rand(n, 3, generator=generator)
    quats = torch.randn(n, 4, generator=generator)
    colours = torch.rand(n, 3, generator=generator)
    gaussians = Gaussians4D.static(
        means, quats, scales, torch.full((n,), 0.9), colour_to_sh(colours)
    )
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.arange(3) * 0.2
    inputs = Views(
        c2w, torch.tensor([500.0, 500, 500, 350]).expand(3, 4), torch.arange(3) / 10, (700, 1000)
    )
    background = torch.tensor([0.1, 0.2, 0.5])
    return GaussianScene(gaussians, SceneFrame.fit(inputs), inputs, background=background)


def test_what_the_browser_draws_looks_like_the_servers_picture(window: Any) -> None:
    with Viewer(blobs(), port=0) as viewer:
        window.goto(viewer.url)
        window.get_by_text("1000 x 700 px in ").wait_for()
        window.get_by_role("tab", name="Scene").click()
        for label in ("Cameras", "Trail"):
            window.get_by_label(label, exact=True).click()
        window.get_by_role("tab", name="Picture").click()
        window.wait_for_timeout(1000)
        ours = coarse(window)
        assert ours.std() > 0.1
        window.get_by_label("Draw in the browser").click()
        window.get_by_text("60 Gaussians, ").wait_for()
        window.get_by_text("Drawn by the browser.").wait_for()
        until(lambda: np.abs(coarse(window) - ours).mean() < 0.01, seconds=60)
        off = np.abs(coarse(window) - ours)
        assert off.max() < 0.1
        window.mouse.move(300, 450)
        window.mouse.down()
        window.mouse.move(380, 430, steps=5)
        window.mouse.up()
        # it turns without the server
        until(lambda: np.abs(coarse(window) - ours).mean() > 0.05, seconds=60)
        window.wait_for_timeout(1500)
        turned = coarse(window)
        window.get_by_label("Draw in the browser").click()
        window.get_by_text(" px in ").first.wait_for()
        # and the server sees the same
        until(lambda: np.abs(coarse(window) - turned).mean() < 0.01, seconds=60)


class _Clip(MemoryClip):
    def __init__(self, inputs: Views) -> None:
        h, w = inputs.hw
        super().__init__(
            "clip", "clip.json", inputs, torch.zeros(len(inputs), 3, h, w, dtype=torch.uint8)
        )

    def tracks(self) -> Tracks:
        """A row of points that moves from left to right, four metres away."""
        times = self.cameras.time
        points = torch.zeros(40, len(times), 3)
        points[..., 0] = torch.linspace(-0.6, -0.4, 40)[:, None] + times
        points[..., 1] = torch.linspace(0.1, 0.9, 40)[:, None]
        points[..., 2] = 4.0
        return Tracks(points, times)


def test_tracks_stand_before_the_picture_where_they_are_at_its_moment(window: Any) -> None:
    inputs = cameras(5, hw=(70, 100))
    scene = FakeScene(
        dataclasses.replace(inputs, intrinsics=torch.tensor([70.0, 70, 50, 35]).expand(5, 4))
    )
    with Viewer(scene, clip=_Clip(scene.inputs), port=0) as viewer:
        window.goto(viewer.url)
        window.get_by_text(" px in ").first.wait_for()
        window.get_by_role("tab", name="Scene").click()
        for label in ("Cameras", "Trail"):
            window.get_by_label(label, exact=True).click()
        window.wait_for_timeout(1000)
        assert coarse(window).max() < 0.02  # the picture is black
        window.get_by_label("Tracks", exact=True).click()

        def column() -> float:
            """Of what is bright, in pixels of the window; a pixel of the clip is ten of them."""
            bright = picture(window)[FREE].max(2) > 0.4
            return float(np.nonzero(bright)[1].mean()) + FREE[1].start if bright.any() else -1.0

        at_zero = 10 * (70 * -0.5 / 4 + 50)
        until(lambda: abs(column() - at_zero) < 5, seconds=60)
        for _ in range(4):
            window.get_by_role("button", name="Next").click()
            window.wait_for_timeout(300)
        # Now 0.4 to the right, with tails behind: those on the brighter half of their length.
        until(lambda: at_zero + 30 < column() < at_zero + 75, seconds=60)
