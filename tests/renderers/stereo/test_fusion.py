"""Depth fusion, on worlds whose depth and motion are known."""

import dataclasses

import torch

from fsm.datasets.world.world import World
from fsm.renderers.stereo.config import FusionConfig
from fsm.renderers.stereo.fusion import fused, spread_order
from fsm.renderers.stereo.layers import Layers
from fsm.views import SceneFrame, Views

HW = (64, 64)


def filmed(seed: int, still: bool) -> tuple[Views, Layers, torch.Tensor]:
    """Six frames of a world in model space with their true depth; and what moves."""
    world = World.sample([seed])
    path = world.camera_path(torch.arange(6)[None] / 2.0, HW)
    if still:
        path = dataclasses.replace(path, time=torch.zeros_like(path.time))
    seen = world.render(path)
    views = dataclasses.replace(path, rgb=seen.rgb)
    frame = SceneFrame.fit(views)
    assert seen.depth is not None
    rho = 1.0 / (seen.depth * frame.scale)
    nothing = torch.zeros_like(rho)
    layers = Layers(rho, nothing, nothing.expand(-1, -1, 3, -1, -1), 1.0 - nothing)
    return frame.to_model(views), layers, world.moving(path, path.time)


def test_what_stands_is_kept_once() -> None:
    views, layers, _ = filmed(3103, still=True)
    surfaces = fused(views, layers, FusionConfig())
    assert float(surfaces.standing.float().mean()) > 0.9
    assert 1.0 / 6.0 <= float(surfaces.turns.kept.float().mean()) < 0.6
    assert float(surfaces.turns.kept[:, 0].float().mean()) > 0.9


def test_what_moves_does_not_stand_where_its_colour_shows_it() -> None:
    views, layers, moving = filmed(3100, still=False)
    surfaces = fused(views, layers, FusionConfig())
    assert float(moving.float().mean()) > 0.03
    kept = surfaces.standing.float()
    assert float(kept[moving].mean()) < 0.7 < 0.9 < float(kept[~moving].mean())


def test_a_wrong_depth_of_a_static_capture_is_left_out() -> None:
    views, layers, _ = filmed(3103, still=True)
    wrong = layers.inverse_depth.clone()
    block = (slice(None), 2, slice(None), slice(40, 56), slice(20, 44))
    wrong[block] = 1.5 * wrong[block] + 0.3
    found = fused(views, dataclasses.replace(layers, inverse_depth=wrong), FusionConfig())
    sound = fused(views, layers, FusionConfig())
    assert float(found.standing[block].float().mean()) < 0.4
    assert float(sound.standing[block].float().mean()) > 0.9


def test_what_is_said_to_move_never_stands_and_is_always_kept() -> None:
    views, layers, _ = filmed(3103, still=False)
    moving = torch.ones_like(layers.moving)
    surfaces = fused(views, dataclasses.replace(layers, moving=moving), FusionConfig())
    assert not bool(surfaces.standing.any())
    assert bool(surfaces.turns.kept.all())


def test_one_view_is_a_surface() -> None:
    views, layers, _ = filmed(3103, still=True)
    surfaces = fused(views[:1], layers[:1], FusionConfig())
    assert bool(surfaces.standing.all())
    assert bool(surfaces.turns.kept.all())


def test_every_beginning_of_the_order_is_spread() -> None:
    assert spread_order(8) == [0, 4, 2, 6, 1, 3, 5, 7]
    for n in (1, 2, 3, 7, 32):
        assert sorted(spread_order(n)) == list(range(n))
