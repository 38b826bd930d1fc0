"""Compiled projection, sampling, windows, forward warp and occlusion against plain torch."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsm.renderers.stereo import consistency, forward_warp, occlusion, sources, windows
from fsm.renderers.stereo.config import ConsistencyConfig, LayerConfig, WarpConfig
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.subpixel import gradient_maps, plain_gradient_maps
from fsm.views import resize_images
from tests.renderers.stereo.test_cost_volume_cpu import cameras

# the second is no multiple of 16 pixels, the last is only just large enough
SIZES = [((16, 24), (16, 24)), ((7, 21), (9, 14)), ((4, 4), (1, 1))]
# Share of pixels at which rounding may decide otherwise: places on the border between two pixels.
TIES = 2e-3


def example(
    hw: tuple[int, int], views_hw: tuple[int, int], seed: int
) -> tuple[SourceViews, Tensor]:
    """Four source views each of three reference views of two samples, and smooth inverse depths."""
    reference, views = cameras(2, 3, hw, seed, 0.1), cameras(2, 5, views_hw, seed + 50, 0.1)
    index, _ = nearest_views(reference, views, 4)
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(6, 1, 3, 3, generator=g) * 0.9
    rho = F.interpolate(coarse, size=hw, mode="bilinear").view(2, 3, 1, *hw)
    return SourceViews.of(reference, views, index), rho


def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiled code from here on."""
    for module in (sources, consistency, occlusion, forward_warp):
        monkeypatch.setattr(module, "compiles", lambda *_: False)


@pytest.mark.parametrize(("hw", "views_hw"), SIZES)
def test_points_are_projected_to_where_plain_torch_has_them(hw, views_hw) -> None:
    views, rho = example(hw, views_hw, 0)
    assert sources.compiles(hw, rho)
    # cameras stand up to a unit apart: many of these points are behind a source view
    motion = 0.2 * torch.randn(*rho.shape[:2], 3, *hw, generator=torch.Generator().manual_seed(0))
    found, expected = views.project(6.0 * rho, motion), views.project_planes(6.0 * rho, motion)
    for name in ("pixels", "inverse_depth", "scale"):
        a, b = getattr(found, name), getattr(expected, name)[:, :, :, 0]
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert 0.0 < float((found.scale == 1.0).float().mean()) < 0.9


@pytest.mark.parametrize(("hw", "views_hw"), SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_samples_are_those_of_plain_torch(hw, views_hw, mode) -> None:
    views, _ = example(hw, views_hw, 1)
    g = torch.Generator().manual_seed(1)
    maps = torch.rand(2, 5, 3, *views_hw, generator=g)
    size = torch.tensor([views_hw[1], views_hw[0]])
    pixels = (torch.rand(2, 3, 4, *hw, 2, generator=g) * 4.0 - 1.5) * size
    found = sources.sample_maps(maps, views.index, pixels, mode)
    expected = sources.plain_samples(maps, views.index, pixels, mode)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], expected[1])
    assert 0.0 < float(found[1].mean()) < 1.0


def test_gradients_are_those_of_plain_torch() -> None:
    views, rho = example((16, 24), (16, 24), 2)
    maps = torch.rand(2, 5, 3, 16, 24)
    gradients = []
    for project in (views.project, views.project_planes):
        leaf = rho.clone().requires_grad_()
        pixels = project(leaf).pixels.view(2, 3, 4, 16, 24, 2)
        samples, _ = views.sample(maps, pixels)
        gradients.append(torch.autograd.grad(samples.square().sum(), leaf)[0])
    assert float(gradients[0].abs().max()) > 0.0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_depths_are_contradicted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rho = example((24, 40), (24, 40), seed)
    reference = cameras(2, 3, (24, 40), seed, 0.1)
    index = torch.tensor([[1, 2], [0, 2], [0, 1]]).expand(2, 3, 2)
    views = SourceViews.of(reference, reference, index)
    counted = torch.rand(2, 3, 2) < 0.8
    motion = 0.1 * torch.randn(2, 3, 3, 24, 40)
    given = (views, counted, rho, motion, ConsistencyConfig())
    found = consistency.contradicted(*given)
    plainly(monkeypatch)
    expected = consistency.contradicted(*given)
    assert 0.0 < float(expected.float().mean()) < 1.0
    assert float((found != expected).float().mean()) < TIES


@pytest.mark.parametrize("hw", [(24, 40), (17, 23), (48, 80)])
def test_the_same_depths_arrive(hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    views, _ = example(hw, (24, 40), 3)
    g = torch.Generator().manual_seed(3)
    layers = some_layers(g)
    found = warped(views, layers)
    leaf = layers.inverse_depth.clone().requires_grad_()
    with_gradient = warped(views, dataclasses.replace(layers, inverse_depth=leaf))
    assert with_gradient.requires_grad
    plainly(monkeypatch)
    expected = warped(views, layers)
    assert float(expected.amax((0, 1, 3, 4)).min()) > 0.1
    for other in (found, with_gradient.detach()):
        assert float(((other - expected).abs() > 1e-4).float().mean()) < 5 * TIES


def some_layers(g: torch.Generator) -> Layers:
    """Layers of five views of two samples; some depths are sure, some pixels move."""
    depth, moving, confidence = torch.rand(3, 2, 5, 1, 24, 40, generator=g)
    velocity = 0.3 * torch.randn(2, 5, 3, 24, 40, generator=g)
    return Layers(depth * 0.9 - 0.05, moving, velocity, confidence)


def warped(views: SourceViews, layers: Layers) -> Tensor:
    """All maps of the warped layers, [b v 6 h w]."""
    found = forward_warp.forward_warped(views, layers, WarpConfig(), ConsistencyConfig())
    maps = (found.inverse_depth, found.moving, found.velocity, found.confidence)
    return torch.cat(maps, 2)


@pytest.mark.parametrize(("hw", "views_hw"), SIZES)
def test_the_same_points_are_visible(hw, views_hw, monkeypatch: pytest.MonkeyPatch) -> None:
    views, rho = example(hw, views_hw, 4)
    pixels = views.project(rho).pixels
    found = occlusion.visible(views, pixels, rho, LayerConfig(slack=0.02))
    plainly(monkeypatch)
    expected = occlusion.visible(views, pixels, rho, LayerConfig(slack=0.02))
    assert float((found != expected).float().mean()) < TIES


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bits_do_not_depend_on_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsm.renderers.stereo import sampling_cpu, warp_cpu

    views, _ = example((24, 40), (24, 40), 5)
    layers = some_layers(torch.Generator().manual_seed(5))
    expected = warped(views, layers)
    for module in (sampling_cpu, warp_cpu):
        monkeypatch.setattr(module, "workers", lambda: threads)
    assert torch.equal(warped(views, layers), expected)


@pytest.mark.parametrize("hw", [(1, 1), (3, 5), (17, 40), (24, 33)])
@pytest.mark.parametrize("side", [1, 3, 11])
def test_window_means_are_those_of_plain_torch(hw: tuple[int, int], side: int) -> None:
    x = torch.rand(2, 3, 4, *hw, generator=torch.Generator().manual_seed(6))
    found = windows.window_mean(x, side)
    torch.testing.assert_close(found, windows.plain_window_mean(x, side))


@pytest.mark.parametrize("to", [(12, 40), (6, 8), (24, 40), (1, 1), (5, 7)])
def test_shrunk_pictures_are_the_resized_ones(to: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(7))
    for images in (x, x.transpose(0, 1), x.double()):
        torch.testing.assert_close(windows.shrunk(images, to), resize_images(images, to))


@pytest.mark.parametrize("hw", [(2, 2), (7, 21), (16, 24)])
def test_slopes_are_those_of_plain_torch(hw: tuple[int, int]) -> None:
    frames = torch.rand(2, 5, 3, *hw, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(gradient_maps(frames), plain_gradient_maps(frames))
