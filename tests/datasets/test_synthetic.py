import dataclasses
import math

import pytest
import torch
from torch import Tensor

from fsm.datasets.synthetic import SyntheticClip, SyntheticScene, SyntheticWorld, demo_clip
from fsm.datasets.synthetic_world import ARENA, BOXES, CYLINDERS, ROUND, SOLIDS
from fsm.errors import InputError
from fsm.rays import pixel_rays
from fsm.views import Views
from tests.datasets.contract import check_clip

NOWHERE = torch.tensor([0.0, 1000.0, 0.0])


def world_with(
    slot: int | None, size: tuple[float, float, float], anchor: tuple[float, float, float]
) -> SyntheticWorld:
    """World 3 with at most one solid, turned by 0.7 rad about a tilted axis and at rest."""
    world = SyntheticWorld.sample([3])
    solids = world.solids
    anchors, sizes, axis = NOWHERE.repeat(1, SOLIDS, 1), solids.size.clone(), solids.axis.clone()
    if slot is not None:
        anchors[0, slot], sizes[0, slot] = torch.tensor(anchor), torch.tensor(size)
        axis[0, slot] = torch.tensor([0.6, 0.8, 0.0])
    solids = dataclasses.replace(
        solids,
        anchor=anchors,
        size=sizes,
        axis=axis,
        swing=torch.zeros_like(solids.swing),
        spin=torch.zeros_like(solids.spin),
        angle=torch.full_like(solids.angle, 0.7),
    )
    return dataclasses.replace(world, solids=solids)


def looking(eye: Tensor, target: Tensor, time: Tensor, focal: float, hw: tuple[int, int]) -> Views:
    """One world's views [1 v] from ``eye`` to ``target``, both [v 3]."""
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(torch.tensor([0.1, 1.0, 0.0]).expand_as(eye), forward), dim=-1
    )
    c2w = torch.eye(4).repeat(len(eye), 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward, eye], -1)
    intrinsics = torch.tensor([focal, focal, hw[1] / 2, hw[0] / 2]).expand(len(eye), 4)
    return Views(c2w, intrinsics, time, hw).batched()


def rays_and_depth(world: SyntheticWorld, views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Origins, unit directions and distances along them, each flat in float64, all from the
    rendered z-depth.
    """
    depth = world.render(views).depth
    assert depth is not None
    origin, direction = (t.double().movedim(-3, -1).reshape(-1, 3) for t in pixel_rays(views))
    cosine = (direction * views.c2w[0, 0, :3, 2].double()).sum(-1)
    return origin, direction, depth.double().flatten() / cosine


def room_distance(world: SyntheticWorld, origin: Tensor, direction: Tensor) -> Tensor:
    """Closed form: the nearest of the planes ahead of each ray."""
    half = world.room[0].double()
    low, high = half * torch.tensor([-1.0, -2.0, -1.0]), half * torch.tensor([1.0, 0.0, 1.0])
    return ((torch.where(direction > 0, high, low) - origin) / direction).amin(-1)


EYE, TARGET, NOON = (
    torch.tensor([[0.3, -1.4, -2.5]]),
    torch.tensor([[0.0, -0.8, 0.0]]),
    torch.zeros(1),
)


def test_depth_of_the_empty_room() -> None:
    world = world_with(None, (1, 1, 1), (0, 0, 0))
    origin, direction, found = rays_and_depth(world, looking(EYE, TARGET, NOON, 20.0, (33, 47)))
    assert torch.allclose(found, room_distance(world, origin, direction), rtol=2e-5)


def test_depth_of_a_ball() -> None:
    centre, radius = (0.2, -0.9, 0.1), 0.7
    world = world_with(ROUND.start, (radius, radius, radius), centre)
    origin, direction, found = rays_and_depth(world, looking(EYE, TARGET, NOON, 30.0, (33, 47)))
    offset = origin - torch.tensor(centre).double()
    b = (offset * direction).sum(-1)
    inside = b * b - (offset * offset).sum(-1) + radius * radius
    expected = torch.where(
        inside > 0, -b - inside.clamp_min(0).sqrt(), room_distance(world, origin, direction)
    )
    sure = inside.abs() > 1e-3  # grazing rays are decided by rounding
    assert 100 < int((inside > 0).sum()) < 1000
    assert torch.allclose(found[sure], expected[sure], atol=2e-4)


@pytest.mark.parametrize(
    ("slot", "size"),
    [
        (BOXES.start, (0.5, 0.3, 0.7)),
        (CYLINDERS.start, (0.5, 0.6, 0.5)),
        (ROUND.start, (0.3, 0.6, 0.4)),
    ],
)
def test_depth_of_turned_solids(slot: int, size: tuple[float, float, float]) -> None:
    """Against sphere tracing by bisection of the solid's inside test along densely sampled rays."""
    centre = torch.tensor([0.2, -0.9, 0.1]).double()
    world = world_with(slot, size, (0.2, -0.9, 0.1))
    origin, direction, found = rays_and_depth(world, looking(EYE, TARGET, NOON, 30.0, (25, 31)))
    axis, angle = torch.tensor([0.6, 0.8, 0.0]).double(), 0.7
    cross = torch.tensor([[0, 0, 0.8], [0, 0, -0.6], [-0.8, 0.6, 0]]).double()
    assert torch.equal(
        cross @ torch.tensor([1.0, 0, 0]).double(),
        torch.linalg.cross(axis, torch.tensor([1.0, 0, 0]).double()),
    )
    rotation = torch.linalg.matrix_exp(angle * cross)

    def inside(distance: Tensor) -> Tensor:
        q = (
            (origin[:, None] + distance[..., None] * direction[:, None] - centre) @ rotation
        ) / torch.tensor(size).double()
        if slot == BOXES.start:
            return q.abs().amax(-1) < 1
        if slot == CYLINDERS.start:
            return (q[..., [0, 2]].norm(dim=-1) < 1) & (q[..., 1].abs() < 1)
        return q.norm(dim=-1) < 1

    steps = torch.linspace(1.0, 4.5, 3000).double().expand(len(origin), -1)
    within = inside(steps)
    hit = within.any(-1)
    first = steps.gather(1, within.int().argmax(-1, keepdim=True))
    low, high = first - (steps[0, 1] - steps[0, 0]), first
    for _ in range(30):
        middle = (low + high) / 2
        deeper = inside(middle)
        low, high = torch.where(deeper, low, middle), torch.where(deeper, middle, high)
    expected = torch.where(hit, high[:, 0], room_distance(world, origin, direction))
    thin = within.sum(-1) < 8  # rays that only graze an edge
    sure = ~thin | ~hit
    wrong = (found - expected).abs() > 2e-4
    assert 60 < int(hit.sum()) < 600
    assert int((wrong & sure).sum()) <= 1  # one silhouette ray may slip between the samples


def one_pixel(eye: Tensor, target: Tensor, time: Tensor) -> Views:
    """Views [1 v] of one pixel each, whose ray runs exactly from ``eye`` to ``target``; textures at
    their finest.
    """
    return looking(eye, target, time, 1e6, (1, 1))


def test_a_static_point_looks_the_same_from_everywhere() -> None:
    world = SyntheticWorld.sample([5])
    world = dataclasses.replace(
        world, surfaces=dataclasses.replace(world.surfaces, gloss=torch.zeros(1, 13))
    )
    start = world.camera_path(torch.zeros(1, 1), (24, 32))
    depth = world.render(start).depth
    assert depth is not None
    origin, direction = (t[0, 0].flatten(1).T for t in pixel_rays(start))
    cosine = direction @ start.c2w[0, 0, :3, 2]
    points = origin + direction * (depth[0, 0].flatten() / cosine)[:, None]
    colours, seen = [], torch.ones(len(points), dtype=torch.bool)
    for shift in ([0.0, 0.0, 0.0], [0.4, -0.2, 0.1], [-0.3, 0.2, -0.2]):
        eye = origin + torch.tensor(shift)
        view = world.render(one_pixel(eye, points, torch.zeros(len(points))))
        assert view.depth is not None
        seen &= (view.depth.flatten() - (points - eye).norm(dim=-1)).abs() < 2e-3
        colours.append(view.rgb[0, :, :, 0, 0])
    assert int(seen.sum()) > 400
    for colour in colours[1:]:
        difference = (colour - colours[0])[seen].abs().amax(-1)
        # a ray that misses its point by float32 rounding (1e-6 m) may cross a texel edge, never a
        # whole texture
        assert difference.quantile(0.98) < 4e-3
    assert colours[0][seen].std(0).min() > 0.05


@pytest.mark.parametrize("kind", [ROUND, BOXES])
def test_texture_is_glued_to_moving_solids(kind: slice) -> None:
    """Chromaticity under grey light at a point of a solid, followed by its pose, stays through six
    seconds.
    """
    world = SyntheticWorld.sample([12])
    grey = torch.full((1, 3), 0.5)
    light = dataclasses.replace(world.light, colour=torch.zeros(1, 3), above=grey, below=grey)
    solids = world.solids
    only = torch.arange(SOLIDS) == kind.start
    solids = dataclasses.replace(
        solids, anchor=torch.where(only[:, None], torch.tensor([0.1, -1.2, 0.2]), NOWHERE)[None]
    )
    solids = dataclasses.replace(
        solids, spin=torch.full((1, SOLIDS), 0.9), swing=torch.full((1, SOLIDS, 2, 3), 0.1)
    )
    world = dataclasses.replace(world, light=light, solids=solids)
    unit = torch.nn.functional.normalize(torch.randn(400, 3), dim=-1)
    if kind == BOXES:
        unit = unit / unit.abs().amax(-1, keepdim=True)
    local = unit * solids.size[0, kind.start]
    chroma, seen = [], []
    for moment in (0.0, 0.8, 1.6):
        rotation, centre = solids.pose(torch.full((1, 1), moment))
        points = local @ rotation[0, 0, kind.start].T + centre[0, 0, kind.start]
        eye = torch.tensor([[0.2, -1.5, -2.4]]).expand_as(points)
        view = world.render(one_pixel(eye, points, torch.full((400,), moment)))
        assert view.depth is not None
        seen.append((view.depth.flatten() - (points - eye).norm(dim=-1)).abs() < 2e-3)
        linear = -torch.log1p(-(view.rgb[0, :, :, 0, 0].clamp_max(0.999) ** 2.2))
        chroma.append(torch.nn.functional.normalize(linear, dim=-1))
    for later in (1, 2):
        both = seen[0] & seen[later]
        assert int(both.sum()) > 40
        assert (chroma[later] - chroma[0])[both].abs().amax(-1).quantile(0.95) < 0.01
        shuffled = chroma[0][both].roll(1, 0)
        assert (chroma[later][both] - shuffled).abs().amax(-1).quantile(0.95) > 0.05


def test_moving_solids_move() -> None:
    still = SyntheticScene(0)
    cameras = still.world.camera_path(torch.zeros(1, 3), (48, 48)).unbatched()
    moments = still.render(dataclasses.replace(cameras, time=torch.tensor([0.0, 1.0, 2.0]))).rgb
    assert (moments[1:] - moments[:1]).abs().mean((1, 2, 3)).min() > 0.01


def test_a_seed_is_the_same_world_in_any_batch() -> None:
    alone, together = SyntheticWorld.sample([7]), SyntheticWorld.sample([2, 7, 11])
    time = torch.tensor([[0.0, 1.3]])
    one = alone.render(alone.camera_path(time, (32, 40)))
    three = together.render(together.camera_path(time.expand(3, 2), (32, 40)))
    difference = (one.rgb[0] - three.rgb[1]).abs()
    assert difference.mean() < 1e-5
    assert (difference > 1e-3).float().mean() < 1e-3  # rays on an outline
    again = SyntheticWorld.sample([7])
    assert torch.equal(again.render(again.camera_path(time, (32, 40))).rgb, one.rgb)
    other = SyntheticWorld.sample([8])
    assert (other.render(other.camera_path(time, (32, 40))).rgb - one.rgb).abs().mean() > 0.05
    picked = together[1]
    assert torch.allclose(
        picked.camera_path(time, (32, 40)).c2w, one_pose := alone.camera_path(time, (32, 40)).c2w
    )
    assert one_pose.shape == (1, 2, 4, 4)


def test_cameras_and_solids_keep_apart() -> None:
    """Over 300 worlds: rotations are proper, cameras stay in the room and outside the arena, solids
    inside it.
    """
    world = SyntheticWorld.sample(range(300))
    time = torch.linspace(0, 20, 60).expand(300, 60)
    views = world.camera_path(time, (64, 64))
    rotation, eye = views.c2w[..., :3, :3], views.c2w[..., :3, 3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(300, 60), atol=1e-5)
    assert rotation[..., 1, 1].min() > 0.5  # upright: the camera's down is the world's
    fov = 2 * torch.atan(32 / views.intrinsics[..., 0]).rad2deg()
    assert 45 <= fov.min() < 47
    assert 73 < fov.max() <= 75
    assert (eye[..., [0, 2]].abs() < world.room[:, None, [0, 2]] - 0.1).all()
    assert eye[..., [0, 2]].norm(dim=-1).min() > ARENA
    turn, centre = world.solids.pose(time)
    assert torch.allclose(turn @ turn.mT, torch.eye(3), atol=1e-5)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    tips = (corners * world.solids.size[:, :, None])[:, None] @ turn.mT + centre[..., None, :]
    used = (centre[..., 1] < 100)[..., None]
    tips = torch.where(used[..., None], tips, torch.tensor([0.0, -1.0, 0.0]))[:, :, BOXES]
    assert tips[..., [0, 2]].norm(dim=-1).max() < ARENA + 1e-4
    assert tips[..., 1].max() < 1e-4
    assert (tips[..., 1] > -2 * world.room[:, None, None, None, 1]).all()
    count = used[:, 0].sum(1)
    assert 3 <= count.min() < count.max() <= 7


def test_more_samples_converge() -> None:
    world = SyntheticWorld.sample([4])
    views = world.camera_path(torch.tensor([[0.5]]), (48, 48))
    truth = world.render(views, 100).rgb
    error = [float((world.render(views, n).rgb - truth).square().mean()) for n in (1, 4, 16)]
    assert error[1] < error[0] / 2
    assert error[2] < error[1] / 2
    one, four = world.render(views, 1).depth, world.render(views, 4).depth
    assert one is not None
    assert four is not None
    assert torch.equal(one, four)


def test_large_pictures_are_rendered_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    world = SyntheticWorld.sample([4])
    views = world.camera_path(torch.tensor([[0.5, 1.0]]), (40, 36))
    whole = world.render(views)
    monkeypatch.setattr("fsm.datasets.synthetic.RAYS_AT_ONCE", {"cpu": 500})
    tiled = world.render(views)
    assert whole.depth is not None
    assert tiled.depth is not None
    assert torch.allclose(tiled.depth, whole.depth, atol=1e-5)
    assert (tiled.rgb - whole.rgb).abs().mean() < 1e-5


def test_clip_keeps_the_contract_and_is_its_scene() -> None:
    clip = SyntheticClip(seed=5, frames=9, hw=(48, 64), fps=6.0)
    check_clip(clip, resized=False)
    assert clip.cameras.time[-1] == pytest.approx(8 / 6)
    views = clip.views([2, 6])
    rendering = clip.truth(views)
    assert views.rgb is not None
    assert rendering.depth is not None
    assert torch.equal(rendering.rgb, views.rgb)
    assert torch.equal(rendering.depth, clip.depth([2, 6]))
    assert rendering.alpha is not None
    assert (rendering.alpha == 1).all()


def test_demo_clip_is_a_hand_held_shot_of_four_seconds() -> None:
    clip = demo_clip((32, 32))
    assert (len(clip), clip.fps, clip.cameras.hw) == (48, 12.0, (32, 32))
    path = clip.cameras.c2w[:, :3, 3]
    assert 0.3 < (path - path[0]).norm(dim=-1).max() < 3.0
    depth = clip.depth([0, 24, 47])
    assert 0.5 < depth.min() < 2.5
    assert 4.0 < depth.max() < 9.0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: SyntheticWorld.sample([]), "no seeds"),
        (lambda: SyntheticClip(frames=0), "frames=0"),
        (lambda: SyntheticClip(fps=0.0), "fps=0.0"),
        (
            lambda: SyntheticScene(0, samples_per_pixel=3).render(SyntheticClip(frames=1).cameras),
            "square number",
        ),
        (
            lambda: SyntheticWorld.sample([0, 1]).render(SyntheticClip(frames=1).cameras.batched()),
            "one row a world",
        ),
    ],
)
def test_wrong_requests_are_one_sentence(action, message: str) -> None:
    with pytest.raises(InputError, match=message):
        action()


@pytest.mark.gpu
def test_devices_agree() -> None:
    time = torch.tensor([[0.0, 1.3]]).expand(3, 2)
    pictures = []
    for device in ("cpu", "cuda"):
        world = SyntheticWorld.sample([2, 7, 11], device)
        pictures.append(world.render(world.camera_path(time.to(device), (64, 64))).rgb.cpu())
    difference = (pictures[0] - pictures[1]).abs()
    assert difference.mean() < 1e-4
    assert (difference > 0.01).float().mean() < 2e-3


def test_sizes_are_filtered_not_aliased() -> None:
    """A small picture equals the area average of a large one but for outlines: textures are
    prefiltered.
    """
    world = SyntheticWorld.sample([9])
    large = world.camera_path(torch.tensor([[1.0]]), (256, 256))
    sharp = world.render(large).rgb
    small = world.render(large.resized((32, 32))).rgb
    average = torch.nn.functional.avg_pool2d(sharp[0], 8)[None]
    point = sharp[..., 4::8, 4::8]
    assert math.sqrt(float((small - average).square().mean())) < 0.06
    assert (small - average).square().mean() < 0.7 * (point - average).square().mean()
