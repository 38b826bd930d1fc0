"""Our Gaussian decoder: exact motion, and pictures that are right before anything is learnt."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.heads.pixel_gaussians import (
    PixelGaussianHead,
    PixelGaussianHeadConfig,
)
from fsm.renderers.stereo.config import KeyFrameConfig, StereoConfig, SweepConfig
from fsm.views import Views

DEPTH = 1.6
HW = (64, 64)


def plane(views: Views, shift: float = 0.0) -> Tensor:
    """Smooth texture on the plane z = DEPTH, moving along y by ``shift`` per unit of time: across
    the cameras' own way.
    """
    h, w = views.hw
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    fx, fy, cx, cy = views.intrinsics[..., None, None].unbind(-3)
    position = views.c2w[..., :3, 3, None, None]
    X = (x - cx) / fx * DEPTH + position[..., 0, :, :]
    Y = (y - cy) / fy * DEPTH + position[..., 1, :, :] - shift * views.time[..., None, None]
    # many waves: with few of them the plane would look the same at several depths
    g = torch.Generator().manual_seed(2)
    fx, fy, phase = (torch.randn(3, 12, generator=g) * torch.tensor([[6.0], [6.0], [3.0]]))[
        :, :, None, None, None, None
    ]
    waves = torch.sin(fx * X + fy * Y + phase).unflatten(0, (3, 4)).sum(1)
    return 0.5 + 0.15 * waves.movedim(0, -3)


def clip(frames: int, baseline: float, shift: float = 0.0) -> Views:
    c2w = torch.eye(4).repeat(1, frames, 1, 1)
    c2w[..., 0, 3] = baseline * torch.linspace(-1, 1, frames)
    intrinsics = torch.tensor([60.0, 60.0, 32.0, 32.0]).expand(1, frames, 4)
    views = Views(c2w, intrinsics, torch.linspace(-1, 1, frames)[None], HW)
    return dataclasses.replace(views, rgb=plane(views, shift))


def untrained() -> PixelGaussianHead:
    return PixelGaussianHead(
        32, 8, PixelGaussianHeadConfig(hidden=16, stereo=StereoConfig(sweep=SweepConfig(planes=16)))
    )


def psnr(a: Tensor, b: Tensor) -> float:
    return -10.0 * math.log10(float((a - b).detach()[..., 8:-8, 8:-8].square().mean()))


def test_untrained_it_finds_the_depth_of_a_textured_plane() -> None:
    views = clip(5, baseline=0.25)
    gaussians = untrained().gaussians(torch.randn(1, len(views), 64, 32), views, views)[0]
    depth = gaussians.means[:, 2].view(5, *HW)[:, 8:-8, 8:-8]
    assert float((depth / DEPTH - 1.0).detach().abs().median()) < 0.15


def test_untrained_pictures_are_right_between_frames_and_beside_them() -> None:
    views = clip(5, baseline=0.25, shift=0.2)
    head = untrained()
    gaussians = head.gaussians(torch.randn(1, len(views), 64, 32), views, views)[0]
    between = dataclasses.replace(views[2], time=torch.tensor([[0.25]]), rgb=None).unbatched()
    truth = plane(between, 0.2)
    drawn = rasterize(gaussians.at(0.25), between, background=head.background(views)[0]).rgb
    still = dataclasses.replace(gaussians, left=gaussians.left * 0 + torch.tensor([1.0, 0, 0, 0]))
    still = dataclasses.replace(
        still, right=still.left, scales=gaussians.scales[:, 1:2].expand(-1, 3).contiguous()
    )
    frozen = rasterize(still.at(0.25), between, background=head.background(views)[0]).rgb
    assert psnr(drawn, truth) > 28.0
    assert psnr(drawn, truth) > psnr(frozen, truth) + 5.0  # motion is what makes it right


def test_corrections_start_at_zero() -> None:
    """Tokens say nothing yet: the Gaussians do not depend on them (but through the sweep's context,
    which starts at zero).
    """
    views, head = clip(3, baseline=0.25), untrained()
    a = head.gaussians(torch.randn(1, 3, 64, 32), views, views)[0]
    b = head.gaussians(torch.randn(1, 3, 64, 32), views, views)[0]
    for one, other in zip(a.tensors(), b.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_colours_are_those_of_the_pixels() -> None:
    views, head = clip(3, baseline=0.25), untrained()
    assert views.rgb is not None
    gaussians = head.gaussians(torch.randn(1, len(views), 64, 32), views, views)[0]
    rgb = 0.5 + 0.28209479177387814 * gaussians.sh[:, 0]
    torch.testing.assert_close(rgb, views.rgb[0].permute(0, 2, 3, 1).reshape(-1, 3))
    torch.testing.assert_close(head.background(views)[0], views.rgb[0].mean((0, 2, 3)))


def test_what_stands_is_there_at_all_times_and_once() -> None:
    views = clip(5, baseline=0.25)
    views = dataclasses.replace(views, time=torch.full_like(views.time, -1.0))
    head = untrained()
    surfaces = head.stereo.surfaces(views, 5)
    kept = surfaces.turns.kept
    gaussians = head.gaussians(torch.randn(1, 5, 64, 32), views, views, surfaces)[0]
    assert len(gaussians) == int(kept.sum())
    assert int(gaussians.is_static.sum()) == int((kept & surfaces.standing).sum())
    assert 0.15 < len(gaussians) / kept.numel() < 0.6
    assert bool(gaussians.is_static.all())
    request = views[2].without_rgb().unbatched()
    background = head.background(views)[0]
    pictures = [rasterize(gaussians.at(t), request, background=background).rgb for t in (-1.0, 1.0)]
    assert views.rgb is not None
    assert all(psnr(picture, views.rgb[0, 2:3]) > 28.0 for picture in pictures)


@pytest.mark.parametrize("baseline", [0.0, 0.25])
def test_frames_that_take_turns_look_like_all_of_them(baseline: float) -> None:
    views = clip(17, baseline)
    tokens = torch.randn(1, 17, 64, 32)
    config = StereoConfig(sweep=SweepConfig(planes=16))
    whole = dataclasses.replace(config, key_frames=KeyFrameConfig(moments=18))
    found = []
    for stereo in (config, whole):
        head = PixelGaussianHead(32, 8, PixelGaussianHeadConfig(hidden=16, stereo=stereo))
        found.append(head.gaussians(tokens, views, views)[0])
    few, all_ = found
    assert len(all_) == 17 * 64 * 64
    assert len(few) < 0.7 * len(all_)
    for i, time in ((7, -0.125), (8, 0.0), (8, 0.06)):
        request = dataclasses.replace(views[i].without_rgb(), time=torch.tensor([[time]]))
        a, b = (rasterize(g.at(time), request.unbatched()).rgb for g in (few, all_))
        assert psnr(a, b) > 30.0


def test_frames_take_turns_however_uneven_their_gaps() -> None:
    """Frames close together must not outlast one another as if each were alone."""
    times = torch.tensor([[-1.0, -0.9, -0.8, 0.6, 1.0]])
    views = dataclasses.replace(clip(5, baseline=0.25), time=times)
    gaussians = untrained().gaussians(torch.randn(1, 5, 64, 32), views, views)[0]
    weights = gaussians.condition().weights(0.8).view(5, *HW).mean((1, 2))
    assert bool((weights[:3] < 0.05).all())
    assert bool((weights[3:] > 0.5).all())


def test_every_parameter_gets_a_gradient_once_corrections_are_on() -> None:
    views, head = clip(4, baseline=0.25), untrained()
    for parameter in head.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    gaussians = head.gaussians(torch.randn(1, 4, 64, 32), views, views)[0]
    torch.stack([values.square().mean() for values in gaussians.tensors()]).sum().backward()
    # learnt in stages of its own
    learnt = [(n, p) for n, p in head.named_parameters() if not n.startswith("stereo.")]
    assert [n for n, p in learnt if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize(
    ("option", "least"), [("hidden", 1), ("references", 2), ("detail_width", 1)]
)
def test_options_below_the_least_are_refused(option: str, least: int) -> None:
    with pytest.raises(InputError, match=f"{option} is {least - 1}, must be at least {least}"):
        PixelGaussianHeadConfig(**{option: least - 1})  # pyright: ignore[reportArgumentType]
