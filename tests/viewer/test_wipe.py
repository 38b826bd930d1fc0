"""Two pictures under one line, against closed forms."""

import pytest
import torch

from fsm.viewer.wipe import LINE, Wipe, joined

LEFT, RIGHT = torch.rand(3, 4, 8), torch.rand(3, 4, 8)


def test_the_line_stands_at_its_share_of_the_width() -> None:
    assert [Wipe(None, at).column(90) for at in (0.0, 0.5, 1.0)] == [0, 45, 90]
    assert Wipe("b", 0.01).column(10) == 0
    assert Wipe("b", 0.99).column(10) == 10
    assert [Wipe(None, at).column(90) for at in (-1.0, 2.0)] == [0, 90]


@pytest.mark.parametrize("column", range(1, 8))
def test_each_side_is_its_source_exactly(column: int) -> None:
    picture = joined(LEFT, RIGHT, column)
    assert torch.equal(picture[..., :column], LEFT[..., :column])
    assert torch.equal(picture[..., column + 1 :], RIGHT[..., column + 1 :])
    assert torch.equal(picture[..., column], torch.tensor(LINE)[:, None].expand(3, 4))


def test_only_one_side_is_seen_without_a_line() -> None:
    assert torch.equal(joined(LEFT, RIGHT, 0), RIGHT)
    assert torch.equal(joined(LEFT, RIGHT, 8), LEFT)


def test_the_line_stays_as_thin_in_a_large_picture() -> None:
    left, right = torch.zeros(3, 2, 1600), torch.ones(3, 2, 1600)
    picture = joined(left, right, 800)
    line = (picture == torch.tensor(LINE)[:, None, None]).all(0)
    assert line[0].nonzero()[:, 0].tolist() == [798, 799, 800, 801]
    assert torch.equal(left, torch.zeros(3, 2, 1600))  # what is given stays


def test_a_line_at_the_edge_stays_in_the_picture() -> None:
    picture = joined(torch.zeros(3, 1, 1600), torch.ones(3, 1, 1600), 1)
    assert picture[0, 0, :4].tolist() == [1.0, 1.0, 1.0, 1.0]
