"""Balls that move, and squares of pixels that become one."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from fsm.renderers.gaussians.balls import Balls, merged
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import Projection
from fsm.views import Rendering, Views

HW = (48, 48)
DEPTH = 2.0
FOCAL = 64.0


def some_balls(velocity: Tensor, size: float, lasts: float) -> Balls:
    n = len(velocity)
    fill = torch.ones_like(velocity[:, 0])
    means, times, sh = torch.rand(n, 3), torch.rand(n), torch.zeros(n, 1, 3)
    return Balls(means, velocity, times, lasts * fill, size * fill, 0.5 * fill, sh)


def test_gaussians_have_velocity_duration_and_size() -> None:
    velocity = torch.cat(
        [torch.randn(40, 3), 30.0 * torch.randn(20, 3), torch.zeros(1, 3), -torch.eye(3)]
    ).double()
    moving = some_balls(velocity, size=1e-3, lasts=0.2).gaussians().condition()
    torch.testing.assert_close(moving.velocities, velocity, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        moving.time_variances, torch.full_like(moving.time_variances, 0.04), rtol=1e-3, atol=0
    )
    ball = (1e-6 * torch.eye(3).double()).expand(len(moving), 3, 3)
    torch.testing.assert_close(covariance_matrix(moving.covariances), ball, rtol=1e-3, atol=1e-9)


def test_what_stands_is_static() -> None:
    balls = some_balls(torch.zeros(5, 3), 0.1, math.inf)
    assert bool(balls.gaussians().is_static.all())


@pytest.mark.parametrize("velocity", [(0.0, 0.0, 0.0), (-1e-9, 0.0, 0.0), (0.0, 1e4, 0.0)])
def test_gradients_stay_finite_where_nothing_and_where_much_moves(
    velocity: tuple[float, float, float],
) -> None:
    v = torch.tensor([velocity], requires_grad=True)
    moving = some_balls(v, 0.01, 0.2).gaussians().condition()
    (moving.velocities.sum() + moving.covariances.sum() + moving.time_variances.sum()).backward()
    assert v.grad is not None
    assert bool(torch.isfinite(v.grad).all())


def picture_of_a_plane() -> tuple[Balls, Tensor, Tensor]:
    """The pixels of one view of the plane z = DEPTH, half plain and half chequered; which are kept,
    and their depth.
    """
    h, w = HW
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    means = torch.stack([(x - w / 2) / FOCAL, (y - h / 2) / FOCAL, torch.ones(HW)], -1) * DEPTH
    plain = 0.4 + 0.002 * (x - y)
    chequered = 0.5 + 0.3 * ((x + y).long() % 2)
    rgb = torch.where(x < w / 2, plain, chequered)[..., None].expand(h, w, 3)
    one, depth = torch.ones(1, *HW), torch.full((1, *HW), DEPTH)
    sh = ((rgb - 0.5) / SH_C0)[None, :, :, None]
    size = 0.35 * DEPTH / FOCAL * one
    balls = Balls(means[None], torch.zeros(1, h, w, 3), 0 * one, one, size, 0.95 * one, sh)
    return balls, one.bool(), depth


def drawn(balls: Balls) -> Rendering:
    intrinsics = torch.tensor([[FOCAL, FOCAL, HW[1] / 2, HW[0] / 2]])
    view = Views(torch.eye(4)[None], intrinsics, torch.zeros(1), HW)
    return rasterize(balls.gaussians().at(0.0), view, projection=Projection(blur=0.1))


@pytest.mark.parametrize("side", [2, 3, 4])
def test_plain_squares_become_one_ball_and_look_the_same(side: int) -> None:
    balls, kept, depth = picture_of_a_plane()
    pixel = math.sqrt(0.1) * depth / FOCAL
    few = merged(balls, kept, depth, pixel, side)
    plain = HW[0] * HW[1] // 2
    assert len(few) == kept.numel() - plain + plain // side**2
    inner = (..., slice(4, -4), slice(4, HW[1] // 2 - 4))
    before, after = drawn(balls[kept]), drawn(few)
    assert before.alpha is not None
    assert after.alpha is not None
    # pixels lie beside the centres of merged balls, where one layer is a little less opaque
    assert float(after.alpha[inner].min()) > 0.75
    off = before.rgb / before.alpha - after.rgb / after.alpha
    assert float(off[inner].abs().max()) < 0.01


def test_edges_of_depth_motion_and_what_is_left_out_are_not_merged() -> None:
    balls, kept, depth = picture_of_a_plane()
    pixel = 0.0 * depth
    everything = len(merged(balls, kept, depth, pixel, 2))
    step = depth.clone()
    step[:, :, 5] *= 1.1
    assert len(merged(balls, kept, step, pixel, 2)) == everything + 3 * HW[0] // 2
    velocity = balls.velocities.clone()
    velocity[:, :, 5] = 0.5
    moves = dataclasses.replace(balls, velocities=velocity)
    assert len(merged(moves, kept, depth, pixel, 2)) == everything + 3 * HW[0] // 2
    hole = kept.clone()
    hole[:, 7, 5] = False
    assert len(merged(balls, hole, depth, pixel, 2)) == everything + 2
    assert len(merged(balls, kept, depth, pixel, 1)) == kept.numel()
