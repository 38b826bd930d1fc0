"""In a real browser: a film is set up, rendered and saved, and it shows what was set up."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from fsm.viewer import Viewer
from tests.viewer.fakes import FakeScene, cameras, until

pytestmark = pytest.mark.browser
PATIENCE = 60_000


@pytest.fixture
def scene() -> FakeScene:
    return FakeScene(cameras(5))


@pytest.fixture
def page(scene: FakeScene, open_page: Callable[..., Any]) -> Iterator[Any]:
    with Viewer(scene, port=0) as viewer:
        page = open_page(viewer.url, 1200, 800)
        page.get_by_text(" px in ").first.wait_for(timeout=PATIENCE)
        page.set_default_timeout(PATIENCE)
        yield page
        page.close()


def test_a_film_is_made_of_two_moments(page: Any, scene: FakeScene, tmp_path: Path) -> None:
    def button(name: str) -> Any:
        return page.get_by_role("button", name=name, exact=True)

    page.get_by_role("tab", name="Film").click()
    page.get_by_text("Set up a view and a moment").wait_for()
    button("Add keyframe").click()
    page.get_by_role("cell", name="end").wait_for()
    for step in range(4):
        button("Next").click()
        until(
            lambda s=step: scene.requests[-1].time.tolist() == pytest.approx([0.1 * (s + 1)]),
            seconds=60,
        )
    button("Add keyframe").click()
    page.get_by_role("cell", name="0.400").wait_for()
    with page.expect_download() as received:
        button("Render film").click()
    assert received.value.suggested_filename == "film.mp4"
    received.value.save_as(tmp_path / "film.mp4")
    page.get_by_text("61 frames of 48 x 32 px at 30 fps").wait_for()
    with av.open(str(tmp_path / "film.mp4")) as film:
        frames = [np.asarray(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    assert len(frames) == 61
    # what the scene says of its time
    reds = [float(frame[..., 0].mean()) / 255 for frame in frames]
    assert reds == pytest.approx(np.linspace(0, 0.4, 61), abs=0.02)
    with page.expect_download() as saved:
        button("Save path").click()
    saved.value.save_as(tmp_path / "saved.json")
    button("Clear").click()
    page.get_by_text("Set up a view and a moment").wait_for()
    with page.expect_file_chooser() as chooser:
        button("Load path").click()
    chooser.value.set_files(str(tmp_path / "saved.json"))
    page.get_by_text("saved.json: 2 keyframes.").wait_for()
    page.get_by_role("cell", name="0.400").wait_for()
    button("Play film").click()
    button("Pause film").wait_for()
    button("Play film").wait_for()
    until(lambda: scene.requests[-1].time.tolist() == pytest.approx([0.4]), seconds=60)
