"""Mirrored training samples: a mirror is a mirror."""

import dataclasses

import pytest
import torch

from fsm.rays import pixel_rays, project
from fsm.train.config import DataConfig
from fsm.train.data import SampleStream, mirrored
from fsm.views import SceneFrame, Views
from tests.small import small_views


def _points(views: Views) -> torch.Tensor:
    """World points in front of every camera of ``views`` [v]."""
    camera = torch.tensor([[0.3, -0.2, 2.0], [-0.5, 0.4, 3.0], [0.1, 0.6, 5.0]])
    return camera @ views.c2w[:, :3, :3].mT + views.c2w[:, None, :3, 3]


def _pair() -> tuple[Views, Views]:
    views = small_views(6, seed=4)
    views = dataclasses.replace(
        views, intrinsics=views.intrinsics + torch.tensor([0.0, 3.0, 2.5, -1.5])
    )
    return views[[0, 2, 3, 5]], views[[4, 1]]


def test_left_right_is_what_a_mirror_shows() -> None:
    inputs, targets = _pair()
    for before, after in zip(
        (inputs, targets), mirrored(inputs, targets, True, False)[:2], strict=True
    ):
        assert torch.equal(before.time, after.time)
        assert torch.allclose(torch.linalg.det(after.c2w[:, :3, :3]), torch.ones(len(after)))
        points = _points(before)
        xy, z = project(points, before.c2w, before.intrinsics)
        mirrored_xy, mirrored_z = project(
            points * torch.tensor([-1.0, 1.0, 1.0]), after.c2w, after.intrinsics
        )
        torch.testing.assert_close(mirrored_z, z)
        torch.testing.assert_close(
            mirrored_xy[..., 0], before.hw[1] - xy[..., 0], rtol=0, atol=2e-5
        )
        torch.testing.assert_close(mirrored_xy[..., 1], xy[..., 1], rtol=0, atol=2e-5)
        assert before.rgb is not None
        assert after.rgb is not None
        assert torch.equal(after.rgb, before.rgb.flip(-1))


def test_the_ray_of_a_pixel_is_mirrored_with_it() -> None:
    inputs, targets = _pair()
    after = mirrored(inputs, targets, True, False)[0]
    flip = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    for before_rays, after_rays in zip(pixel_rays(inputs), pixel_rays(after), strict=True):
        torch.testing.assert_close(after_rays, before_rays.flip(-1) * flip)


@pytest.mark.parametrize("left_right", [False, True])
def test_twice_in_the_mirror_is_nothing(left_right: bool) -> None:
    inputs, targets = _pair()
    inputs = dataclasses.replace(inputs, mask=torch.rand(len(inputs), 1, *inputs.hw) > 0.5)
    once = mirrored(inputs, targets, left_right, True)[:2]
    a, b, order = mirrored(*once, left_right, True)
    assert order.tolist() == [3, 2, 1, 0]
    # Backwards twice, a sample starts at zero: only differences of time mean anything.
    start = torch.cat([inputs.time, targets.time]).min()
    for before, after in ((inputs, a), (targets, b)):
        torch.testing.assert_close(after.time, before.time - start)
        torch.testing.assert_close(after.intrinsics, before.intrinsics)
        for name in ("c2w", "rgb", "mask"):
            if getattr(before, name) is not None:
                assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_backwards_keeps_frames_with_their_cameras_and_sorts_the_inputs() -> None:
    inputs, targets = _pair()
    back_inputs, back_targets, _ = mirrored(inputs, targets, False, True)
    assert bool((back_inputs.time.diff() > 0).all())
    assert torch.equal(back_inputs.c2w, inputs.c2w.flip(0))
    assert torch.equal(back_targets.c2w, targets.c2w)
    torch.testing.assert_close(back_inputs.time.flip(0), 0.5 - inputs.time)
    torch.testing.assert_close(back_targets.time, 0.5 - targets.time)
    same = mirrored(inputs, targets, False, False)
    assert torch.equal(same[0].time, inputs.time)
    assert torch.equal(same[1].c2w, targets.c2w)


def test_depth_of_the_inputs_follows_them_through_every_mirror() -> None:
    """The depth of a mirrored sample's inputs is what the world, asked for the mirrored cameras'
    originals, says.
    """
    data = DataConfig(hw=(32, 32), batch=1, inputs=(5,), targets=2, window=(12, 12), mirror=True)
    plain = dataclasses.replace(data, mirror=False)
    seen = set()
    for step in range(12):
        one, other = (SampleStream([(0, d)], seed=3).batch(step) for d in (plain, data))
        assert one.inputs.rgb is not None
        assert other.inputs.rgb is not None
        matches = [
            (flip, turn)
            for flip in (False, True)
            for turn in (False, True)
            if torch.equal(_turned(one.inputs.rgb, flip, turn), other.inputs.rgb)
        ]
        assert len(matches) == 1
        assert torch.equal(_turned(one.input_depth, *matches[0]), other.input_depth)
        seen.add(matches[0])
    assert len(seen) == 4


def _turned(images: torch.Tensor, left_right: bool, in_time: bool) -> torch.Tensor:
    images = images.flip(-1) if left_right else images
    return images.flip(1) if in_time else images


def test_a_mirrored_clip_is_normalised_to_the_mirror_of_its_normalisation() -> None:
    """So that training on mirrors is training on what the model would see of a mirrored world."""
    inputs, targets = _pair()
    mirror_inputs, _, _ = mirrored(inputs, targets, True, False)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    before = SceneFrame.fit(inputs).to_model(inputs).c2w
    after = SceneFrame.fit(mirror_inputs).to_model(mirror_inputs).c2w
    torch.testing.assert_close(after, flip @ before @ flip, rtol=1e-5, atol=1e-5)
