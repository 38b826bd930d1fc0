"""In a real browser: the first picture is framed as the clip is."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fsm.viewer import Viewer
from fsm.viewer.modes import UNSEEN
from fsm.views import Rendering, Views
from tests.viewer.fakes import FakeScene, cameras, until

pytestmark = pytest.mark.browser
PATIENCE = 60_000


class Box(FakeScene):
    """White within the first frame's own picture, red where no frame has looked."""

    def __init__(self, hw: tuple[int, int]) -> None:
        super().__init__(cameras(hw=hw, rgb=True))
        self.frames_seen = torch.zeros(5, 2, dtype=torch.int64)

    def render(self, views: Views) -> Rendering:
        fx, fy, cx, cy = views.intrinsics[0]
        y, x = (torch.arange(n) + 0.5 for n in views.hw)
        own = self.inputs.intrinsics[0]
        h, w = self.inputs.hw
        # half a pixel of slack: the outermost ones may round either way
        wide = ((x - cx) / fx).abs() <= 0.5 * w / own[0] + 0.5 / fx
        high = ((y - cy) / fy).abs() <= 0.5 * h / own[1] + 0.5 / fy
        inside = (high[:, None] & wide[None]).float()
        rgb = torch.stack([torch.ones_like(inside), inside, inside])[None]
        one = torch.ones(1, 1, *views.hw)
        return Rendering(rgb, alpha=one, depth=one)


@pytest.mark.parametrize("hw", [(96, 54), (54, 96), (64, 64)])
def test_the_first_picture_shows_the_whole_frame_and_nothing_beyond(
    hw: tuple[int, int], open_page: Callable[..., Any]
) -> None:
    with Viewer(Box(hw), port=0) as viewer:
        page = open_page(viewer.url, width=1280, height=800)
        page.get_by_text(" px in ").first.wait_for(timeout=PATIENCE)

        def covered() -> bool:
            """Of the window's lower left, where no panel and no notice is."""
            coded = np.frombuffer(page.screenshot(), dtype=np.uint8)
            seen = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))[400:, :640, ::-1] / 255
            aspect = hw[1] / hw[0]
            expected = 0.25 * min(1280, 800 * aspect) * min(800, 1280 / aspect)
            white = (seen > 0.9).all(-1).sum()
            grey = (np.abs(seen - UNSEEN) < 0.03).all(-1).sum()
            red = ((seen[..., 0] > 0.8) & (seen[..., 1] < 0.3)).sum()
            rest = seen[..., 0].size - expected
            near = 0.03 * seen[..., 0].size
            return red == 0 and abs(white - expected) < near and abs(grey - rest) < near

        until(covered, seconds=60)
