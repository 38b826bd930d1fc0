"""Scene flow: velocities of what moves, against worlds and closed forms."""

import dataclasses

import pytest
import torch

from fsm.datasets.world.world import World
from fsm.renderers.stereo.config import SceneFlowConfig
from fsm.renderers.stereo.scene_flow import neighbours, optical_flow, scene_flow
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import SceneFrame, Views

HW = (96, 96)


def filmed(seed: int = 3100, frames: int = 4) -> tuple[World, Views, Views]:
    """A world, its clip in seconds and metres, and the clip in model space, [1 v] each."""
    world = World.sample([seed])
    path = world.camera_path(torch.arange(frames)[None] / 8.0, HW)
    clip = dataclasses.replace(path, rgb=world.render(path).rgb)
    return world, clip, SceneFrame.fit(clip).to_model(clip)


def test_velocities_lead_to_where_optical_flow_leads() -> None:
    world, clip, views = filmed()
    depth = world.render(clip.without_rgb()).depth
    assert depth is not None
    rho = 1.0 / (depth * SceneFrame.fit(clip).scale)
    config = SceneFlowConfig()
    velocity = scene_flow(views, views, rho, config)
    flow = optical_flow(views, views, config)
    local = torch.einsum("bvji,bvjhw->bvihw", views.c2w[..., :3, :3], velocity)
    sources = SourceViews.of(views, views, flow.index)
    found = sources.project(rho, local * rho).pixels
    standing = sources.project(rho).pixels
    y, x = torch.meshgrid(torch.arange(HW[0]), torch.arange(HW[1]), indexing="ij")
    there = torch.stack([x, y], -1) + 0.5 + flow.shift
    # the first and the last frame have one neighbour, so their velocity explains its flow alone
    moving = world.moving(clip, clip.time)[:, 0, 0]
    trusted = moving & (flow.trust[:, 0, 1] > 0.9)
    assert float(trusted.float().mean()) > 0.01
    off = (found - there)[:, 0, 1].norm(dim=-1)[trusted]
    still = (standing - there)[:, 0, 1].norm(dim=-1)[trusted]
    assert float(off.median()) < 0.05 < 0.5 < float(still.median())


def test_velocity_is_the_least_that_explains_a_shift() -> None:
    """A turned-off flow finder is no oracle: a plane that moves across the axis is."""
    g = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 24, 24, generator=g)
    texture = torch.nn.functional.interpolate(texture, size=(96, 112), mode="bicubic").clamp(0, 1)
    pictures = torch.stack([texture[0, :, :, 8 - 4 * i : 104 - 4 * i] for i in range(3)])
    c2w = torch.eye(4).expand(3, 4, 4)
    lens = torch.tensor([96.0, 96.0, 48.0, 48.0]).expand(3, 4)
    views = Views(c2w, lens, torch.tensor([-1.0, 0.0, 1.0]), HW, pictures).batched()
    rho = torch.full((1, 3, 1, *HW), 0.5)
    velocity = scene_flow(views, views, rho, SceneFlowConfig())[0, 1, :, 24:72, 24:72]
    # 4 pixels at a depth of 2 and a focal length of 96 pixels, in a unit of time
    expected = torch.tensor([4.0 * 2.0 / 96.0, 0.0, 0.0])
    torch.testing.assert_close(velocity.flatten(1).median(1).values, expected, atol=5e-3, rtol=0)


def test_neighbours_are_the_moments_before_and_after_from_the_nearest_place() -> None:
    c2w = torch.eye(4).repeat(6, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 1.0] * 3)  # two cameras, three moments
    time = torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    views = Views(c2w, torch.ones(6, 4), time, (2, 2)).batched()
    index, found = neighbours(views, views)
    assert found[0].tolist() == [[False, True]] * 2 + [[True, True]] * 2 + [[True, False]] * 2
    assert index[0, 2:4].tolist() == [[0, 4], [1, 5]]


@pytest.mark.parametrize("frames", [1, 2])
def test_few_frames_have_finite_velocities(frames: int) -> None:
    _, _, views = filmed(frames=frames)
    velocity = scene_flow(views, views, torch.ones(1, frames, 1, *HW), SceneFlowConfig())
    assert bool(torch.isfinite(velocity).all())
    assert frames > 1 or not bool(velocity.any())
