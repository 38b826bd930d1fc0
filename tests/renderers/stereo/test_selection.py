"""Source views of rigs: cameras of the same moment that see the same, whatever is near in time."""

import dataclasses
import math

import pytest
import torch

from fsm.renderers.stereo.config import StereoConfig
from fsm.renderers.stereo.pipeline import Stereo
from fsm.renderers.stereo.selection import nearest_views, stereo_sources, views_beside
from fsm.views import Views
from tests.small import small_views


def _turned(c2w: torch.Tensor, degrees: float) -> torch.Tensor:
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    return torch.cat([torch.cat([turn, c2w[:3, 3:]], 1), c2w[3:]])


def _ring(cameras: int, moments: int) -> Views:
    """Cameras at radius 1 that look at the centre, moment by moment."""
    poses = []
    for i in range(cameras):
        pose = _turned(torch.eye(4), 360.0 * i / cameras)
        pose[:3, 3] = -pose[:3, 2]
        poses.append(pose)
    time = torch.linspace(-1, 1, moments).repeat_interleave(cameras)
    one = small_views(1).batched()
    views = one[[0] * (cameras * moments)]
    return dataclasses.replace(views, c2w=torch.stack(poses * moments)[None], time=time[None])


def test_all_around_sources_are_the_neighbours_at_the_same_moment() -> None:
    ring = _ring(12, 3)
    sources = stereo_sources(ring[12], ring, 4)
    places = sources.views.c2w[0, sources.index[0, 0]]
    assert (sources.views.time[0, sources.index[0, 0]] == ring.time[0, 12]).all()
    angles = {
        round(math.degrees(math.acos(float(p[:3, 2] @ ring.c2w[0, 12, :3, 2])))) for p in places
    }
    assert angles == {30, 60}


def test_targets_look_at_their_moment_first() -> None:
    ring = _ring(12, 3)
    inputs = ring[[i for i in range(36) if i % 12 != 1]]
    index, distance = nearest_views(ring[13], inputs, 4)
    assert (inputs.time[0, index[0, 0]] == ring.time[0, 13]).all()
    assert bool(distance.isfinite().all())
    # between moments, those of the nearer one
    later = dataclasses.replace(ring[13], time=ring.time[:, [13]] + 0.3)
    index, _ = nearest_views(later, inputs, 4)
    assert (inputs.time[0, index[0, 0]] == ring.time[0, 13]).all()


def test_one_camera_has_none_beside_it() -> None:
    path = _ring(12, 1)
    path = dataclasses.replace(path, time=torch.linspace(-1, 1, 12)[None])
    _, usable = views_beside(path, path, 4, 2)
    assert not usable.any()


def _placed(poses: list[torch.Tensor], times: list[float]) -> Views:
    g = torch.Generator().manual_seed(0)
    views = small_views(1, hw=(32, 32)).batched()[[0] * len(poses)]
    rgb = torch.rand(1, len(poses), 3, 32, 32, generator=g)
    return dataclasses.replace(
        views, c2w=torch.stack(poses)[None], time=torch.tensor([times]), rgb=rgb
    )


@pytest.mark.parametrize(
    ("degrees", "shift", "times"),
    [
        pytest.param([0, 10, 20, 30], 0.0, [-1.0, 0.0, 0.5, 1.0], id="a camera that only turns"),
        pytest.param([0, 90, 180, 270], 0.5, [0.0] * 4, id="cameras that face away"),
        pytest.param([0], 0.0, [-1.0], id="one frame"),
        pytest.param([0, 0], 0.1, [-1.0, 1.0], id="two frames of one camera"),
        pytest.param([0, 0], 0.0, [-1.0, -1.0], id="two frames from one place"),
    ],
)
@torch.no_grad()
def test_views_that_hardly_tell_depth_still_have_some(
    degrees: list[int], shift: float, times: list[float]
) -> None:
    poses = [_turned(torch.eye(4), a) for a in degrees]
    for i, pose in enumerate(poses):
        pose[0, 3] = shift * i
    views = _placed(poses, times)
    layers = Stereo(StereoConfig()).eval().layers(views, views)
    for map_ in (layers.inverse_depth, layers.moving, layers.velocity, layers.confidence):
        assert bool(map_.isfinite().all())
