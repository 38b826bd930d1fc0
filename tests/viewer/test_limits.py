"""Near and far, against closed forms."""

import math

import pytest
import torch

from fsm.errors import InputError
from fsm.viewer.limits import Limits, within
from fsm.views import Rendering


def test_a_pair_of_numbers_is_a_range_and_zero_no_limit() -> None:
    assert Limits.of((0, 0), "Near, far") == Limits()
    assert Limits.of((1, 0), "Near, far") == Limits(1.0, math.inf)
    assert Limits.of((0, 2), "Near, far") == Limits(0.0, 2.0)
    assert Limits().open
    assert not Limits(1.0).open
    assert not Limits(far=1.0).open


@pytest.mark.parametrize(
    "pair", [(2.0, 1.0), (1.0, 1.0), (-1.0, 0.0), (math.nan, 0.0), (0.0, math.nan), (math.inf, 0)]
)
def test_what_is_no_range_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(InputError, match=r"Near, far: .* is no range"):
        Limits.of(pair, "Near, far")


def test_open_limits_change_nothing() -> None:
    picture = torch.rand(3, 2, 3)
    assert within(picture, Rendering(picture[None]), Limits()) is picture


def test_what_is_outside_is_black() -> None:
    picture = torch.rand(3, 1, 7) + 0.1
    depth = torch.tensor([0.0, math.inf, math.nan, 0.5, 1.0, 2.0, 2.5]).view(1, 1, 1, 7)
    shown = within(picture, Rendering(picture[None], depth=depth), Limits(1.0, 2.0))
    kept = torch.tensor([0, 0, 0, 0, 1, 1, 0]).bool()
    assert torch.equal(shown[..., kept], picture[..., kept])
    assert bool((shown[..., ~kept] == 0).all())


def test_without_depth_nothing_can_be_limited() -> None:
    with pytest.raises(InputError, match="no depth to limit"):
        within(torch.zeros(3, 1, 1), Rendering(torch.zeros(1, 3, 1, 1)), Limits(1.0))
