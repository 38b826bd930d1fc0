"""Groups of tracks against bodies whose motion is known in closed form."""

import math

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.motion.rigid import RigidConfig, rigid_motions
from fsm.renderers.motion.tracks import PointTracks

TIMES = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)
SPIN, DRIFT = 0.8, torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)


def turned(angle: float) -> torch.Tensor:
    """About y."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], dtype=torch.float64)


def seen_at_all(points: torch.Tensor) -> PointTracks:
    """Tracks at ``TIMES``, two units away."""
    n = points.shape[1]
    seen = torch.ones(len(points), n, dtype=torch.bool)
    return PointTracks(TIMES, points, seen, torch.full((n,), 2.0))


def body(
    n: int = 40, centre: float = 0.0, spin: float = SPIN, drift: torch.Tensor = DRIFT, seed: int = 0
) -> PointTracks:
    """Points about (``centre``, 0, 3) that turn about it at ``spin`` and move at ``drift``."""
    g = torch.Generator().manual_seed(seed)
    shape = 0.3 * torch.randn(n, 3, generator=g, dtype=torch.float64)
    place = torch.tensor([centre, 0.0, 3.0], dtype=torch.float64)
    points = torch.stack([shape @ turned(spin * float(t)).T + place + drift * t for t in TIMES])
    return seen_at_all(points)


def joined(*parts: PointTracks) -> PointTracks:
    """Tracks of several bodies."""
    return seen_at_all(torch.cat([p.points for p in parts], 1))


def test_a_body_that_turns_and_moves_is_recovered() -> None:
    motions = rigid_motions(body(), RigidConfig(smoothness=1e-4))
    assert motions is not None
    assert len(motions.trajectories) == 1
    assert motions.group.tolist() == [0] * 40
    turn, shift = motions.trajectories.relative(-0.5, 0.75)
    torch.testing.assert_close(turn[0], turned(SPIN * 1.25), atol=1e-3, rtol=0.0)
    place = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
    expected = place + 0.75 * DRIFT - turned(SPIN * 1.25) @ (place - 0.5 * DRIFT)
    torch.testing.assert_close(shift[0], expected, atol=3e-3, rtol=0.0)


def test_two_bodies_are_two_groups_and_their_neighbourhoods_follow_them() -> None:
    other = body(25, centre=2.5, spin=-0.5, drift=-DRIFT, seed=1)
    tracks = joined(body(), other)
    motions = rigid_motions(tracks)
    assert motions is not None
    assert len(motions.trajectories) == 2
    first, second = motions.group[:40], motions.group[40:]
    assert first.unique().numel() == second.unique().numel() == 1
    assert int(first[0]) != int(second[0])
    shares = motions.shares(tracks.points[3], TIMES[3].expand(65), 0.1)
    torch.testing.assert_close(shares.sum(-1), torch.ones(65, dtype=torch.float64))
    assert torch.equal(shares.argmax(-1), motions.group)
    turn, _ = motions.trajectories.relative(-1.0, 1.0)
    torch.testing.assert_close(turn[int(second[0])], turned(-1.0), atol=3e-3, rtol=0.0)


def test_noise_is_averaged_and_strays_follow_nothing() -> None:
    clean = body(60)
    g = torch.Generator().manual_seed(2)
    noise = 0.004 * torch.randn(clean.points.shape, generator=g, dtype=torch.float64)
    noise[:, 50:] += 0.3 * torch.randn(9, 10, 3, generator=g, dtype=torch.float64)
    motions = rigid_motions(seen_at_all(clean.points + noise))
    assert motions is not None
    assert len(motions.trajectories) == 1
    assert motions.group.tolist() == [0] * 50 + [-1] * 10
    turn, _ = motions.trajectories.relative(-1.0, 1.0)
    torch.testing.assert_close(turn[0], turned(2 * SPIN), atol=0.015, rtol=0.0)


def test_points_that_rest_are_left_out() -> None:
    still = body(20, centre=2.0, spin=0.0, drift=torch.zeros(3, dtype=torch.float64), seed=3)
    motions = rigid_motions(joined(body(), still))
    assert motions is not None
    assert motions.group.tolist() == [0] * 40 + [-1] * 20
    assert rigid_motions(still) is None


@pytest.mark.parametrize("kept", [0, 1])
def test_no_or_one_moment_has_no_motion(kept: int) -> None:
    tracks = body()
    short = PointTracks(TIMES[:kept], tracks.points[:kept], tracks.seen[:kept], tracks.distances)
    assert rigid_motions(short) is None


def test_no_or_few_tracks_have_no_motion() -> None:
    assert rigid_motions(body(0)) is None
    assert rigid_motions(body(5)) is None


def test_tracks_that_end_and_begin_are_of_one_motion() -> None:
    tracks = body(60)
    seen = tracks.seen.clone()
    seen[6:, :25] = False
    seen[:4, 35:] = False
    hidden = torch.where(seen[..., None], tracks.points, torch.zeros_like(tracks.points))
    motions = rigid_motions(
        PointTracks(TIMES, hidden, seen, tracks.distances), RigidConfig(smoothness=1e-4)
    )
    assert motions is not None
    assert motions.group.tolist() == [0] * 60
    turn, _ = motions.trajectories.relative(-1.0, 1.0)
    torch.testing.assert_close(turn[0], turned(2 * SPIN), atol=3e-3, rtol=0.0)


def test_moments_without_tracks_are_finite_and_held() -> None:
    tracks = body()
    seen = tracks.seen.clone()
    seen[5:] = False
    points = torch.where(seen[..., None], tracks.points, torch.full_like(tracks.points, math.nan))
    motions = rigid_motions(PointTracks(TIMES, points, seen, tracks.distances))
    assert motions is not None
    moves = motions.trajectories
    assert bool(moves.quats.isfinite().all())
    assert bool(moves.translations.isfinite().all())
    shares = motions.shares(tracks.points[8], TIMES[8].expand(40), 0.1)
    torch.testing.assert_close(shares, torch.ones(40, 1, dtype=torch.float64))


def test_points_on_a_line_give_a_rotation() -> None:
    g = torch.Generator().manual_seed(4)
    along = torch.randn(30, 1, generator=g, dtype=torch.float64)
    axis = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    points = along * axis + TIMES[:, None, None] * DRIFT
    motions = rigid_motions(seen_at_all(points))
    assert motions is not None
    turn, shift = motions.trajectories.relative(-1.0, 1.0)
    torch.testing.assert_close(turn[0], torch.eye(3, dtype=torch.float64), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(shift[0], 2 * DRIFT, atol=3e-3, rtol=0.0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3"):
        RigidConfig(neighbours=2)
    with pytest.raises(InputError, match="tolerance"):
        RigidConfig(tolerance=0.0)
