"""Tracks against a plane that moves in closed form."""

import dataclasses

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.motion.rigid import RigidConfig, rigid_motions
from fsm.renderers.motion.tracks import TrackConfig, lift, track
from fsm.views import Views

HW = (64, 96)
STEP, DEPTH, FOCAL = 3, 2.0, 90.0


def sliding(frames: int = 5, shuffled: bool = False) -> Views:
    """A textured plane at depth 2 that moves to the right by ``STEP`` pixels a frame."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 20, 32, generator=g)
    wide = torch.nn.functional.interpolate(coarse, (HW[0], 140), mode="bicubic").clamp(0, 1)[0]
    start = 40
    rgb = torch.stack(
        [wide[..., start - STEP * i : start - STEP * i + HW[1]] for i in range(frames)]
    )
    intrinsics = torch.tensor([FOCAL, FOCAL, HW[1] / 2, HW[0] / 2]).expand(frames, 4)
    time = torch.arange(frames).float()
    views = Views(torch.eye(4).expand(frames, 4, 4), intrinsics, time, HW, rgb)
    return views[list(reversed(range(frames)))] if shuffled else views


@pytest.mark.parametrize("shuffled", [False, True])
def test_tracks_follow_a_plane_that_slides(shuffled: bool) -> None:
    views = sliding(shuffled=shuffled)
    tracks = track(views)
    assert tracks.times.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    whole = tracks.seen.all(0)
    assert int(whole.sum()) > 150
    moved = tracks.pixels[-1, whole] - tracks.pixels[0, whole]
    torch.testing.assert_close(
        moved.median(0).values, torch.tensor([4.0 * STEP, 0.0]), atol=0.1, rtol=0.0
    )


def test_tracks_end_at_the_border_and_new_ones_begin() -> None:
    tracks = track(sliding())
    inside = (tracks.pixels >= 0) & (tracks.pixels < torch.tensor([HW[1], HW[0]]))
    assert bool(inside.all(-1)[tracks.seen].all())
    assert bool((tracks.seen[0] & ~tracks.seen[-1]).any())
    assert bool((~tracks.seen[0] & tracks.seen[-1]).any())
    # consecutive moments
    assert int(tracks.seen.int().diff(dim=0).abs().sum(0).max()) <= 2


def test_lifted_tracks_give_the_planes_motion() -> None:
    views = sliding()
    rho = torch.full((5, 1, *HW), 1.0 / DEPTH)
    motions = rigid_motions(lift(track(views), views, rho), RigidConfig(tolerance=0.015))
    assert motions is not None
    carried = motions.trajectories.relative(0.0, 4.0)
    middle = torch.tensor([0.0, 0.0, DEPTH])
    went = carried[0][0] @ middle + carried[1][0] - middle
    expected = torch.tensor([4.0 * STEP * DEPTH / FOCAL, 0.0, 0.0])
    torch.testing.assert_close(went, expected, atol=0.01, rtol=0.0)


def test_lifting_leaves_out_what_stands_and_depth_that_is_not() -> None:
    views = sliding()
    tracks = track(views)
    rho = torch.full((5, 1, *HW), 1.0 / DEPTH)
    assert lift(tracks, views, rho, torch.zeros_like(rho)).points.shape[1] == 0
    rho[2] = torch.nan
    rho[3, :, : HW[0] // 2] = 0.0
    points = lift(tracks, views, rho)
    assert not bool(points.seen[2].any())
    assert bool(points.points.isfinite().all())
    assert int(points.seen[3].sum()) < int(points.seen[4].sum())


def test_one_frame_and_one_moment_have_no_tracks() -> None:
    one = sliding(1)
    assert track(one).pixels.shape[1] == 0
    together = dataclasses.replace(sliding(3), time=torch.zeros(3))
    tracks = track(together)
    assert tracks.pixels.shape[1] == 0
    assert rigid_motions(lift(tracks, together, torch.ones(3, 1, *HW))) is None


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(InputError, match="stride"):
        TrackConfig(stride=0)
    with pytest.raises(InputError, match="pictures"):
        track(sliding().without_rgb())
