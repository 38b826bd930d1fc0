"""The median against numpy's, and in its compiled and plain forms."""

import numpy as np
import pytest
import torch

from fsm.renderers.stereo.median import median, plain_median


@pytest.mark.parametrize("side", [3, 5, 7])
def test_is_the_median_of_every_square(side: int):
    maps = torch.rand(2, 2, 1, 9, 11)
    padded = np.pad(maps[:, :, 0].numpy(), [(0, 0), (0, 0), *[(side // 2,) * 2] * 2], mode="edge")
    squares = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(2, 3))
    assert np.array_equal(median(maps, side)[:, :, 0].numpy(), np.median(squares, (-2, -1)))


def test_both_forms_agree_to_the_bit():
    maps = torch.rand(1, 3, 1, 16, 12)
    for side in (3, 5):
        plain = plain_median(maps.flatten(0, 1), side).view_as(maps)
        assert torch.equal(median(maps, side), plain)
        assert torch.equal(median(maps.double(), side), plain.double())


def test_takes_a_speck_away_and_keeps_an_edge():
    maps = torch.full((1, 1, 1, 16, 16), 0.2)
    maps[..., 8:] = 1.0
    specked = maps.clone()
    specked[..., 4, 3] = 2.0
    assert torch.equal(median(specked, 5), maps)
