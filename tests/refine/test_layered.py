"""Gaussians of what stands and what moves: against points, durations and velocities by hand."""

import dataclasses
import math

import pytest
import torch

from fsm.rays import project
from fsm.refine.layered import ALONE, FOOTPRINT, gap_to_next, layered_gaussians
from fsm.renderers.stereo.fusion import Surfaces
from fsm.renderers.stereo.key_frames import Turns
from fsm.renderers.stereo.layers import Layers
from fsm.views import Views
from tests.refine.small_scenes import ring

Seen = tuple[Views, Layers, Surfaces]


@pytest.fixture
def seen() -> Seen:
    """Three cameras with random depth; the left half stands, the right half moves, and only every
    other row is kept.
    """
    g = torch.Generator().manual_seed(0)
    views = ring(3, (8, 10))
    views = dataclasses.replace(views, rgb=torch.rand(3, 3, 8, 10, generator=g))
    rho = 0.2 + torch.rand(1, 3, 1, 8, 10, generator=g)
    standing = (torch.arange(10) < 5).expand(1, 3, 1, 8, 10)
    kept = (torch.arange(8) % 2 == 0)[:, None].expand(1, 3, 1, 8, 10)
    velocity = torch.randn(1, 3, 3, 8, 10, generator=g)
    layers = Layers(rho, (~standing).float(), velocity, torch.ones_like(rho))
    turns = dataclasses.replace(Turns.every(views.batched()), kept=kept)
    return views, layers, Surfaces(layers.inverse_depth, standing, turns)


def test_every_kept_pixel_lies_where_its_camera_shows_it(seen: Seen) -> None:
    views, layers, surfaces = seen
    found = layered_gaussians(views, layers, surfaces)
    assert len(found) == 3 * 4 * 10
    means = found.means.view(3, 40, 3)
    pixels, depth = project(means, views.c2w, views.intrinsics)
    rows, columns = torch.meshgrid(torch.arange(0, 8, 2), torch.arange(10), indexing="ij")
    places = torch.stack([columns, rows], -1).flatten(0, 1) + 0.5
    torch.testing.assert_close(pixels, places.expand(3, 40, 2).float(), atol=1e-3, rtol=0)
    wanted = 1.0 / layers.inverse_depth[0, :, 0, ::2].flatten(1)
    torch.testing.assert_close(depth, wanted, atol=1e-4, rtol=1e-4)
    assert views.rgb is not None
    colours = views.rgb[:, :, ::2].flatten(2).mT.reshape(-1, 3)
    torch.testing.assert_close(0.5 + 0.28209479177387814 * found.sh[:, 0], colours)
    footprint = found.log_scales[:, 0].exp().view(3, 4, 10) * 40.0 / wanted.view(3, 4, 10)
    torch.testing.assert_close(footprint[..., :5], torch.full((3, 4, 5), ALONE))
    torch.testing.assert_close(footprint[..., 5:], torch.full((3, 4, 5), FOOTPRINT))


def test_what_stands_has_no_time_and_what_moves_has_velocity(
    seen: Seen,
) -> None:
    views, layers, surfaces = seen
    found = layered_gaussians(views, layers, surfaces)
    stands = (torch.arange(10) < 5).repeat(3 * 4)
    assert bool(found.log_time_scales[stands].isposinf().all())
    assert not bool(found.velocities[stands].any())
    lasts = found.log_time_scales[~stands].exp()
    torch.testing.assert_close(lasts, torch.full_like(lasts, 0.5))  # a camera every half second
    velocity = layers.velocity[0, :, :, ::2, 5:].movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(found.velocities[~stands], velocity)
    assert found.times.view(3, 40).std(1).max() == 0.0


def test_constant_background_becomes_no_gaussian(seen: Seen) -> None:
    views, layers, surfaces = seen
    rgb = torch.ones(3, 3, 8, 10)
    rgb[:, :, 2:5, 3:7] = 0.3
    found = layered_gaussians(dataclasses.replace(views, rgb=rgb), layers, surfaces)
    assert len(found) == 3 * 2 * 4


@pytest.mark.parametrize(
    ("times", "gaps"),
    [
        ([0.0, 1.0, 3.0], [1.0, 2.0, 2.0]),
        ([3.0, 0.0, 0.0, 1.0], [2.0, 1.0, 1.0, 2.0]),
        ([2.0, 2.0], [1.0, 1.0]),
    ],
)
def test_gaps_are_the_larger_of_two(times: list[float], gaps: list[float]) -> None:
    assert gap_to_next(torch.tensor(times)).tolist() == gaps


def test_a_moment_alone_is_finite() -> None:
    assert math.isfinite(float(gap_to_next(torch.zeros(1))[0]))
