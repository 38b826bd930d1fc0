"""Gaussians on trajectories against a loop that writes the formula out."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from fsm.errors import InputError
from fsm.renderers.gaussians.follow import Follow, carry
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.scene_files import FILE
from fsm.renderers.motion.quaternions import matrices, of_matrices
from fsm.renderers.motion.trajectories import Trajectories
from fsm.renderers.splat_files.scene_tables import SceneTables
from tests.renderers.gaussians.test_scene import some_scene
from tests.renderers.motion.test_trajectories import some_trajectories


def following_scene(n: int = 200, g: int = 2) -> GaussianScene:
    """``some_scene`` where every third Gaussian follows two gentle motions."""
    scene = some_scene(n)
    times = torch.linspace(-1, 1, 5)
    quats = torch.tensor([1.0, 0, 0, 0]) + 0.15 * torch.randn(5, g, 4)
    moves = Trajectories(times, quats, 0.2 * torch.randn(5, g, 3))
    index = torch.arange(0, n, 3)
    weights = torch.rand(len(index), g)
    weights = weights / weights.sum(-1, keepdim=True)
    gaussians = dataclasses.replace(scene.gaussians, follow=Follow(moves, weights, index))
    return GaussianScene(gaussians, scene.frame, scene.inputs)


def followers(gaussians: Gaussians4D | MovingGaussians) -> Follow:
    """Which follow; some do."""
    assert gaussians.follow is not None
    return gaussians.follow


def by_hand(moving: MovingGaussians, i: int, time: float):
    """Mean and covariance of the i-th follower."""
    follow = followers(moving)
    n = int(follow.index[i])
    mean, quats = torch.zeros(3), torch.zeros(4)
    start_q, start_t = follow.trajectories.poses(moving.times[n : n + 1])
    end_q, end_t = follow.trajectories.poses(torch.tensor([time]))
    first = None
    for g in follow.weights[i].argsort(descending=True).tolist():
        a, b = matrices(start_q[0, g]), matrices(end_q[0, g])
        w = follow.weights[i, g]
        mean = mean + w * (b @ a.T @ (moving.means[n] - start_t[0, g]) + end_t[0, g])
        turn = b @ a.T
        q = of_matrices(turn)
        first = q if first is None else first
        quats = quats + w * (q if float(q @ first) >= 0 else -q)
    turn = matrices(quats / quats.norm())
    covariance = turn @ covariance_matrix(moving.covariances[n : n + 1])[0] @ turn.T
    return mean + moving.velocities[n] * (time - moving.times[n]), covariance


@pytest.mark.parametrize("time", [-1.0, -0.3, 0.8])
def test_followers_go_where_the_formula_says(time: float) -> None:
    moving = following_scene().moving
    there = moving.at(time, 0.0)
    for i in (0, 7, 33):
        n = int(followers(moving).index[i])
        mean, covariance = by_hand(moving, i, time)
        assert torch.allclose(there.means[n], mean, atol=2e-5)
        found = covariance_matrix(there.covariances[n : n + 1])[0]
        assert torch.allclose(found, covariance, atol=1e-5)


def test_others_stay_as_they_are_to_the_bit() -> None:
    scene = following_scene()
    plain = dataclasses.replace(scene.gaussians, follow=None)
    others = ~scene.gaussians.follows
    for time in (-0.5, 0.4):
        a, b = scene.moving.at(time, 0.0), plain.condition().at(time, 0.0)
        for name in ("means", "covariances", "opacities", "sh"):
            assert torch.equal(getattr(a, name)[others], getattr(b, name)[others])
        assert torch.equal(a.opacities, b.opacities)
        assert float((a.means - b.means).abs().max()) > 0.01
        assert torch.equal(scene.gaussians.at(time).means, scene.moving.at(time).means)


def test_a_moment_of_ones_own_changes_nothing() -> None:
    moving = following_scene().moving
    n = int(followers(moving).index[4])
    there = moving.at(float(moving.times[n]), 0.0)
    assert torch.allclose(there.means[n], moving.means[n], atol=1e-5)
    assert torch.allclose(there.covariances[n], moving.covariances[n], atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    moves = some_trajectories(k=4)
    means, times = torch.randn(6, 3).double(), torch.tensor([0.3, -0.2, 0.6, 0.1, -0.7, 0.4])
    half = torch.randn(6, 3, 3).double()
    full = half @ half.mT
    covariances = full.flatten(1)[:, [0, 1, 2, 4, 5, 8]]
    index = torch.tensor([1, 4])

    def values(quats, translations, weights, means, covariances, when):
        follow = Follow(Trajectories(moves.times, quats, translations), weights, index)
        return carry(follow, means, covariances, when, 0.45)

    free = (
        moves.quats,
        moves.translations,
        torch.tensor([[0.8, 0.2], [0.3, 0.7]]).double(),
        means,
        covariances,
        times.double(),
    )
    assert torch.autograd.gradcheck(values, tuple(t.clone().requires_grad_() for t in free))


def test_choosing_and_joining_keep_the_followers() -> None:
    g = following_scene().gaussians
    mask = torch.arange(len(g)) % 2 == 0
    for part, expected in (
        (g[mask], g.at(0.2, 0.0)[mask]),
        (Gaussians4D.cat([g[:50], g[50:]]), g.at(0.2, 0.0)),
        (g[followers(g).index.flip(0)], g.at(0.2, 0.0)[followers(g).index.flip(0)]),
    ):
        assert torch.allclose(part.at(0.2, 0.0).means, expected.means, atol=1e-6)
    assert g[~g.follows].follow is None
    other = dataclasses.replace(g, follow=following_scene().gaussians.follow)
    with pytest.raises(ValueError, match="different trajectories"):
        Gaussians4D.cat([g, other])


def test_world_is_the_model_moved() -> None:
    scene = following_scene()
    there = scene.world_at(1.7, min_weight=0.0)
    local = scene.moving.at(scene.frame.at(1.7), 0.0)
    frame = scene.frame
    back = (there.means @ frame.T_model_world[:3, :3].T + frame.T_model_world[:3, 3]) * frame.scale
    assert torch.allclose(back, local.means, atol=2e-5)
    turn = frame.T_model_world[:3, :3]
    turned = turn @ covariance_matrix(there.covariances) @ turn.T * frame.scale**2
    assert torch.allclose(turned, covariance_matrix(local.covariances), atol=1e-5)


def test_tables_show_followers_where_they_are() -> None:
    scene = following_scene()
    request = dataclasses.replace(scene.inputs[:1], time=torch.tensor([2.2]))
    table = SceneTables.of(scene).at(2.2)
    expected = rasterize(scene.world_at(2.2), request, backend="plain")
    found = rasterize(table.gaussians().at(0.0), request, backend="plain")
    assert float(expected.rgb.std()) > 0.05
    assert float((found.rgb - expected.rgb).abs().max()) < 1e-3


def test_exported_velocities_are_those_of_the_paths() -> None:
    scene = following_scene()
    scene = GaussianScene(
        dataclasses.replace(scene.gaussians, times=0.8 * scene.gaussians.times),
        scene.frame,
        scene.inputs,
    )
    fields = SceneTables.of(scene).tensors()
    world, step = scene.in_clip_space(), 1e-2
    for n in followers(world).index[[0, 10, 40]].tolist():
        t = float(world.times[n])
        ahead, behind = world.at(t + step, 0.0), world.at(t - step, 0.0)
        slope = (ahead.means[n] - behind.means[n]) / (2 * step)
        found = fields["velocities"][n] * scene.frame.time_span / 2
        assert torch.allclose(found, slope, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("compact", [False, True])
def test_a_saved_scene_renders_what_it_rendered(tmp_path, compact: bool) -> None:
    scene = following_scene(2000)
    scene.save(tmp_path / "scene", compact=compact)
    again = GaussianScene.load(tmp_path / "scene")
    a, b = scene.render(scene.inputs).rgb, again.render(again.inputs).rgb
    if compact:
        assert float((a - b).abs().mean()) < 0.1 / 255
    else:
        assert torch.equal(a, b)
        for one, other in zip(scene.gaussians.tensors(), again.gaussians.tensors(), strict=True):
            assert torch.equal(one, other)


def test_a_compact_scene_saved_again_is_the_same(tmp_path) -> None:
    following_scene().save(tmp_path / "a", compact=True)
    first = GaussianScene.load(tmp_path / "a")
    first.save(tmp_path / "b", compact=True)
    second = GaussianScene.load(tmp_path / "b")
    for one, other in zip(first.gaussians.tensors(), second.gaussians.tensors(), strict=True):
        assert torch.allclose(one, other, rtol=2e-6, atol=4e-5)


def test_bytes_of_a_standing_gaussian(tmp_path) -> None:
    scene = some_scene(8000, degree=0)
    stands = scene.gaussians.stands
    still = dataclasses.replace(scene.gaussians, times=torch.zeros(8000))[stands]
    scene = GaussianScene(still, scene.frame, scene.inputs)
    sizes = {}
    for compact in (False, True):
        scene.save(tmp_path / "scene", compact=compact)
        sizes[compact] = (tmp_path / "scene" / FILE).stat().st_size / len(still)
    # means, scales, rotation, opacity and colour, in bytes; the rest is the header
    assert 56 <= sizes[False] < 57
    assert sizes[True] < 29


def test_files_of_the_first_format_open(tmp_path) -> None:
    scene = some_scene()
    scene.save(tmp_path / "scene")
    path = tmp_path / "scene" / FILE
    tensors = load_file(path)
    fields = dict(zip(Gaussians4D.names(), scene.gaussians.tensors(), strict=True))
    old = {k: t for k, t in tensors.items() if k != "still"} | fields
    save_file({k: t.clone() for k, t in old.items()}, path)
    about = tmp_path / "scene" / "scene.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 1}))
    again = GaussianScene.load(tmp_path / "scene")
    assert torch.equal(scene.render(scene.inputs).rgb, again.render(scene.inputs).rgb)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("follow.index", torch.tensor([5, 3]), "index does not increase"),
        ("follow.weights", torch.zeros(3, 2), "weights has shape"),
        ("follow.quats", None, "lacks the tensor 'follow.quats'"),
        ("still", torch.zeros(1, dtype=torch.uint8), "still has shape"),
    ],
)
def test_damaged_followers_are_refused(tmp_path, name: str, value, says: str) -> None:
    scene = following_scene(100)
    follow = followers(scene.gaussians)
    two = Follow(follow.trajectories, follow.weights[:2], torch.tensor([3, 5]))
    gaussians = dataclasses.replace(scene.gaussians, follow=two)
    GaussianScene(gaussians, scene.frame, scene.inputs).save(tmp_path / "scene")
    path = tmp_path / "scene" / FILE
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors | ({} if value is None else {name: value}), path)
    with pytest.raises(InputError, match=says):
        GaussianScene.load(tmp_path / "scene")


def test_layers_share_out_all_gaussians() -> None:
    scene = following_scene()
    static, moving = scene.layer("static"), scene.layer("moving")
    g = scene.gaussians
    expected = torch.isinf(g.time_scales) & ~g.follows
    assert len(static.gaussians) == int(expected.sum()) > 0
    assert len(static.gaussians) + len(moving.gaussians) == len(g)
    assert static.gaussians.follow is None
    assert len(followers(moving.gaussians)) == len(followers(g))
    a, b = (
        static.render(scene.inputs[:1]),
        static.render(dataclasses.replace(scene.inputs[:1], time=torch.tensor([2.7]))),
    )
    assert torch.equal(a.rgb, b.rgb)
    assert scene.layer("all") is scene
    nothing = static.layer("moving").render(scene.inputs[:1])
    assert nothing.alpha is not None
    assert float(nothing.alpha.max()) == 0.0
    assert not math.isnan(float(nothing.rgb.sum()))
