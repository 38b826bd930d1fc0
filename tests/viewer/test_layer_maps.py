"""What moves, as pictures: against motion that is known."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from fsm.memory_scene import MemoryScene, SceneLayers
from fsm.renderers.gaussians.balls import Balls
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.motion.tracks import PointTracks
from fsm.viewer import Viewer, layer_maps
from fsm.viewer.cameras import Camera
from fsm.viewer.layer_maps import MotionMaps
from fsm.viewer.stage import Job, Stage
from fsm.views import SceneFrame
from tests.small import small_model, small_views
from tests.viewer.fakes import browser, cameras, until

SPEED, DEPTH, FOCAL, HEIGHT = 0.1, 2.0, 40.0, 32
FLOW = SPEED / DEPTH * FOCAL / HEIGHT
"""Heights of the picture a second."""


def ball(x: float, velocity: float, lasts: float = 50.0) -> Gaussians4D:
    """Nearly opaque, ``DEPTH`` units before the first camera."""
    one = torch.ones(1)
    means, way = torch.tensor([[x, 0.0, DEPTH]]), torch.tensor([[velocity, 0.0, 0.0]])
    return Balls(means, way, 0 * one, lasts * one, 0.1 * one, one, torch.ones(1, 1, 3)).gaussians()


def scene() -> GaussianScene:
    """A ball that stands at the left, and one that moves to the right at the right."""
    still = Gaussians4D.static(
        torch.tensor([[-0.4, 0.0, DEPTH]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.1),
        torch.ones(1),
        torch.ones(1, 1, 3),
    )
    both = Gaussians4D.cat([still, ball(0.4, SPEED)])
    return GaussianScene(both, SceneFrame.identity(time_start=-0.8), cameras())


def test_gaussians_show_what_moves_and_how_fast() -> None:
    shown = scene()
    request = Camera.of_view(shown.inputs, 0).request(HEIGHT, 0.2)
    maps, alpha = layer_maps.of_gaussians(shown, request), shown.render(request).alpha
    assert alpha is not None
    left, right, corner = (
        torch.cat([maps.moving, maps.flow, alpha[0]])[:, y, x].tolist()
        for y, x in ((16, 16), (16, 32), (2, 2))  # 0.4 units are 8 pixels
    )
    assert left[:3] == pytest.approx([0, 0, 0], abs=1e-3)
    assert left[3] > 0.9
    covered = right[3]
    assert covered > 0.9
    assert right[:3] == pytest.approx([covered, covered * FLOW, 0], abs=2e-3)
    assert corner == pytest.approx([0, 0, 0, 0], abs=1e-3)


def test_layers_are_offered_where_there_are_both() -> None:
    shown = scene()
    stage = Stage(shown)
    assert stage.layers == ("all", "static", "moving")
    assert {"Motion", "Flow"} <= set(stage.modes)
    camera = Camera.of_view(shown.inputs, 0)
    alpha = {
        layer: stage.render(Job(camera, 0.2, 2, "Opacity", HEIGHT, layer=layer), HEIGHT).picture
        for layer in stage.layers
    }
    lit = {
        layer: (picture[16, 16, 0] > 200, picture[16, 32, 0] > 200)
        for layer, picture in alpha.items()
    }
    assert lit == {"all": (True, True), "static": (True, False), "moving": (False, True)}
    only = Stage(GaussianScene(ball(0.0, SPEED), SceneFrame.identity(), cameras()))
    assert only.layers == ("all",)
    assert "Motion" not in only.modes


def test_the_wheel_turns_with_the_direction_and_is_white_where_nothing_moves() -> None:
    fast = layer_maps.FASTEST
    flow = torch.tensor([[0.0, fast, -fast, 0.5 * fast], [0.0, 0.0, 0.0, 0.0]])[:, None]
    colours = layer_maps.wheel(MotionMaps(torch.zeros(1, 1, 4), flow))[:, 0].T
    expected = [[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 0.5, 0.5]]
    assert np.allclose(colours, expected, atol=0.02)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryScene:
    """Frames whose every pixel is said to be ``DEPTH`` away and to move."""
    views = small_views(4)
    made = small_model(reference=True).reconstruct(views)
    assert isinstance(made, MemoryScene)

    def layers(self: MemoryScene, index: Any = None) -> SceneLayers:
        n = len(self.inputs) if index is None else len(index)
        one = torch.ones(n, 1, *self.hw)
        which = list(range(len(self.inputs))) if index is None else index
        right = SPEED * self.inputs.c2w[which][:, :3, 0]  # along each camera's own x axis
        return SceneLayers(DEPTH * one, one, 0 * one, right[..., None, None].expand(n, 3, *self.hw))

    def tracks(self: MemoryScene) -> tuple[PointTracks, torch.Tensor]:
        points = torch.zeros(4, 2, 3)
        points[..., 2] = DEPTH
        seen = torch.tensor([[True, False], [True, True], [True, True], [True, True]])
        return PointTracks(self.inputs.time, points, seen, torch.ones(2)), torch.zeros(2).long()

    monkeypatch.setattr(MemoryScene, "layers", layers)
    monkeypatch.setattr(MemoryScene, "tracks", tracks)
    return made


def test_frames_show_how_fast_their_pixels_move(memory: MemoryScene) -> None:
    maps = layer_maps.of_frame(memory, 1)
    focal = float(memory.inputs.intrinsics[1, 0])
    expected = SPEED / DEPTH * focal / memory.hw[0]
    assert torch.allclose(maps.flow[0], torch.full(memory.hw, expected), atol=1e-5)
    assert torch.allclose(maps.flow[1], torch.zeros(memory.hw), atol=1e-5)
    stage = Stage(memory)
    assert {"Motion", "Flow"} <= set(stage.modes)
    job = Job(stage.through(1), stage.times[1], 1, "Motion", memory.hw[0])
    assert stage.at_input(job)
    assert (stage.render(job, memory.hw[0]).picture == 255).all()


def test_tracks_are_found_once_and_may_be_cancelled(memory: MemoryScene) -> None:
    stage = Stage(memory)
    assert stage.may_find_tracks
    assert not stage.find_tracks(lambda: True, lambda _: None)
    told: list[int] = []
    assert stage.find_tracks(lambda: False, told.append)
    assert told == [0, 1, 2, 3]
    tracks = stage.tracks
    assert tracks is not None
    assert tracks.points[1, 0].isnan().all()
    assert tracks.points[1, 1].tolist() == [0, 0, DEPTH]
    assert not stage.may_find_tracks
    assert stage.find_tracks(lambda: False, told.append)
    assert stage.tracks is tracks


def test_a_page_stays_alive_while_tracks_are_found(
    memory: MemoryScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    found = memory.tracks()
    monkeypatch.setattr(MemoryScene, "tracks", lambda _: goes_on.wait(10) and found)
    with Viewer(memory, port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures and one.find("Find tracks"))
        one.use("Find tracks", True)
        until(lambda: one.says("Finding tracks: frame 4 of 4"))
        seen = len(one.pictures)
        one.look(x=0.1)
        until(lambda: len(one.pictures) > seen)
        goes_on.set()
        until(lambda: "/tracks/points" in one.nodes)
