"""Procedural worlds: compiled against plain tracer, closed forms, seeds, motion, what training and
commands get of it.
"""

import dataclasses

import pytest
import torch
from torch import Tensor

from fsm.datasets.open import open_clip
from fsm.datasets.world.clip import WorldClip
from fsm.datasets.world.description import BALL, BODIES, BOX, CYLINDER, PILLOW
from fsm.datasets.world.sampling import TORSO
from fsm.datasets.world.surfaces import PARTS, SKY
from fsm.datasets.world.trace import FAR, mixed_blocks
from fsm.datasets.world.world import World
from fsm.errors import InputError
from fsm.rays import pixel_rays, project, unproject
from fsm.views import Views
from tests.datasets.contract import check_clip

TIMES = torch.tensor([[0.0, 3.5]])


def alone(
    shape: int, size: tuple[float, float, float], at: tuple[float, float, float], turn: float = 0.0
) -> World:
    """World 0 in the open with one body at rest."""
    world = World.sample([0])
    bodies = world.bodies
    zero = {
        n: torch.zeros_like(getattr(bodies, n))
        for n in ("swing", "spin", "rock", "breath", "sway", "pivot")
    }
    there = torch.full((1, BODIES), -1e6)
    there[0, 0] = 1e6
    bodies = dataclasses.replace(
        bodies,
        **zero,
        shape=torch.full_like(bodies.shape, shape),
        size=torch.tensor(size).expand(1, BODIES, 3),
        anchor=torch.tensor(at).expand(1, BODIES, 3),
        parent=torch.full_like(bodies.parent, -1),
        axis=torch.tensor([0.0, 1.0, 0.0]).expand(1, BODIES, 3),
        angle=torch.full((1, BODIES), turn),
        born=torch.full((1, BODIES), -1e6),
        gone=there,
    )
    return dataclasses.replace(
        world, bodies=bodies, around=dataclasses.replace(world.around, open=torch.ones(1))
    )


def level(
    eye: tuple[float, float, float], hw: tuple[int, int] = (32, 40), focal: float = 40.0
) -> Views:
    """One camera that looks along +z."""
    c2w = torch.eye(4).repeat(1, 1, 1, 1)
    c2w[0, 0, :3, 3] = torch.tensor(eye)
    intrinsics = torch.tensor([focal, focal, hw[1] / 2, hw[0] / 2]).expand(1, 1, 4)
    return Views(c2w, intrinsics, torch.zeros(1, 1), hw)


def points_seen(views: Views, depth: Tensor) -> Tensor:
    """World points [3 h w] under the pixels of the first view."""
    origin, direction = pixel_rays(views)
    forward = (direction[0, 0] * views.c2w[0, 0, :3, 2][:, None, None]).sum(0)
    return origin[0, 0] + direction[0, 0] * (depth[0, 0, 0] / forward)


@pytest.mark.parametrize("first", [0, 4, 8])
def test_the_compiled_tracer_renders_what_the_plain_one_says(first: int) -> None:
    """To 2e-4 on average; rounding may turn a border or a random cell, in at most one pixel of
    500.
    """
    world = World.sample(range(first, first + 4))
    views = world.camera_path(TIMES.expand(4, 2), (30, 42))
    found, expected = world.render(views), world.render(views, plain=True)
    assert found.depth is not None
    assert expected.depth is not None
    wrong = (found.rgb - expected.rgb).abs().amax(2, keepdim=True) > 2e-3
    assert float(wrong.float().mean()) < 2e-3
    assert float((found.rgb - expected.rgb).abs().mean()) < 2e-4
    assert float(((found.depth / expected.depth - 1).abs() > 1e-4).float().mean()) < 2e-3
    seen, expected_seen = world.surfaces_seen(views), world.surfaces_seen(views, plain=True)
    assert float((seen != expected_seen).float().mean()) < 2e-3


def test_a_ball_is_where_it_should_be() -> None:
    radius, centre, views = 0.7, torch.tensor([0.3, -1.4, 4.0]), level((0.0, -1.5, 0.0))
    world = alone(BALL, (radius, radius, radius), (0.3, -1.4, 4.0))
    depth, seen = world.render(views).depth, world.surfaces_seen(views)[0, 0, 0]
    assert depth is not None
    origin, direction = pixel_rays(views)
    to_centre = centre[:, None, None] - origin[0, 0]
    along = (to_centre * direction[0, 0]).sum(0)
    miss = (to_centre.square().sum(0) - along.square()).sqrt()
    clear = (miss - radius).abs() > 1e-3
    assert torch.equal((seen == 0)[clear], (miss < radius)[clear])
    assert int((seen == 0).sum()) > 60
    expected = (along - (radius**2 - miss.square()).clamp_min(0).sqrt()) * direction[0, 0, 2]
    assert torch.allclose(depth[0, 0, 0][seen == 0], expected[seen == 0], atol=2e-4)


@pytest.mark.parametrize("shape", [BALL, BOX, CYLINDER, PILLOW])
def test_every_shape_is_its_equation(shape: int) -> None:
    size, at, turn = (0.8, 0.6, 0.5), (-0.2, -1.3, 3.0), 0.6
    views = level((0.0, -2.0, 0.0))
    world = alone(shape, size, at, turn)
    depth, seen = world.render(views).depth, world.surfaces_seen(views)[0, 0, 0]
    assert depth is not None
    on_body = torch.div(seen, PARTS, rounding_mode="floor") == 0
    assert int(on_body.sum()) > 60
    away = points_seen(views, depth)[:, on_body] - torch.tensor(at)[:, None]
    c, s = torch.cos(torch.tensor(turn)), torch.sin(torch.tensor(turn))
    x, y, z = c * away[0] - s * away[2], away[1], s * away[0] + c * away[2]
    x, y, z = x / size[0], y / size[1], z / size[2]
    values = {
        BALL: x**2 + y**2 + z**2,
        BOX: torch.stack([x, y, z]).abs().amax(0),
        CYLINDER: torch.maximum((x**2 + z**2).sqrt(), y.abs()),
        PILLOW: x**4 + y**4 + z**4,
    }
    assert torch.allclose(values[shape], torch.ones_like(x), atol=2e-3)


def test_the_ground_is_a_plane_and_the_sky_is_far() -> None:
    views = level((1.0, -1.7, 2.0))
    world = alone(BALL, (0.1, 0.1, 0.1), (0.0, -1.0, -50.0))
    depth, seen = world.render(views).depth, world.surfaces_seen(views)[0, 0, 0]
    assert depth is not None
    rows = torch.arange(32) + 0.5
    expected = torch.where(rows > 16, 1.7 * 40.0 / (rows - 16), torch.full_like(rows, FAR))[
        :, None
    ].expand(32, 40)
    assert torch.allclose(depth[0, 0, 0], expected, rtol=1e-5)
    assert torch.equal(
        seen, torch.where(rows > 16, BODIES * PARTS + 3, SKY).int()[:, None].expand(32, 40)
    )


def test_a_seed_is_one_world_in_any_batch_and_at_any_number_of_threads() -> None:
    together = World.sample([3, 8, 5])
    views = together.camera_path(TIMES.expand(3, 2), (24, 24))
    pictures = together.render(views).rgb
    for i, seed in enumerate((3, 8, 5)):
        single = World.sample([seed])
        alone_views = single.camera_path(TIMES, (24, 24))
        assert torch.equal(alone_views.c2w, views.c2w[i : i + 1])
        assert torch.equal(single.render(alone_views).rgb, pictures[i : i + 1])
        assert torch.equal(together[i].render(alone_views).rgb, pictures[i : i + 1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(together.render(views).rgb, pictures)
    finally:
        torch.set_num_threads(threads)
    assert float((pictures[0] - pictures[1]).abs().mean()) > 0.02


def test_still_points_reproject_and_moving_ones_follow_their_bodies() -> None:
    world = World.sample(range(6))
    views = world.camera_path(torch.zeros(6, 1), (40, 40))
    later = world.camera_path(torch.full((6, 1), 0.4), (40, 40))
    flow, visible = world.flow(views, later)
    depth, seen = world.render(views).depth, world.surfaces_seen(views)
    assert depth is not None
    grid = (
        torch.stack(torch.meshgrid(torch.arange(40), torch.arange(40), indexing="xy"), -1).flatten(
            0, 1
        )
        + 0.5
    )
    pixels = grid.expand(6, 1, -1, 2)
    there, _ = project(
        unproject(pixels, depth.flatten(2), views.c2w, views.intrinsics),
        later.c2w,
        later.intrinsics,
    )
    still = (there - pixels).transpose(2, 3).unflatten(-1, (40, 40))
    around = (seen >= BODIES * PARTS) & (seen < SKY)
    assert torch.allclose(flow[around.expand_as(flow)], still[around.expand_as(flow)], atol=2e-2)
    moved = (flow - still).norm(dim=2, keepdim=True)
    assert float(moved[~around & (seen != SKY)].max()) > 1.0  # pixels
    # Where a point is seen again, the surface drawn there is the same (to a pixel at its border).
    column, row = (pixels + flow.flatten(3).transpose(2, 3)).floor().long().clamp(0, 39).unbind(-1)
    again = (
        world.surfaces_seen(later).flatten(2).gather(2, (row * 40 + column)[:, :, None].flatten(2))
    )
    same = torch.div(again, PARTS, rounding_mode="floor") == torch.div(
        seen.flatten(2), PARTS, rounding_mode="floor"
    )
    assert float(same[visible.flatten(2)].float().mean()) > 0.97
    assert 0.3 < float(visible.float().mean()) < 1.0


def test_bodies_come_and_go() -> None:
    world = alone(BOX, (0.5, 0.5, 0.5), (0.0, -1.5, 3.0))
    gone = world.bodies.gone.clone()
    gone[0, 0] = 1.0
    world = dataclasses.replace(world, bodies=dataclasses.replace(world.bodies, gone=gone))
    views = level((0.0, -1.5, 0.0))
    assert int((world.surfaces_seen(views) < PARTS).sum()) > 60
    assert (
        int((world.surfaces_seen(dataclasses.replace(views, time=torch.ones(1, 1))) < PARTS).sum())
        == 0
    )


def test_what_hangs_on_a_body_moves_with_it() -> None:
    """The end of every limb that is fixed to its parent keeps its place in the parent's frame."""
    world = World.sample(range(16))
    time = torch.linspace(0, 8, 9).expand(16, 9)
    shape, middle = world.bodies.pose(time)
    rigid = shape / shape.norm(dim=-2, keepdim=True)
    for k in range(10, 14):
        size, pivot = world.bodies.size[:, k], world.bodies.pivot[:, k]
        joint = middle[:, :, k] + (rigid[:, :, k] @ pivot[:, None, :, None])[..., 0]
        torso = world.bodies.parent[0, k]
        in_torso = (
            rigid[:, :, torso].transpose(-1, -2) @ (joint - middle[:, :, torso])[..., None]
        )[..., 0]
        assert torch.allclose(
            in_torso, world.bodies.anchor[:, None, k].expand_as(in_torso), atol=1e-4
        )
        assert float(size.amin()) > 0


def test_blocks_with_a_border_are_the_mixed_ones() -> None:
    surface = torch.zeros(1, 12, 12)
    # the border between the second and the third column of blocks belongs to both
    surface[0, :, 8:] = 1.0
    assert mixed_blocks(surface).tolist() == [[[False, True, True]] * 3]


def test_cameras_stay_clear_of_bodies_floor_and_walls() -> None:
    world = World.sample(range(64))
    views = world.camera_path(torch.linspace(0, 10, 12).expand(64, 12), (8, 8))
    eye = views.c2w[..., :3, 3]
    assert bool((eye[..., 1] < -0.3).all())
    indoors = world.around.open < 0.5
    inside = eye[indoors][..., [0, 2]].abs() < world.around.room[indoors][:, None, [0, 2]]
    assert bool(inside.all())
    depth = world.render(views).depth
    assert depth is not None
    assert float(depth.min()) > 0.05


@pytest.mark.gpu
def test_devices_agree() -> None:
    pictures = []
    for device in ("cpu", "cuda"):
        world = World.sample([2, 7, 11], device)
        views = world.camera_path(TIMES.expand(3, 2).to(device), (64, 64))
        pictures.append(world.render(views, plain=True).rgb.cpu())
    difference = (pictures[0] - pictures[1]).abs()
    assert float(difference.mean()) < 1e-4
    assert float((difference > 0.01).float().mean()) < 2e-3


def test_the_demo_is_an_outdoor_shot_of_five_seconds_by_a_moving_camera() -> None:
    clip = open_clip("demo")
    assert isinstance(clip, WorldClip)
    assert (len(clip), clip.fps, clip.cameras.hw) == (60, 12.0, (128, 128))
    assert bool(clip.scene.world.around.open[0])
    assert int(clip.id.removeprefix("world-")) < 1000 or int(clip.id.removeprefix("world-")) > 1015
    path = clip.cameras.c2w[:, :3, 3]
    assert 1.0 < float((path - path[0]).norm(dim=-1).max()) < 6.0
    walker = clip.scene.world.bodies.there(clip.cameras.time[None])[0, :, TORSO]
    assert bool(walker.all())


def test_the_clip_keeps_its_promises() -> None:
    clip = open_clip("world:3")
    assert (clip.id, clip.cameras.hw, len(clip)) == ("world-3", (128, 128), 60)
    check_clip(clip, resized=False)


def test_wrong_calls_are_refused_in_one_sentence() -> None:
    world = World.sample([1, 2])
    with pytest.raises(InputError, match="one row a world"):
        world.render(level((0.0, -1.0, 0.0)))
    with pytest.raises(InputError, match="no seeds"):
        World.sample([])
    with pytest.raises(InputError, match="frames=0"):
        WorldClip(frames=0)
    with pytest.raises(InputError, match=r"fps=0\.0"):
        WorldClip(fps=0.0)
    with pytest.raises(InputError, match="write world: and a whole number"):
        open_clip("world:x")
