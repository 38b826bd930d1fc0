"""What the modes show, against closed forms."""

import dataclasses

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import look_at
from fsm.renderers.film.sequence import colourise_depth
from fsm.viewer import modes
from fsm.views import Rendering, Views
from tests.viewer.fakes import cameras


def test_colour_is_the_picture() -> None:
    rgb = torch.rand(1, 3, 4, 6)
    assert torch.equal(modes.colour(Rendering(rgb)), rgb[0])
    assert np.array_equal(modes.as_bytes(torch.full((3, 1, 2), 0.5)), np.full((1, 2, 3), 128))


def test_depth_is_the_colour_map_of_the_film() -> None:
    depth = torch.tensor([[1.0, 2.0, 4.0, 0.0]])[None, None]
    shown = modes.depth(Rendering(torch.zeros(1, 3, 1, 4), depth=depth), (1.0, 4.0))
    assert torch.equal(shown, colourise_depth(depth[0], 1.0, 4.0))
    assert shown[0, 0, 0] > shown[2, 0, 0]  # near is red
    assert shown[2, 0, 2] > shown[0, 0, 2]  # far is blue
    with pytest.raises(InputError, match="no depth"):
        modes.depth(Rendering(torch.zeros(1, 3, 1, 4)), (1.0, 4.0))


def test_opacity_is_grey() -> None:
    shown = modes.opacity(Rendering(torch.zeros(1, 3, 1, 2), alpha=torch.tensor([[[[0.25, 1.0]]]])))
    assert torch.equal(shown, torch.tensor([[0.25, 1.0]]).expand(3, 1, 2))
    with pytest.raises(InputError, match="no opacity"):
        modes.opacity(Rendering(torch.zeros(1, 3, 1, 2)))


def test_a_frame_seen_by_its_own_camera_is_itself() -> None:
    frame = cameras(1, rgb=True)
    picture, seen = modes.turned(frame, frame.without_rgb())
    assert frame.rgb is not None
    torch.testing.assert_close(picture, frame.rgb[0], atol=1e-5, rtol=0)
    assert bool(seen.all())


def test_a_wider_request_shows_the_frame_in_its_middle() -> None:
    frame = cameras(1, rgb=True)
    assert frame.rgb is not None
    intrinsics = frame.intrinsics + torch.tensor([0.0, 0, 10, 4])
    wider = Views(frame.c2w, intrinsics, frame.time, (frame.hw[0] + 8, frame.hw[1] + 20))
    picture, seen = modes.turned(frame, wider)
    torch.testing.assert_close(picture[:, 4:-4, 10:-10], frame.rgb[0], atol=1e-5, rtol=0)
    assert bool(seen[:, 4:-4, 10:-10].all())
    assert int(seen.sum()) == frame.hw[0] * frame.hw[1]


def test_a_turned_request_sees_the_frame_where_its_rays_go() -> None:
    frame = cameras(1, hw=(64, 96))
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    rays = torch.stack([(x - 48) / 40, (y - 32) / 40, torch.ones_like(x)])
    frame = dataclasses.replace(
        frame, rgb=(0.5 + 0.3 * rays / rays.norm(dim=0)).expand(1, 3, 64, 96)
    )
    down, there = torch.tensor([[0.0, 1, 0]]), torch.tensor([[0.2, 0.1, 1.0]])
    c2w = look_at(torch.zeros(1, 3), there, down).float()
    request = dataclasses.replace(frame.without_rgb(), c2w=c2w)
    picture, seen = modes.turned(frame, request)
    world = torch.einsum("ij,jhw->ihw", c2w[0, :3, :3], rays / rays.norm(dim=0))
    assert 0.5 < float(seen.float().mean()) < 0.95
    inner = seen.expand(3, -1, -1).clone()
    inner[:, :2], inner[:, -2:], inner[:, :, :2], inner[:, :, -2:] = False, False, False, False
    torch.testing.assert_close(picture[inner], (0.5 + 0.3 * world)[inner], atol=2e-3, rtol=0)
    behind = c2w.clone()
    behind[0, :3, [0, 2]] *= -1
    assert not bool(modes.turned(frame, dataclasses.replace(request, c2w=behind))[1].any())


def test_a_coarse_request_compares_with_averages() -> None:
    frame = cameras(1, rgb=True)
    assert frame.rgb is not None
    coarse = frame.without_rgb().resized((16, 24))
    picture, seen = modes.turned(frame, coarse)
    torch.testing.assert_close(
        picture, torch.nn.functional.avg_pool2d(frame.rgb, 2)[0], atol=1e-5, rtol=0
    )
    assert bool(seen.all())


def test_difference_is_amplified_and_grey_where_nothing_is_known() -> None:
    frame = cameras(1, rgb=True)
    assert frame.rgb is not None
    request = frame.without_rgb()
    assert float(modes.difference(Rendering(frame.rgb), frame, request).max()) < 1e-4
    grey = torch.full_like(frame.rgb, 0.5)
    frame = dataclasses.replace(frame, rgb=grey)
    off = modes.difference(Rendering(grey + 0.1), frame, request)
    torch.testing.assert_close(off, torch.full_like(off, 0.4))
    away = dataclasses.replace(request, c2w=request.c2w * torch.tensor([-1.0, 1, -1, 1]))
    blank = modes.difference(Rendering(grey), frame, away)
    assert torch.equal(blank, torch.full_like(blank, modes.UNSEEN))
    with pytest.raises(InputError, match="no picture to compare"):
        modes.difference(Rendering(torch.zeros(1, 3, 32, 48)), request, request)
