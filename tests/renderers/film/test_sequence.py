"""Sequences through a scene whose pictures tell which view they show; depth colours against the
colour map's ends.
"""

from pathlib import Path

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.film.sequence import colourise_depth, depth_range, render_sequence
from fsm.views import Rendering, Views


class Clock:
    """A scene that shows its time as grey and, if asked to, twice its time as depth."""

    def __init__(self, depth: bool = True) -> None:
        self.depth = depth
        self.sizes: list[int] = []

    frames_seen = None

    def render(self, views: Views) -> Rendering:
        assert not torch.is_grad_enabled()
        self.sizes.append(len(views))
        picture = views.time[:, None, None, None].expand(-1, 3, *views.hw)
        return Rendering(rgb=picture, depth=2 * picture[:, :1] if self.depth else None)

    def save(self, path: Path | str) -> None:
        raise NotImplementedError


def _path(n: int) -> Views:
    return Views(
        torch.eye(4).repeat(n, 1, 1), torch.ones(n, 4), torch.arange(1, n + 1).float(), (4, 6)
    )


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_frames_come_one_by_one_in_order_in_bounded_batches(batch: int) -> None:
    scene = Clock()
    frames = list(render_sequence(scene, _path(10), batch))
    assert [float(f.rgb[0, 0, 0, 0]) for f in frames] == list(range(1, 11))
    assert all(
        f.rgb.shape == (1, 3, 4, 6) and f.depth is not None and f.alpha is None for f in frames
    )
    assert max(scene.sizes) == min(batch, 10)
    assert sum(scene.sizes) == 10


def test_rendering_is_lazy_and_leaves_gradients_as_they_are() -> None:
    scene = Clock()
    frames = render_sequence(scene, _path(10), 2)
    next(frames)
    assert torch.is_grad_enabled()
    assert sum(scene.sizes) == 2


def test_bad_batch_is_named() -> None:
    with pytest.raises(InputError, match="batch is 0"):
        next(render_sequence(Clock(), _path(2), 0))


def test_depth_range_spans_the_path() -> None:
    near, far = depth_range(Clock(), _path(50))
    assert near == pytest.approx(2.0, rel=0.02)
    assert far == pytest.approx(100.0, rel=0.02)


def test_scene_without_depth_is_named() -> None:
    with pytest.raises(InputError, match="no depth"):
        depth_range(Clock(depth=False), _path(3))


def test_depth_colours_are_ordered_held_and_black_where_unknown() -> None:
    depth = torch.tensor([1.0, 2.0, 4.0, 0.5, 9.0, 0.0, -1.0, float("nan"), float("inf")]).view(
        1, 1, 9
    )
    rgb = colourise_depth(depth, 2.0, 4.0)[:, 0].T
    assert torch.equal(rgb[0], rgb[1])  # nearer than near
    assert torch.equal(rgb[3], rgb[1])
    assert torch.equal(rgb[4], rgb[2])  # further than far
    assert float(rgb[5:].abs().max()) == 0
    assert float(rgb[1, 0]) > float(rgb[1, 2])  # near is red
    assert float(rgb[2, 2]) > float(rgb[2, 0])  # far is blue
    # Linear in inverse depth: 1/d halfway between 1/2 and 1/4 is the middle of the map, whatever
    # the range.
    middle = colourise_depth(torch.full((1, 1, 1), 8 / 3), 2.0, 4.0)
    assert torch.equal(middle, colourise_depth(torch.full((1, 1, 1), 4 / 3), 1.0, 2.0))


@pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_bad_depth_ranges_are_named(near: float, far: float) -> None:
    with pytest.raises(InputError, match="depth range"):
        colourise_depth(torch.ones(1, 2, 2), near, far)
