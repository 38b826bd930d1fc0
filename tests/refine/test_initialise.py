"""Gaussians from frames alone: they lie on surfaces, in the colours of the pixels, or say why they
cannot.
"""

import dataclasses

import pytest
import torch

from fsm.datasets.world.clip import WorldClip
from fsm.errors import InputError
from fsm.refine.initialise import NEAREST, STAYS, constant_background, random_gaussians
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.views import SceneFrame, Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians


@pytest.fixture(scope="module")
def clip() -> WorldClip:
    return WorldClip(seed=8, frames=48, hw=(48, 48))


def test_points_lie_on_what_the_frames_show(clip: WorldClip) -> None:
    inputs = clip.views()
    frame = SceneFrame.fit(inputs)
    found = random_gaussians(inputs, frame, 600, seed=1)
    views = frame.to_model(inputs)
    depth = clip.depth(range(48))[:, 0] * frame.scale
    stays = found.time_scales == STAYS  # where something moves, frames cannot agree on a depth
    assert 100 < int(stays.sum()) < 600
    off, guess, colour = [], [], []
    assert inputs.rgb is not None
    for i in range(48):
        mine = (found.times == views.time[i]) & stays
        local = (found.means[mine] - views.c2w[i, :3, 3]) @ views.c2w[i, :3, :3]
        fx, fy, cx, cy = views.intrinsics[i]
        x = (local[:, 0] / local[:, 2] * fx + cx).long()
        y = (local[:, 1] / local[:, 2] * fy + cy).long()
        off.append((local[:, 2] / depth[i, y, x] - 1.0).abs())
        guess.append((1.0 / (NEAREST * torch.rand(len(x))) / depth[i, y, x] - 1.0).abs())
        colour.append((found.sh[mine, 0] * SH_C0 + 0.5 - inputs.rgb[i, :, y, x].T).abs())
    off, guess, colour = torch.cat(off), torch.cat(guess), torch.cat(colour)
    assert float(off.median()) < 0.2
    assert float(off.median()) < 0.4 * float(guess.median())
    # Rays go through pixel centres, so that rounding cannot land in the next pixel.
    assert float(colour.max()) < 1e-5


def test_draws_depend_on_the_seed_alone(clip: WorldClip) -> None:
    inputs = clip.views([0, 4, 8])
    frame = SceneFrame.fit(inputs)
    one, again, other = (random_gaussians(inputs, frame, 50, seed) for seed in (3, 3, 4))
    assert torch.equal(one.means, again.means)
    assert not torch.equal(one.means, other.means)
    assert len(random_gaussians(inputs, frame, 1)) == 1


def test_background_is_what_borders_share() -> None:
    white = filmed(scene_of(some_gaussians(20), ring(), torch.tensor([1.0, 1.0, 1.0])), ring())
    assert white.rgb is not None
    found = constant_background(white)
    assert found is not None
    assert found.tolist() == [1.0, 1.0, 1.0]
    noise = dataclasses.replace(white, rgb=torch.rand_like(white.rgb))
    assert constant_background(noise) is None
    assert constant_background(white.without_rgb()) is None


def test_pixels_of_the_background_are_not_taken() -> None:
    cloud = some_gaussians(20)
    white = filmed(
        scene_of(dataclasses.replace(cloud, sh=-1.5 * torch.ones(20, 1, 3)), ring(), torch.ones(3)),
        ring(),
    )
    found = random_gaussians(white, SceneFrame.fit(white), 200)
    assert float((found.sh * SH_C0 + 0.5).max()) < 1.0


@pytest.mark.parametrize("what", ["one", "blind", "empty"])
def test_what_cannot_be_started_from_is_refused(what: str) -> None:
    views = ring(3)
    empty = dataclasses.replace(views, rgb=torch.ones(3, 3, *views.hw))
    given: Views = {"one": empty[0], "blind": views, "empty": empty}[what]
    with pytest.raises(
        InputError, match="nothing to refine" if what == "empty" else "at least 2 with colours"
    ):
        random_gaussians(given, SceneFrame.fit(given), 10)


def test_of_a_static_capture_neighbours_are_cameras_close_in_space(clip: WorldClip) -> None:
    """One moment of the world from cameras in a random order: depths are as good as in a film."""
    order = torch.randperm(48, generator=torch.Generator().manual_seed(2))
    cameras = dataclasses.replace(clip.cameras[order], time=torch.zeros(48))
    truth = clip.truth(cameras)
    assert truth.depth is not None
    inputs = dataclasses.replace(cameras, rgb=truth.rgb)
    frame = SceneFrame.fit(inputs)
    found = random_gaussians(inputs, frame, 600, seed=1)
    assert bool(found.is_static.all())
    views = frame.to_model(inputs)
    off = []
    for i in range(48):
        local = (found.means - views.c2w[i, :3, 3]) @ views.c2w[i, :3, :3]
        fx, fy, cx, cy = views.intrinsics[i]
        x, y = local[:, 0] / local[:, 2] * fx + cx, local[:, 1] / local[:, 2] * fy + cy
        # pixels keep their ray, so each lies on the centre of a pixel of its own frame
        centred = ((x - x.floor() - 0.5).abs() < 1e-3) & ((y - y.floor() - 0.5).abs() < 1e-3)
        mine = centred & (local[:, 2] > 0) & (x > 0) & (x < 48) & (y > 0) & (y < 48)
        depth = truth.depth[i, 0, y[mine].long(), x[mine].long()] * frame.scale
        off.append((local[mine, 2] / depth - 1.0).abs())
    assert len(torch.cat(off)) >= 600
    assert float(torch.cat(off).median()) < 0.1
