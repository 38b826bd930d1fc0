"""Turns of the frames of a film: what the moments around a frame show is left out of it."""

import dataclasses

import pytest
import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.stereo.config import KeyFrameConfig
from fsm.renderers.stereo.fusion import Surfaces
from fsm.renderers.stereo.key_frames import moments_around, take_turns
from fsm.views import Views

HW = (24, 32)
CONFIG = KeyFrameConfig(moments=5)


def film(moments: int, baseline: float = 0.0, cameras: int = 1) -> tuple[Views, Tensor]:
    """A gentle wave on the plane z = 2, seen by cameras in a row; and its inverse depth."""
    n = moments * cameras
    c2w = torch.eye(4).repeat(n, 1, 1)
    moment = torch.arange(n) // cameras
    c2w[:, 0, 3] = baseline * moment + 0.5 * (torch.arange(n) % cameras)
    intrinsics = torch.tensor([32.0, 32.0, 16.0, 12.0]).expand(n, 4)
    x = (torch.arange(HW[1]) + 0.5 - 16.0) / 32.0 * 2.0
    wave = 0.5 + 0.3 * torch.sin(2.0 * (x + c2w[:, :1, 3]))
    rgb = wave[:, None, None].expand(n, 3, *HW).contiguous()
    views = Views(c2w, intrinsics, moment / moments, HW, rgb)
    return views.batched(), torch.full((1, n, 1, *HW), 0.5)


@pytest.mark.parametrize(("baseline", "cameras"), [(0.0, 1), (0.01, 1), (0.0, 3)])
def test_every_other_moment_of_a_plane_is_left_out(baseline: float, cameras: int) -> None:
    views, rho = film(7, baseline, cameras)
    turns = take_turns(views, rho, CONFIG)
    inner = (..., slice(2, -2))
    kept = turns.kept.view(7, cameras, *HW)[inner].float().mean((1, 2, 3))
    assert kept.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    for gap in (turns.before, turns.after):
        whole = gap.view(7, cameras, *HW)[::2][inner]
        torch.testing.assert_close(whole, torch.full_like(whole, 2.0 / 7.0))


@pytest.mark.parametrize("what", ["colour", "depth"])
def test_what_the_moments_around_do_not_show_is_kept(what: str) -> None:
    views, rho = film(7)
    assert views.rgb is not None
    block = (slice(None), 3, slice(None), slice(8, 16), slice(8, 16))
    if what == "colour":
        views.rgb[block] += 0.1
    else:
        rho[block] *= 2.0
    turns = take_turns(views, rho, CONFIG)
    assert bool(turns.kept[block].all())
    assert int(turns.kept[:, 3].sum()) == 64
    # the moments beside it do not outlast it there
    beside = (slice(None), 2, slice(None), slice(8, 16), slice(8, 16))
    torch.testing.assert_close(turns.after[beside], torch.full((1, 1, 8, 8), 1.0 / 7.0))
    torch.testing.assert_close(turns.before[beside], torch.full((1, 1, 8, 8), 2.0 / 7.0))


def test_a_film_of_few_moments_is_kept_whole() -> None:
    views, rho = film(7)
    turns = take_turns(views, rho, KeyFrameConfig(moments=8))
    assert bool(turns.kept.all())
    before, after = moments_around(views.time)
    torch.testing.assert_close(turns.before[..., 0, 0, 0], before)
    torch.testing.assert_close(turns.after[..., 0, 0, 0], after)


def test_the_order_of_views_changes_nothing() -> None:
    views, rho = film(7, 0.01)
    order = torch.tensor([3, 0, 6, 2, 5, 1, 4])
    turns, other = take_turns(views, rho, CONFIG), take_turns(views[order], rho, CONFIG)
    for name in ("kept", "before", "after"):
        assert torch.equal(getattr(turns, name)[:, order], getattr(other, name))


def test_moments_around() -> None:
    before, after = moments_around(torch.tensor([[0.0, 3.0, 1.0, 1.5, 1.0], [2.0] * 5]))
    torch.testing.assert_close(before, torch.tensor([[1.0, 1.5, 1.0, 0.5, 1.0], [1.0] * 5]))
    torch.testing.assert_close(after, torch.tensor([[1.0, 1.5, 0.5, 1.5, 0.5], [1.0] * 5]))


def test_surfaces_of_larger_pictures_keep_their_turns() -> None:
    views, rho = film(7)
    turns = take_turns(views, rho, CONFIG)
    surfaces = Surfaces(rho, torch.zeros_like(turns.kept), turns).resized((48, 64))
    assert surfaces.side == 2
    assert torch.equal(surfaces.turns.kept[..., ::2, 1::2], turns.kept)
    torch.testing.assert_close(surfaces.inverse_depth, torch.full((1, 7, 1, 48, 64), 0.5))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="moments is 2"):
        KeyFrameConfig(moments=2)
    with pytest.raises(InputError, match="colour"):
        dataclasses.replace(CONFIG, colour=0.0)
