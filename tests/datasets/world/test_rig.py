"""Cameras around one world: names, where they stand, what they see; what moves in it."""

import dataclasses

import pytest
import torch

from fsm.datasets.free_space import CLEARANCE
from fsm.datasets.open import open_clip, open_dataset
from fsm.datasets.rendered import RenderedClip
from fsm.datasets.world.clip import WorldClip
from fsm.datasets.world.description import BODIES
from fsm.datasets.world.rig import SPACINGS
from fsm.datasets.world.surfaces import PARTS
from fsm.errors import InputError
from fsm.rays import project, unproject


def opened(name: str) -> RenderedClip:
    clip = open_clip(name)
    assert isinstance(clip, RenderedClip)
    return clip


def test_a_row_of_cameras_films_the_world_together() -> None:
    clip, single = opened("world:3101:rig=4x3"), opened("world:3101")
    assert (clip.id, clip.source, len(clip)) == ("world-3101-rig-4x3", "world:3101:rig=4x3", 12)
    assert clip.camera_ids == ("camera-0", "camera-1", "camera-2", "camera-3") * 3
    moments = torch.arange(3) / 12
    assert torch.equal(clip.cameras.time, moments.repeat_interleave(4))
    poses = clip.cameras.c2w.unflatten(0, (3, 4))
    assert torch.equal(poses, poses[:1].expand_as(poses))  # nobody moves
    steps = poses[0, :, :3, 3].diff(dim=0).norm(dim=-1)
    assert steps.max() - steps.min() < 1e-4
    assert min(abs(float(steps[0]) - spacing) for spacing in SPACINGS) < 0.01
    own = single.cameras.c2w[1, :3, 3]
    assert torch.allclose(poses[0, :, 1, 3], own[1].expand(4))  # as high as the world's own camera
    assert float((poses[0, :, :3, 3].mean(0) - own).norm()) < 0.1
    # the same world: each picture is what a camera put there sees of the single clip
    views = clip.views([2, 9])
    assert views.rgb is not None
    assert torch.equal(views.rgb, single.truth(clip.cameras[[2, 9]]).rgb)
    assert clip.views([5], hw=(64, 64)).hw == (64, 64)
    assert torch.equal(opened("world:3101:rig=4x3").cameras.c2w, clip.cameras.c2w)


def test_a_ring_goes_all_around_and_is_of_one_moment() -> None:
    clip = open_clip("world:3100-3101:ring=6", "world-3101-ring-6x1")
    assert clip.static
    place = clip.cameras.c2w[:, [0, 2], 3]
    radius = place.norm(dim=-1)
    assert float(radius.max() - radius.min()) < 1e-4
    angle = torch.atan2(place[:, 0], place[:, 1])
    turned = torch.rad2deg(angle.diff()) % 360
    assert torch.allclose(turned, torch.full((5,), 60.0), atol=1e-2)
    # all look at the vertical through the middle
    inwards = (clip.cameras.c2w[:, [0, 2], 2] * place).sum(-1) / radius
    assert float(inwards.max()) < -0.5


@pytest.mark.parametrize("name", ["rig=8x4", "ring=12x4"])
def test_nothing_is_right_before_a_camera(name: str) -> None:
    for seed in (3100, 3103, 3106, 3110):
        clip = opened(f"world:{seed}:{name}")
        depth = clip.truth(clip.cameras.covering((32, 32))).depth
        assert depth is not None
        assert float(depth.min()) > CLEARANCE


def test_names_of_rigs_are_checked() -> None:
    assert open_dataset("world:7-9:rig=8x12").ids == tuple(
        f"world-{seed}-rig-8x12" for seed in (7, 8, 9)
    )
    for name in ("rig", "rig=", "rig=1x3", "ring=12x0", "row=3x3", "rig=3x", "ring=101"):
        with pytest.raises(InputError, match=r"write rig=8x12 .* or ring=12"):
            open_dataset(f"world:3:{name}")
    with pytest.raises(InputError, match="write world: and a whole number"):
        open_dataset("world:x:rig=8x12")
    with pytest.raises(InputError, match="no free place for 100 such cameras; take another seed"):
        open_clip("world:3101:rig=100x1")


def test_what_moves_is_what_is_elsewhere_later() -> None:
    """A pixel that shows what stands shows the same point at every moment; one whose scene flow is
    more than a millimetre moves.
    """
    clip = WorldClip(8, frames=13)
    views = clip.cameras[[0, 6]].covering((48, 48))
    moving = clip.moving(views)
    assert moving.shape == (2, 1, 48, 48)
    assert 0.01 < float(moving.float().mean()) < 0.6
    later = torch.full((2,), 1.0)
    flow = clip.scene_flow(views, later)
    assert float(flow.norm(dim=1, keepdim=True)[~moving].max()) < 2e-3
    assert float(flow.norm(dim=1, keepdim=True)[moving].max()) > 0.02
    assert bool(clip.moving(dataclasses.replace(views, time=views.time + 0.1)).any())
    surface = clip.scene.world.surfaces_seen(views.batched())[0]
    assert not bool((moving & (surface >= BODIES * PARTS)).any())


def test_scene_flow_projects_to_optical_flow() -> None:
    clip = WorldClip(8, frames=13)
    now, then = clip.cameras[[2]].covering((40, 40)), clip.cameras[[8]].covering((40, 40))
    flow, _ = clip.scene.world.flow(now.batched(), then.batched())
    depth = clip.scene.render(now).depth
    assert depth is not None
    grid = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="xy")
    pixels = torch.stack(grid, -1).flatten(0, 1)[None] + 0.5
    points = unproject(pixels, depth.flatten(1), now.c2w, now.intrinsics)
    moved = points + clip.scene_flow(now, then.time).flatten(2).mT
    there, _ = project(moved, then.c2w, then.intrinsics)
    near = depth.flatten() < 100
    expected = (pixels + flow[0].flatten(2).mT)[0]
    assert torch.allclose(there[0, near], expected[near], atol=0.05)


def test_nothing_moves_at_one_moment() -> None:
    clip = opened("world:3101:ring=4")
    moving = clip.moving(clip.cameras.covering((32, 32)))
    assert moving is not None
    assert not bool(moving.any())


def test_a_body_that_comes_or_goes_moves() -> None:
    clip = WorldClip(8, frames=13)
    world = clip.scene.world
    still = torch.zeros(1, 1)
    assert not bool(world.moving_bodies(still).any())
    gone = dataclasses.replace(
        world,
        bodies=dataclasses.replace(world.bodies, gone=torch.full_like(world.bodies.gone, 0.5)),
    )
    both = torch.tensor([[0.0, 1.0]])
    there = gone.bodies.there(both)[:, 0]
    assert bool(there.any())
    assert torch.equal(gone.moving_bodies(both), there)
