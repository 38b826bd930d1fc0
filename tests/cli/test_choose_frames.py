import torch

from fsm.cli.reconstruct import choose_frames, only_turns
from fsm.views import Views


def test_a_film_is_spread_over_its_frames() -> None:
    times = [i / 10 for i in range(10)]
    assert choose_frames(range(10), 4, 0, times) == choose_frames(range(10), 4, 0) == [0, 3, 6, 9]
    # in the order of time, whatever the order of the frames
    assert choose_frames(range(10), 2, 0, times[5:] + times[:5]) == [4, 5]


def test_a_static_capture_is_spread_over_its_photographs() -> None:
    assert choose_frames(range(10), 4, 0, [0.0] * 10) == [0, 3, 6, 9]


def test_a_rig_gives_whole_moments_where_several_fit() -> None:
    times = [float(i % 6) for i in range(24)]  # four cameras, one after the other
    chosen = choose_frames(range(24), 13, 0, times)
    assert len(chosen) == 12
    assert {i % 6 for i in chosen} == {0, 2, 5}
    assert choose_frames(range(24), 0, 0, times) == list(range(24))


def test_a_rig_gives_other_cameras_at_every_moment_where_one_fits() -> None:
    times = [float(i % 6) for i in range(24)]
    chosen = choose_frames(range(24), 6, 0, times)
    assert sorted(i % 6 for i in chosen) == [0, 1, 2, 3, 4, 5]
    assert {i // 6 for i in chosen} == {0, 1, 2, 3}
    assert len(choose_frames(range(24), 1, 0, times)) == 1


def test_a_camera_that_only_turns_is_told_from_one_that_moves_or_stands() -> None:
    c2w = torch.eye(4).repeat(2, 1, 1)
    views = Views(c2w, torch.ones(2, 4), torch.arange(2.0), (16, 16))
    assert not only_turns(views)
    angle = torch.tensor(0.1)
    c2w[1, 0, 0], c2w[1, 0, 2] = angle.cos(), angle.sin()
    c2w[1, 2, 0], c2w[1, 2, 2] = -angle.sin(), angle.cos()
    assert only_turns(views)
    c2w[1, 0, 3] = 0.1
    assert not only_turns(views)
