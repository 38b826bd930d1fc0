"""Depth warped from frames to targets: planes and boards in closed form, and how holes are
filled.
"""

import dataclasses

import pytest
import torch

from fsm.renderers.stereo.config import ConsistencyConfig, WarpConfig
from fsm.renderers.stereo.forward_warp import fill_holes, forward_warped
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.sources import SourceViews, pixel_grid
from fsm.views import Views
from tests.small import small_views

HW = (64, 64)


def cameras(x: list[float], z: float = 0.0, hw: tuple[int, int] = HW) -> Views:
    """Parallel cameras in a row, looking along z."""
    c2w = torch.eye(4).repeat(len(x), 1, 1)
    c2w[:, 0, 3], c2w[:, 2, 3] = torch.tensor(x), z
    focal, centre = 50.0 * hw[1] / 64, hw[1] / 2
    intrinsics = torch.tensor([focal, focal, centre, centre]).expand(len(x), 4)
    return Views(c2w, intrinsics, torch.arange(len(x)) / 10.0, hw).batched()


def everything(v: int, n: int) -> torch.Tensor:
    return torch.arange(n).expand(1, v, n)


def warped(targets: Views, frames: Views, index: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    nothing = torch.zeros_like(rho).detach()
    layers = Layers(rho, nothing, nothing.repeat(1, 1, 3, 1, 1), nothing + 1.0)
    return carried(targets, frames, index, layers).inverse_depth


def carried(targets: Views, frames: Views, index: torch.Tensor, layers: Layers) -> Layers:
    sources = SourceViews.of(targets, frames, index)
    return forward_warped(sources, layers, WarpConfig(), ConsistencyConfig())


def ray(views: Views) -> torch.Tensor:
    """x and y of the rays of all pixels at depth one, [1 v h w 2]."""
    fx, fy, cx, cy = views.intrinsics[..., None, None].unbind(2)
    grid = pixel_grid(views)[:, :, 0]
    return torch.stack([(grid[..., 0] - cx) / fx, (grid[..., 1] - cy) / fy], -1)


def slanted(views: Views) -> torch.Tensor:
    """Inverse depth of the plane z = 2 + 0.4 x as parallel cameras see it: with x = x_c + u d and z
    = z_c + d.
    """
    centre = views.c2w[..., :3, 3]
    u = ray(views)[..., 0]
    return ((1.0 - 0.4 * u) / (2.0 + 0.4 * centre[..., 0] - centre[..., 2])[..., None, None])[
        :, :, None
    ]


def test_from_its_own_place_a_frame_shows_its_own_depth() -> None:
    frames = small_views(3).batched()
    rho = 0.2 + torch.rand(1, 3, 1, *frames.hw)
    for i in range(3):
        torch.testing.assert_close(
            warped(frames[i], frames, torch.tensor([[[i]]]), rho), rho[:, i : i + 1]
        )


@pytest.mark.parametrize("z", [0.0, 0.4, -0.5])
def test_a_slanted_plane_is_carried_to_where_it_is(z: float) -> None:
    frames, targets = cameras([-0.1, 0.2]), cameras([0.0, 0.1], z)
    found = warped(targets, frames, everything(2, 2), slanted(frames))
    inner = (..., slice(12, 52), slice(12, 52))
    # A pixel's value is carried to the pixel nearest to where it lands: off by half a pixel's
    # change of depth, doubled nearby.
    torch.testing.assert_close(found[inner], slanted(targets)[inner], rtol=0, atol=0.4 / 50.0 / 2.0)


def test_a_board_is_before_the_wall_and_the_wall_fills_what_it_hid() -> None:
    frame, target = cameras([0.0]), cameras([0.3])
    at = ray(frame)[0, 0]
    board = at.abs().amax(-1) < 0.25  # at depth one, a wall at depth four
    rho = torch.where(board, 1.0, 0.25)[None, None, None]
    found = warped(target, frame, everything(1, 1), rho)[0, 0, 0]
    there = ray(target)[0, 0]
    expected = (there + torch.tensor([0.3, 0.0])).abs().amax(-1) < 0.25
    outline = ((there + torch.tensor([0.3, 0.0])).abs().amax(-1) - 0.25).abs() < 1.5 / 50.0
    assert (found[expected & ~outline] == 1.0).all()
    shown = ~expected & ~outline
    assert (found[shown] < 0.3).all(), "beside it stands the wall, seen by the frame or filled in"
    assert (found[shown] >= 0.25 - 1e-6).all()


def test_frames_that_agree_are_averaged_and_a_nearer_one_hides_them() -> None:
    frames, target = cameras([0.0, 0.0, 0.0]), cameras([0.0])
    rho = torch.tensor([0.50, 0.52, 0.2])[None, :, None, None, None].expand(1, 3, 1, *HW)
    found = warped(target, frames, everything(1, 3), rho)
    torch.testing.assert_close(found, torch.full_like(found, 0.51))


def test_a_hole_takes_after_the_farthest_of_the_nearest_four() -> None:
    rho = torch.tensor([[9.0, 0.1, 9.0, 9.0], [0.5, 0.0, 0.0, 0.8], [9.0, 0.6, 0.7, 9.0]])[
        None, None
    ]
    known = rho > 0
    out = fill_holes(rho, known)
    assert torch.equal(out[known], rho[known])
    assert out[0, 0, 1, 1:3].tolist() == pytest.approx([0.1, 0.5])  # 0.5 lies beyond the other hole
    assert not fill_holes(rho, torch.zeros_like(known)).any(), "nothing known is infinitely far"
    assert torch.equal(fill_holes(rho, torch.ones_like(known)), rho)


@pytest.mark.parametrize("hw", [(5, 7), (1, 3), (8, 8)])
def test_one_known_pixel_fills_everything(hw: tuple[int, int]) -> None:
    rho, known = torch.zeros(1, 1, *hw), torch.zeros(1, 1, *hw, dtype=torch.bool)
    rho[..., hw[0] // 2, -1], known[..., hw[0] // 2, -1] = 0.3, True
    torch.testing.assert_close(fill_holes(rho, known), torch.full((1, 1, *hw), 0.3))


def test_gradients_are_those_of_the_values_carried_over() -> None:
    """A camera 0.5 farther back sees inverse depth ρ / (1 + 0.5 ρ); its derivative is 1 / (1 + 0.5
    ρ)².
    """
    frame, target = cameras([0.0]), cameras([0.0], -0.5)
    rho = torch.full((1, 1, 1, *HW), 0.4, requires_grad=True)
    found = warped(target, frame, everything(1, 1), rho)
    torch.testing.assert_close(found, torch.full_like(found, 0.4 / 1.2))
    found.mean().backward()
    assert rho.grad is not None
    assert float(rho.grad.sum()) == pytest.approx(1.0 / 1.2**2, rel=1e-4)


def test_a_target_of_more_pixels_than_the_frames_has_no_holes() -> None:
    frames, target = cameras([-0.1, 0.2]), cameras([0.05], hw=(256, 256))
    found = warped(target, frames, everything(1, 2), slanted(frames))
    assert found.shape == (1, 1, 1, 256, 256)
    inner = (..., slice(48, 208), slice(48, 208))
    torch.testing.assert_close(found[inner], slanted(target)[inner], rtol=0, atol=0.4 / 50.0)


def test_every_sample_and_target_looks_at_its_own_frames() -> None:
    frames = Views.stack([small_views(4, seed=s) for s in range(2)])
    frames = dataclasses.replace(frames, c2w=frames.c2w + 0.0)
    rho = 0.2 + torch.rand(2, 4, 1, *frames.hw)
    chosen = torch.tensor([[[0, 2], [3, 1]], [[1, 1], [2, 0]]])
    both = warped(frames[1:3], frames, chosen, rho)
    for b in range(2):
        for v in range(2):
            sample, own = frames.samples()[b].batched(), chosen[b : b + 1, v : v + 1]
            alone = warped(sample[1 + v], sample, own, rho[b : b + 1])
            torch.testing.assert_close(both[b : b + 1, v : v + 1], alone)


def test_what_moves_is_carried_to_its_place_at_the_targets_moment() -> None:
    frame, target = cameras([0.0]), cameras([0.0])
    target = dataclasses.replace(target, time=torch.tensor([[0.2]]))
    board = ray(frame)[0, 0].abs().amax(-1) < 0.25
    rho = torch.where(board, 1.0, 0.25)[None, None, None]
    moving = board.float()[None, None, None]
    # 1.5 units a second to the right for what moves; what stands ignores its velocity
    velocity = torch.zeros(1, 1, 3, *HW)
    velocity[:, :, 0] = 1.5
    layers = Layers(rho, moving, velocity, torch.ones_like(rho))
    found = carried(target, frame, everything(1, 1), layers)
    at = ray(target)[0, 0] - torch.tensor([0.3, 0.0])
    inner, outer = at.abs().amax(-1) < 0.25 - 0.03, at.abs().amax(-1) > 0.25 + 0.03
    assert (found.inverse_depth[0, 0, 0][inner] == 1.0).all()
    assert (found.inverse_depth[0, 0, 0][outer] < 0.3).all()
    assert (found.moving[0, 0, 0][inner] == 1.0).all()
    torch.testing.assert_close(found.velocity[0, 0, 0][inner], torch.full((int(inner.sum()),), 1.5))


def test_an_unsure_depth_counts_where_no_surer_one_lands() -> None:
    frames, target = cameras([0.0, 0.0]), cameras([0.0])
    rho = torch.tensor([0.9, 0.3])[None, :, None, None, None].repeat(1, 1, 1, *HW)
    nothing = torch.zeros_like(rho)
    sure = torch.tensor([0.2, 0.9])[None, :, None, None, None].repeat(1, 1, 1, *HW)
    sure[:, 1, :, :, 32:] = 0.1
    layers = Layers(rho, nothing, nothing.repeat(1, 1, 3, 1, 1), sure)
    # no view is contradicted by another: they are too few to say
    found = carried(target, frames[:1], everything(1, 1), layers[:1]).inverse_depth
    torch.testing.assert_close(found, torch.full_like(found, 0.9))
    rules = (WarpConfig(), ConsistencyConfig(seen_through=1e-6))
    both = forward_warped(SourceViews.of(target, frames, everything(1, 2)), layers, *rules)
    torch.testing.assert_close(both.inverse_depth[..., :31], torch.full((1, 1, 1, 64, 31), 0.3))
    torch.testing.assert_close(both.inverse_depth[..., 33:], torch.full((1, 1, 1, 64, 31), 0.9))
