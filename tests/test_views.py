"""Pixels and intrinsics move together; space and time maps are invertible and fitted on the inputs
only.
"""

import dataclasses
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.errors import InputError
from fsm.frame_ids import clip_frame_ids, no_frames
from fsm.rays import pixel_rays, plucker, project, unproject
from fsm.views import MODEL_TIME_LIMIT, SceneFrame, Views


def random_rotation(generator: torch.Generator, *batch: int) -> torch.Tensor:
    q, r = torch.linalg.qr(torch.randn(*batch, 3, 3, generator=generator))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return torch.where(torch.linalg.det(q)[..., None, None] < 0, -q, q)


def random_views(
    v: int = 4, hw: tuple[int, int] = (24, 32), seed: int = 0, rgb: bool = True
) -> Views:
    g = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4).repeat(v, 1, 1)
    c2w[:, :3, :3] = random_rotation(g, v)
    c2w[:, :3, 3] = torch.randn(v, 3, generator=g)
    intrinsics = torch.tensor([hw[1] * 0.9, hw[1] * 0.95, hw[1] / 2 + 1.0, hw[0] / 2 - 0.5]).expand(
        v, 4
    )
    image = torch.rand(v, 3, *hw, generator=g) if rgb else None
    return Views(c2w, intrinsics, torch.arange(v) / 10.0, hw, image)


@given(st.integers(0, 10_000), st.integers(8, 40), st.integers(8, 40))
@settings(max_examples=25, deadline=None)
def test_resizing_keeps_the_ray_of_an_image_point(seed: int, h: int, w: int) -> None:
    views = random_views(2, seed=seed, rgb=False)
    resized = views.resized((h, w))
    point = torch.tensor([[[1.0, 2.0, 30.0]]]).expand(2, 1, 3)
    before, _ = project(point, views.c2w, views.intrinsics)
    after, _ = project(point, resized.c2w, resized.intrinsics)
    expected = before * torch.tensor([w / views.hw[1], h / views.hw[0]])
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-3)


def test_halving_halves_focal_length_and_centre_exactly() -> None:
    views = random_views(hw=(512, 512), rgb=False)
    torch.testing.assert_close(
        views.resized((256, 256)).intrinsics, views.intrinsics / 2, rtol=0, atol=0
    )


@given(st.integers(0, 8), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_cropping_keeps_rays_and_pixels(top: int, left: int) -> None:
    views = random_views()
    crop = views.cropped(top, left, (12, 16))
    window = (..., slice(top, top + 12), slice(left, left + 16))
    assert views.rgb is not None
    assert crop.rgb is not None
    assert torch.equal(crop.rgb, views.rgb[window])
    for whole, part in zip(pixel_rays(views), pixel_rays(crop), strict=True):
        torch.testing.assert_close(part, whole[window], rtol=1e-5, atol=1e-6)


def test_covering_crops_the_centre_and_never_stretches() -> None:
    views = random_views(hw=(30, 60))
    out = views.covering((20, 20))
    assert out.hw == (20, 20)
    ratio = out.intrinsics[:, 0] / out.intrinsics[:, 1]
    torch.testing.assert_close(ratio, views.intrinsics[:, 0] / views.intrinsics[:, 1])


def test_crop_outside_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="leaves the image"):
        random_views().cropped(20, 0, (12, 16))


def test_indexing_cat_and_stack_round_trip() -> None:
    views = random_views(5)
    again = Views.cat([views[:2], views[2], views[[3, 4]]])
    batch = Views.stack([views, again])
    for field in dataclasses.fields(Views):
        value = getattr(views, field.name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, field.name))
            assert torch.equal(value, getattr(batch[:5], field.name)[1])
    assert batch.c2w.shape == (2, 5, 4, 4)
    assert len(batch) == 5


def test_shapes_that_disagree_are_named() -> None:
    # In a process of its own: under the test run's type checker the mistake would not get as far as
    # our message.
    code = (
        "import torch; from fsm import Views; Views(torch.eye(4)[None], torch.ones(1, 4), "
        "torch.ones(2), (8, 8))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: Views.time has shape (2,), expected (1,)" in done.stderr


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_project_inverts_unproject(seed: int) -> None:
    views = random_views(3, seed=seed, rgb=False)
    g = torch.Generator().manual_seed(seed)
    pixels = torch.rand(3, 7, 2, generator=g) * 30
    depth = 0.5 + 5 * torch.rand(3, 7, generator=g)
    again, z = project(
        unproject(pixels, depth, views.c2w, views.intrinsics), views.c2w, views.intrinsics
    )
    torch.testing.assert_close(again, pixels, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(z, depth, rtol=1e-4, atol=1e-4)


def test_rays_pass_through_unprojected_pixel_centres() -> None:
    views = random_views(2, hw=(6, 8), rgb=False)
    origin, direction = pixel_rays(views)
    ys, xs = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    pixels = torch.stack([xs, ys], -1).reshape(1, -1, 2).expand(2, -1, 2)
    points = unproject(pixels, torch.full((2, 48), 2.0), views.c2w, views.intrinsics)
    towards = points - origin.flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        towards / towards.norm(dim=-1, keepdim=True), direction.flatten(2).transpose(1, 2)
    )


def test_plucker_moment_is_orthogonal_and_the_same_for_any_point_of_the_ray() -> None:
    origin, direction = pixel_rays(random_views(2, rgb=False))
    moment = plucker(origin, direction)[..., 3:, :, :]
    further = plucker(origin + 3.0 * direction, direction)[..., 3:, :, :]
    assert (moment * direction).sum(-3).abs().max() < 1e-5
    torch.testing.assert_close(moment, further, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_scene_frame_round_trips_and_bounds_the_inputs(seed: int) -> None:
    views = random_views(5, seed=seed, rgb=False)
    frame = SceneFrame.fit(views)
    model = frame.to_model(views)
    T_world_model = torch.linalg.inv(frame.T_model_world)
    centres = model.c2w[:, :3, 3] / frame.scale
    again = centres @ T_world_model[:3, :3].T + T_world_model[:3, 3]
    assert model.c2w[:, :3, 3].abs().max() <= 1.0 + 1e-5
    assert model.time.min() == -1.0
    torch.testing.assert_close(model.time.max(), torch.tensor(1.0))
    torch.testing.assert_close(again, views.c2w[:, :3, 3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(frame.seconds(model.time), views.time, rtol=1e-5, atol=1e-5)
    rotations = model.c2w[:, :3, :3]
    torch.testing.assert_close(
        rotations @ rotations.transpose(-1, -2), torch.eye(3).expand(5, 3, 3), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_scene_frame_does_not_depend_on_the_unit_of_length(scale: float) -> None:
    views = random_views(4, rgb=False)
    c2w = views.c2w.clone()
    c2w[:, :3, 3] *= scale
    scaled = dataclasses.replace(views, c2w=c2w)
    torch.testing.assert_close(
        SceneFrame.fit(scaled).to_model(scaled).c2w,
        SceneFrame.fit(views).to_model(views).c2w,
        rtol=1e-4,
        atol=1e-4,
    )


def test_cameras_in_one_point_and_moment_are_not_divided_by_zero() -> None:
    views = random_views(1, rgb=False)[[0, 0, 0]]
    model = SceneFrame.fit(views).to_model(views)
    assert torch.isfinite(model.c2w).all()
    assert (model.time == -1).all()


def test_scene_frame_is_fitted_per_sample() -> None:
    a, b = random_views(4, seed=1, rgb=False), random_views(4, seed=2, rgb=False)
    both = Views.stack([a, b])
    together = SceneFrame.fit(both).to_model(both)
    torch.testing.assert_close(together.c2w[1], SceneFrame.fit(b).to_model(b).c2w)


def test_time_far_outside_the_inputs_is_held_with_a_warning() -> None:
    frame = SceneFrame.fit(random_views(4, rgb=False))
    assert frame.at(100.0).item() == MODEL_TIME_LIMIT
    with pytest.warns(UserWarning, match="outside the inputs"):
        frame.warn_if_held(torch.tensor([100.0]))


def ids_of(views: Views) -> torch.Tensor:
    assert views.frame_ids is not None
    return views.frame_ids


def test_frame_ids_stay_with_their_views() -> None:
    ids = clip_frame_ids("walk", torch.arange(4) / 10.0)
    views = dataclasses.replace(random_views(), frame_ids=ids)
    assert torch.equal(ids_of(views[[2, 0]]), ids[[2, 0]])
    assert torch.equal(ids_of(views.batched().unbatched()), ids)
    in_model = SceneFrame.fit(views).to_model(views)
    for same in (views.without_rgb(), views.covering((16, 16)), in_model):
        assert torch.equal(ids_of(same), ids)
    both = Views.cat([views, random_views()])
    assert torch.equal(ids_of(both), torch.cat([ids, no_frames((4,))]))
    assert ids_of(Views.stack([random_views(), views]))[0].eq(-1).all()
    assert Views.cat([random_views(), random_views()]).frame_ids is None
