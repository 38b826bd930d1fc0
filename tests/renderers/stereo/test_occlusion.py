"""Which source views see a point: against segments cut with a board, in closed form; and when
motion is accepted.
"""

import dataclasses

import pytest
import torch

from fsm.rays import unproject
from fsm.renderers.stereo.config import MotionConfig, StereoConfig
from fsm.renderers.stereo.motion import acceptance
from fsm.renderers.stereo.occlusion import visible
from fsm.renderers.stereo.sources import pixel_grid
from fsm.views import Views
from tests.renderers.stereo.rigs import all_sources
from tests.small import small_views

HW = (64, 64)
# depths of a wall and of a square board before it, and half the board's side
WALL, BOARD, HALF = 4.0, 1.0, 0.25


def cameras(x: list[float]) -> Views:
    """Parallel cameras in a row, looking along z."""
    c2w = torch.eye(4).repeat(len(x), 1, 1)
    c2w[:, 0, 3] = torch.tensor(x)
    intrinsics = torch.tensor([50.0, 50.0, 32.0, 32.0]).expand(len(x), 4)
    return Views(c2w, intrinsics, torch.arange(len(x)) / 10.0, HW).batched()


def seen_by(target: Views, references: Views, rho: torch.Tensor) -> torch.Tensor:
    sources = all_sources(target, references)
    pixels = sources.project(rho).pixels
    return visible(sources, pixels, rho, StereoConfig().occlusion)[0, 0, :, 0]


@pytest.mark.parametrize("x", [0.3, -0.2, 0.6])
def test_a_board_hides_the_wall_behind_it_from_another_camera(x: float) -> None:
    target, references = cameras([0.0]), cameras([0.0, x])
    at = (pixel_grid(target)[0, 0, 0] - 32.0) / 50.0  # the ray's x and y at depth one
    board = (at * BOARD).abs().amax(-1) < HALF
    rho = torch.where(board, 1.0 / BOARD, 1.0 / WALL)[None, None, None]
    seen = seen_by(target, references, rho)
    assert seen[0].all(), "the target's own place sees all the target sees"
    # The segment from the other camera to a point of the wall crosses the board's plane at:
    crossing = torch.stack([x + (at[..., 0] * WALL - x) * BOARD / WALL, at[..., 1] * BOARD], -1)
    hidden = ~board & (crossing.abs().amax(-1) < HALF)
    # not within a pixel and a half of the outline
    sure = (crossing.abs().amax(-1) - HALF).abs() > 1.5 * BOARD / 50.0
    fetched = (at[..., 0] * WALL - x) * 50.0 / WALL + 32.0
    sure &= (fetched > 0.0) & (fetched < 64.0)
    assert hidden[sure].sum() > 100
    assert torch.equal(seen[1].bool()[sure], ~hidden[sure])


def test_a_slanted_plane_hides_nothing_of_itself() -> None:
    target, references = cameras([0.0]), cameras([-0.3, 0.1, 0.5])
    # a plane's inverse depth is linear
    rho = (0.5 + 0.3 * (pixel_grid(target)[..., 0] - 32.0) / 50.0)[:, :, :, :, :]
    assert seen_by(target, references, rho).all()


def test_what_is_infinitely_far_hides_nothing() -> None:
    target, references = cameras([0.0]), cameras([-0.3, 0.5])
    assert seen_by(target, references, torch.zeros(1, 1, 1, *HW)).all()


def test_inverse_depth_is_that_of_the_point_in_the_other_camera() -> None:
    target, references = small_views(3).batched()[1], small_views(3).batched()
    depth = 2.0 + torch.rand(1, 1, 1, *target.hw)
    found = all_sources(target, references).project(1.0 / depth).inverse_depth
    grid = pixel_grid(target).reshape(1, 1, -1, 2)
    points = unproject(grid, depth.reshape(1, 1, -1), target.c2w, target.intrinsics)[0, 0]
    for k in range(3):
        z = (points - references.c2w[0, k, :3, 3]) @ references.c2w[0, k, :3, 2]
        torch.testing.assert_close(1.0 / found[0, 0, k].flatten(), z, rtol=1e-4, atol=1e-4)


def shifted(texture: torch.Tensor, pixels: list[int]) -> Views:
    """Still cameras that see a texture [3 h w+20] moved to the right by so many whole pixels."""
    row = cameras([0.0] * len(pixels))
    frames = torch.stack([texture[:, :, 10 - p : 74 - p] for p in pixels])
    return dataclasses.replace(row, rgb=frames[None])


def accepted(frames: Views, base, moved, counted) -> torch.Tensor:
    return acceptance(all_sources(frames[0], frames), base, moved, counted, MotionConfig())


def test_motion_is_accepted_where_it_makes_the_frames_agree_and_only_there() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(3, 64, 84, generator=generator)
    moving = [-4, 0, 4]
    frames = shifted(texture, moving)
    assert frames.rgb is not None
    counted = torch.ones(1, 1, 3, 1, *HW)
    base = pixel_grid(frames[0]).expand(1, 1, 3, *HW, 2)
    way = torch.tensor(moving, dtype=torch.float32)[:, None, None, None] * torch.tensor([1.0, 0.0])
    inner = (0, 0, 0, slice(12, 52), slice(12, 52), 0)
    assert accepted(frames, base, base + way, counted)[inner].min() > 0.99
    assert accepted(frames, base, base - way, counted)[inner].mean() < 0.2
    assert accepted(frames, base, base, counted)[inner].max() < 0.06, "nothing gained"


def test_samples_that_do_not_count_have_no_say_in_what_is_accepted() -> None:
    texture = torch.rand(3, 64, 84, generator=torch.Generator().manual_seed(1))
    frames = shifted(texture, [0, 0, 7])  # the third shows something else
    assert frames.rgb is not None
    base = pixel_grid(frames[0]).expand(1, 1, 3, *HW, 2)
    way = torch.tensor([0.0, 0.0, 7.0])[:, None, None, None] * torch.tensor([1.0, 0.0])
    inner = (0, 0, 0, slice(12, 52), slice(12, 52), 0)
    counted = torch.ones(1, 1, 3, 1, *HW)
    assert accepted(frames, base, base + way, counted)[inner].min() > 0.99
    counted[:, :, 2] = 0.0
    assert accepted(frames, base, base + way, counted)[inner].max() < 0.06


def test_leaving_the_picture_is_no_way_to_agree() -> None:
    """One of three frames shows something else; a motion that carries its samples out of it gains
    nothing.
    """
    texture = torch.rand(3, 64, 84, generator=torch.Generator().manual_seed(2))
    frames = shifted(texture, [0, 0, 7])
    assert frames.rgb is not None
    counted, base = torch.ones(1, 1, 3, 1, *HW), pixel_grid(frames[0]).expand(1, 1, 3, *HW, 2)
    away = torch.tensor([0.0, 0.0, 200.0])[:, None, None, None] * torch.tensor([1.0, 0.0])
    assert accepted(frames, base, base + away, counted).max() < 0.06
