"""Depth of large pictures is that of smaller ones, whose cameras see the same."""

import pytest
import torch

from fsm.datasets.open import open_clip
from fsm.errors import InputError
from fsm.renderers.stereo.config import StereoConfig
from fsm.renderers.stereo.pipeline import Stereo
from fsm.views import SceneFrame

CONFIG = StereoConfig(size=32)


@pytest.mark.parametrize(
    ("hw", "reduced"),
    [((32, 32), (32, 32)), ((63, 64), (63, 64)), ((64, 64), (32, 32)), ((50, 99), (25, 49))],
)
def test_large_pictures_are_shrunk_by_whole_factors(
    hw: tuple[int, int], reduced: tuple[int, int]
) -> None:
    views = open_clip("demo").views([0, 9], hw).batched()
    found = Stereo(CONFIG).reduced(views)
    assert found.hw == reduced
    torch.testing.assert_close(
        found.intrinsics[..., ::2] / reduced[1], views.intrinsics[..., ::2] / hw[1]
    )


def test_surfaces_of_large_pictures_are_those_of_small_ones() -> None:
    inputs = open_clip("demo").views(range(0, 24, 4), (64, 64)).batched()
    views = SceneFrame.fit(inputs).to_model(inputs)
    torch.manual_seed(0)
    stereo = Stereo(CONFIG).eval()
    small = stereo.reduced(views)
    found, expected = stereo.surfaces(views, 3), stereo.surfaces(small, 3)
    torch.testing.assert_close(found.inverse_depth, expected.inverse_depth)
    assert torch.equal(found.turns.kept, expected.turns.kept)
    assert found.resized(views.hw).side == 64 // small.hw[0] > 1


def test_too_small_a_size_is_one_sentence() -> None:
    with pytest.raises(InputError, match="size is 8"):
        StereoConfig(size=8)
