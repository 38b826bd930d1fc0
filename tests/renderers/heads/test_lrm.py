"""The published Gaussian decoder channel by channel, against the table of its variants."""

import pytest
import torch
from torch import nn

from fsm.errors import InputError
from fsm.rays import pixel_rays
from fsm.renderers.heads.lrm import CHANNELS, LrmHead, LrmHeadConfig
from tests.small import small_views


class Fixed(nn.Module):
    """Stands in for the linear layer: the same output whatever the token."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values.expand(*x.shape[:-1], -1)


def decoded(variant: str, **config):
    """Channels of one 8-pixel patch [64 20], views, and the Gaussians they become."""
    views = small_views(2).batched()
    head = LrmHead(32, 8, LrmHeadConfig(variant=variant, **config))  # pyright: ignore[reportArgumentType]
    channels = 3.0 * torch.randn(64, sum(CHANNELS))
    head.linear = Fixed(channels.flatten())  # pyright: ignore[reportAttributeAccessIssue]
    gaussians = head.gaussians(torch.randn(1, 2, 6, 32), views, views)
    assert len(gaussians) == 1
    return channels, views, gaussians[0]


def at_pixel(channels: torch.Tensor, y: int, x: int) -> list[torch.Tensor]:
    return list(channels[(y % 8) * 8 + x % 8].split(CHANNELS))


@pytest.mark.parametrize(("view", "y", "x"), [(0, 0, 0), (1, 13, 21)])
def test_scene_level_rules(view: int, y: int, x: int) -> None:
    channels, views, g = decoded("fsm")
    xyz, time, colour, scale, lasting, left, right, opacity = at_pixel(channels, y, x)
    i = view * 16 * 24 + y * 24 + x
    origin, direction = (t[0, view, :, y, x] for t in pixel_rays(views))
    torch.testing.assert_close(g.means[i], origin + 100.0 * xyz.mean().sigmoid() * direction)
    torch.testing.assert_close(g.times[i], time[0])
    torch.testing.assert_close(g.sh[i, 0], colour)
    torch.testing.assert_close(g.scales[i], scale.clamp_max(10.0).exp())
    torch.testing.assert_close(g.time_scales[i], lasting.clamp_max(0.0).exp()[0])
    torch.testing.assert_close(g.left[i], left)
    torch.testing.assert_close(g.right[i], right)
    torch.testing.assert_close(g.opacities[i], opacity.sigmoid()[0])


def test_object_level_rules() -> None:
    channels, views, g = decoded("4d-lrm")
    y, x = 5, 10
    xyz, _, _, scale, lasting, _, _, opacity = at_pixel(channels, y, x)
    i = 16 * 24 + y * 24 + x
    origin, direction = (t[0, 1, :, y, x] for t in pixel_rays(views))
    depth = 0.1 + 4.4 * xyz.mean().sigmoid()
    torch.testing.assert_close(g.means[i], (origin + depth * direction).clamp(-1.0, 1.0))
    torch.testing.assert_close(g.scales[i], (scale - 2.3).exp().clamp_max(0.3))
    torch.testing.assert_close(g.time_scales[i], (lasting - 2.3).exp().clamp_max(1.0)[0])
    torch.testing.assert_close(g.opacities[i], (opacity - 2.0).sigmoid()[0])
    assert float(g.means.abs().max()) <= 1.0
    assert float(g.scales.max()) == pytest.approx(0.3)


def test_near_and_far_replace_the_variants_own() -> None:
    assert LrmHeadConfig().depth_range == (0.0, 100.0)
    assert LrmHeadConfig(variant="4d-lrm").depth_range == (0.1, 4.5)
    assert LrmHeadConfig(near=0.01, far=400.0).depth_range == (0.01, 400.0)
    with pytest.raises(InputError, match="near is 5"):
        LrmHeadConfig(near=5.0, far=1.0)


def test_background_is_white() -> None:
    views = small_views(2).batched()
    assert torch.equal(LrmHead(32, 8, LrmHeadConfig()).background(views), torch.ones(1, 3))
