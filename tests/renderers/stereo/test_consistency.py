"""Which depths other views contradict: a wall, a board before it, and what was never there, in
closed form.
"""

import pytest
import torch

from fsm.renderers.stereo.config import ConsistencyConfig
from fsm.renderers.stereo.consistency import contradicted, other_sources
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Views
from tests.renderers.stereo.test_forward_warp import HW, cameras, everything, ray, warped

# Inverse depths of a wall and of a square board before it, and half the board's side.
WALL, BOARD, HALF = 0.25, 1.0, 0.25
# Pixels of a view that show the wall.
FLOATER = (slice(2, 10), slice(44, 54))


def scene(frames: Views) -> torch.Tensor:
    """Inverse depth of the board before the wall [1 v 1 h w]."""
    x = frames.c2w[..., 0, 3]
    at = ray(frames) / BOARD + torch.stack([x, torch.zeros_like(x)], -1)[:, :, None, None]
    return torch.where(at.abs().amax(-1) < HALF, BOARD, WALL)[:, :, None]


def judged(frames: Views, rho: torch.Tensor) -> torch.Tensor:
    places, others = other_sources(everything(1, len(frames)))
    views = SourceViews.of(frames, frames, places)
    return contradicted(views, others, rho, at_rest(rho), ConsistencyConfig())[0, :, 0]


def at_rest(rho: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(rho).repeat(1, 1, 3, 1, 1)


def test_what_hides_and_what_is_hidden_contradict_nothing() -> None:
    frames = cameras([-0.3, 0.0, 0.2, 0.4])
    assert not judged(frames, scene(frames)).any()


def test_a_depth_that_others_see_through_is_contradicted_and_nothing_else() -> None:
    frames = cameras([-0.3, 0.0, 0.2])
    rho = scene(frames)
    rho[0, 1, 0][FLOATER] = 0.6
    expected = torch.zeros(3, *HW, dtype=torch.bool)
    expected[1][FLOATER] = True
    assert torch.equal(judged(frames, rho), expected)


@pytest.mark.parametrize(("step", "lost"), [(0.1, 0.0), (0.6, 1.0)])
def test_what_moves_by_its_own_size_between_views_is_contradicted(step: float, lost: float) -> None:
    frames = cameras([0.0, 0.0, 0.0])
    moved = torch.tensor([-1.0, 0.0, 1.0])[:, None, None, None] * torch.tensor([1.0, 0.0])
    at = ray(frames) + step * moved
    board = at.abs().amax(-1) < HALF / 2
    rho = torch.where(board, BOARD, WALL)[:, :, None]
    inner = at[0, 1].abs().amax(-1) < HALF / 2 - 1.5 / 50.0
    assert float(judged(frames, rho)[1][inner].float().mean()) == lost


def test_what_moves_with_its_known_motion_is_not_contradicted() -> None:
    frames = cameras([0.0, 0.0, 0.0])
    times = frames.time - frames.time[:, 1:2]
    at = ray(frames) - 6.0 * times[..., None, None, None] * torch.tensor([1.0, 0.0])
    board = at.abs().amax(-1) < HALF / 2
    rho = torch.where(board, BOARD, WALL)[:, :, None]
    motion = torch.zeros(1, 3, 3, *HW)
    motion[:, :, 0] = 6.0 * board * BOARD
    places, others = other_sources(everything(1, 3))
    views = SourceViews.of(frames, frames, places)
    inner = at[0, 1].abs().amax(-1) < HALF / 2 - 1.5 / 50.0
    lost = contradicted(views, others, rho, motion, ConsistencyConfig())[0, 1, 0]
    assert judged(frames, rho)[1][inner].all()
    assert not lost[inner].any()


def test_one_view_that_found_the_same_is_enough() -> None:
    frames = cameras([-0.3, 0.0, 0.0, 0.2])
    rho = torch.full((1, 4, 1, *HW), WALL)
    rho[0, 1:3, 0][:, FLOATER[0], FLOATER[1]] = 0.6
    assert not judged(frames, rho)[1:3].any()


def test_a_view_does_not_support_itself() -> None:
    frames = cameras([0.0, 0.2])
    rho = torch.full((1, 2, 1, *HW), WALL)
    rho[0, 0, 0][FLOATER] = 0.6
    chosen = torch.tensor([[[0, 0, 1]]])
    places, others = other_sources(chosen)
    assert places.tolist() == [[[1, 2], [2, 0], [0, 1]]]
    assert others.tolist() == [[[False, True], [True, False], [True, True]]]
    slots = frames[chosen[0, 0]]
    views, depths = SourceViews.of(slots, slots, places), rho[:, chosen[0, 0]]
    found = contradicted(views, others, depths, at_rest(depths), ConsistencyConfig())[0, :, 0]
    assert found[0][FLOATER].all()
    assert torch.equal(found[0], found[1])
    nobody = torch.zeros_like(others)
    assert not contradicted(views, nobody, depths, at_rest(depths), ConsistencyConfig()).any()


def test_what_is_contradicted_is_not_warped_to_a_target() -> None:
    frames, target = cameras([-0.3, 0.0, 0.2]), cameras([0.1])
    rho = torch.full((1, 3, 1, *HW), WALL)
    clean = warped(target, frames, everything(1, 3), rho)
    rho[0, 1, 0][FLOATER] = 0.6
    torch.testing.assert_close(warped(target, frames, everything(1, 3), rho), clean)


def test_every_sample_and_target_is_judged_by_its_own_views() -> None:
    one, other = cameras([-0.3, 0.0, 0.2]), cameras([0.1, 0.0, 0.3])
    frames = Views.stack([v.samples()[0] for v in (one, other)])
    rho = 0.2 + 0.5 * torch.rand(2, 3, 1, *HW)
    places, others = other_sources(everything(1, 3).expand(2, -1, -1))
    views = SourceViews.of(frames, frames, places)
    both = contradicted(views, others, rho, at_rest(rho), ConsistencyConfig())
    for b, own in enumerate((one, other)):
        assert torch.equal(both[b], judged(own, rho[b : b + 1])[:, None])
        assert 0.0 < float(both[b].float().mean()) < 0.9
