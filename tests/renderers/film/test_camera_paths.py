"""Camera paths: geometry against closed forms, time modes, and refusal of bad values."""

import math

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import (
    PATH_KINDS,
    fit_intrinsics,
    focus_point,
    look_at,
    make_path,
)
from fsm.views import Views


def _forward_facing(v: int = 9, depth: float = 4.0) -> Views:
    """Cameras on a gentle sideways arc over two uneven seconds, all looking at the point (0, 0,
    depth).
    """
    s = torch.linspace(-1, 1, v, dtype=torch.float64)
    position = torch.stack([0.4 * s, 0.05 * s**2, 0.02 * s], dim=-1)
    target = torch.tensor([0.0, 0.0, depth], dtype=torch.float64).expand(v, 3)
    c2w = look_at(
        position, target, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(v, 3)
    ).float()
    time = 1 + s + 0.3 * (1 - s**2)
    return Views(
        c2w, torch.tensor([200.0, 210.0, 97.0, 71.0]).repeat(v, 1), time.float(), (144, 192)
    )


def _surrounding(v: int = 24) -> Views:
    angle = torch.arange(v, dtype=torch.float64) * (2 * math.pi / v)
    position = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.ones_like(angle)], dim=-1)
    down = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).expand(v, 3)
    c2w = look_at(position, torch.zeros(v, 3, dtype=torch.float64), down).float()
    return Views(
        c2w,
        torch.tensor([200.0, 200.0, 64.0, 64.0]).repeat(v, 1),
        torch.linspace(0, 1, v),
        (128, 128),
    )


def _parallel(v: int = 5, step: float = 0.1) -> Views:
    c2w = torch.eye(4).repeat(v, 1, 1)
    c2w[:, 0, 3] = step * torch.arange(v)
    return Views(
        c2w, torch.tensor([100.0, 100.0, 32.0, 32.0]).repeat(v, 1), 0.5 * torch.arange(v), (64, 64)
    )


@pytest.mark.parametrize("kind", PATH_KINDS)
@pytest.mark.parametrize("time", ["sweep", "follow", "freeze=0.75"])
@pytest.mark.parametrize(
    "inputs", [_forward_facing(), _surrounding(), _parallel(), _parallel(1), _parallel(4, 0.0)]
)
def test_every_path_is_rigid_finite_and_within_the_inputs_time(
    kind: str, time: str, inputs: Views
) -> None:
    if time.startswith("freeze") and len(inputs) == 1:
        time = "freeze=0"
    path = make_path(kind, time, inputs, 20, (96, 128))
    assert len(path) == 20
    assert path.hw == (96, 128)
    assert path.rgb is None
    R = path.c2w[:, :3, :3].double()
    assert torch.allclose(
        R @ R.transpose(-1, -2), torch.eye(3, dtype=torch.float64).expand(20, 3, 3), atol=1e-6
    )
    assert bool((torch.linalg.det(R) > 0).all())
    assert bool(path.intrinsics.isfinite().all())
    assert bool((path.time >= inputs.time.min() - 1e-6).all())
    assert bool((path.time <= inputs.time.max() + 1e-6).all())


def test_input_path_passes_through_the_inputs_at_their_moments() -> None:
    inputs = _parallel(5)
    path = make_path("input", "follow", inputs, 9, (64, 64))  # every second frame falls on an input
    assert torch.allclose(path.time[::2], inputs.time)
    assert torch.allclose(path.c2w[::2], inputs.c2w, atol=1e-6)
    # An even straight motion stays one, between the inputs as well.
    assert torch.allclose(path.c2w[:, 0, 3], torch.linspace(0, 0.4, 9), atol=1e-6)


def test_a_camera_stands_still_while_time_runs() -> None:
    inputs = _forward_facing()
    path = make_path("still=3", "sweep", inputs, 11, inputs.hw)
    assert torch.allclose(path.c2w, inputs.c2w[3].expand(11, 4, 4), atol=1e-5)
    assert torch.allclose(path.time, torch.linspace(0.0, 2.0, 11) + inputs.time[0], atol=1e-5)
    for bad in ("still=9", "still=-1", "still=", "still=1.5"):
        with pytest.raises(InputError, match="N from 0 to 8"):
            make_path(bad, "sweep", inputs, 11, inputs.hw)


def test_input_path_does_not_depend_on_the_order_of_the_inputs() -> None:
    inputs = _forward_facing()
    shuffled = inputs[torch.randperm(len(inputs))]
    assert torch.equal(
        make_path("input", "sweep", shuffled, 7, (144, 192)).c2w,
        make_path("input", "sweep", inputs, 7, (144, 192)).c2w,
    )


def test_several_cameras_of_one_moment_become_a_walk_through_them() -> None:
    inputs = Views(_parallel().c2w, _parallel().intrinsics, torch.full((5,), 2.0), (64, 64))
    path = make_path("input", "sweep", inputs, 5, (64, 64))
    assert torch.allclose(path.c2w, inputs.c2w, atol=1e-6)
    assert path.time.tolist() == [2.0] * 5


def test_interpolate_visits_its_keys_in_equal_steps_and_follow_tells_their_times() -> None:
    inputs = _forward_facing(11)  # keys are every second input
    path = make_path("interpolate", "follow", inputs, 51, (144, 192))
    assert torch.allclose(path.c2w[::10], inputs.c2w[::2], atol=1e-6)
    assert torch.allclose(path.time[::10], inputs.time[::2], atol=1e-6)
    sweep = make_path("interpolate", "sweep", inputs, 51, (144, 192)).time
    assert torch.allclose(
        sweep, torch.linspace(float(inputs.time[0]), float(inputs.time[-1]), 51), atol=1e-6
    )


def test_sweep_and_freeze_set_the_clock() -> None:
    inputs = _forward_facing()
    assert torch.allclose(
        make_path("spiral", "sweep", inputs, 5, (144, 192)).time, torch.linspace(0, 2, 5), atol=1e-6
    )
    assert make_path("orbit", "freeze=1.25", inputs, 3, (144, 192)).time.tolist() == [1.25] * 3


def test_focus_of_converging_cameras_is_where_they_look() -> None:
    focus = focus_point(_forward_facing(depth=3.0).c2w)
    assert focus is not None
    assert torch.allclose(focus, torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64), atol=1e-4)


def test_focus_is_undetermined_for_parallel_axes_and_for_a_panning_camera() -> None:
    assert focus_point(_parallel().c2w) is None
    pan = _surrounding().c2w.clone()
    pan[:, :3, 3] = 0.01 * torch.randn(len(pan), 3)
    pan[:, :3, :3] = pan[:, :3, :3].flip(0)
    assert focus_point(pan) is None


def test_orbit_circles_near_forward_facing_inputs_and_looks_at_the_focus() -> None:
    inputs = _forward_facing(depth=4.0)
    path = make_path("orbit", "sweep", inputs, 40, (144, 192)).c2w.double()
    focus = torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    towards = torch.nn.functional.normalize(focus - path[:, :3, 3], dim=-1)
    assert torch.allclose(path[:, :3, 2], towards, atol=1e-2)
    centre = path[:, :3, 3].mean(0)
    radius = (path[:, :3, 3] - centre).norm(dim=-1)
    assert torch.allclose(radius, radius[0].expand(40), atol=1e-5)
    assert 0.03 * 4 - 0.01 <= float(radius[0]) <= 0.15 * 4 + 0.01
    # the last step closes the circle like all others
    steps = (path - path.roll(1, 0))[:, :3, 3].norm(dim=-1)
    assert torch.allclose(steps, steps[0].expand(40), rtol=1e-3)


def test_orbit_around_surrounded_scene_is_a_full_level_turn() -> None:
    inputs = _surrounding(24)
    path = make_path("orbit", "freeze=0.5", inputs, 24, (128, 128)).c2w
    assert torch.allclose(path[0], inputs.c2w[0], atol=1e-4)
    assert torch.allclose(path[:, 2, 3], torch.ones(24), atol=1e-4)
    assert torch.allclose(path[:, :2, 3].norm(dim=-1), torch.full((24,), 3.0), atol=1e-4)
    angle = torch.atan2(path[:, 1, 3], path[:, 0, 3])
    assert sorted(torch.rad2deg(angle % (2 * math.pi - 1e-4)).round().int().tolist()) == list(
        range(0, 360, 15)
    )


def test_frozen_orbit_stands_where_the_clip_is_at_that_moment() -> None:
    inputs = _parallel(5)
    path = make_path("orbit", "freeze=1.5", inputs, 32, (64, 64)).c2w
    assert torch.allclose(path[:, :3, 3].mean(0), inputs.c2w[3, :3, 3], atol=1e-5)


def test_following_orbit_is_carried_along_the_trajectory() -> None:
    inputs = _parallel(5, step=1.0)
    path = make_path("orbit", "follow", inputs, 401, (64, 64))
    centre = 4.0 * torch.linspace(0, 1, 401)
    radius = (path.c2w[:, :3, 3] - torch.stack([centre, 0 * centre, 0 * centre], -1)).norm(dim=-1)
    assert torch.allclose(radius, radius[0].expand(401), atol=1e-4)
    assert torch.allclose(path.time, torch.linspace(0, 2, 401), atol=1e-6)


def test_spiral_stays_near_its_base_and_returns() -> None:
    path = make_path("spiral", "sweep", _forward_facing(depth=4.0), 200, (144, 192)).c2w
    assert float((path[:, :3, 3] - path[:, :3, 3].mean(0)).abs().max()) <= 0.15 * 4 + 0.05
    assert float((path[0] - path[-1]).abs().max()) < 0.08


def test_look_at_is_opencv() -> None:
    z = torch.zeros(1, 3, dtype=torch.float64)
    pose = look_at(z, z + torch.tensor([0.0, 0.0, 2.0]), z + torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(pose[0], torch.eye(4, dtype=torch.float64))


def test_same_aspect_scales_and_other_aspect_keeps_vertical_field_of_view() -> None:
    views = _forward_facing()  # 144 x 192, f = (200, 210), c = (97, 71)
    half = fit_intrinsics(views, (72, 96))
    assert half.intrinsics[0].tolist() == [100.0, 105.0, 48.5, 35.5]
    square = fit_intrinsics(views, (72, 72))
    assert square.intrinsics[0].tolist() == [100.0, 105.0, 36.0, 36.0]
    assert 72 / float(square.intrinsics[0, 1]) == pytest.approx(144 / 210)


def test_number_of_frames_follows_the_clip_and_the_rate() -> None:
    inputs = _parallel(5)  # two seconds
    assert len(make_path("input", "sweep", inputs, None, (64, 64), fps=10.0)) == 21
    assert len(make_path("orbit", "freeze=1", inputs, None, (64, 64), fps=10.0)) == 30


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "circle"}, "orbit"),
        ({"time": "now"}, "freeze=SECONDS"),
        ({"time": "freeze="}, "freeze=SECONDS"),
        ({"time": "freeze=nan"}, "freeze=SECONDS"),
        ({"time": "freeze=9"}, "from 0.000 to 2.000"),
        ({"frames": 0}, "frames"),
        ({"frames": 10**7}, "frames"),
        ({"frames": None, "fps": 0.0}, "fps is 0"),
        ({"hw": (0, 64)}, "64x0"),
        ({"inputs": _parallel().batched()}, "unbatched"),
    ],
)
def test_bad_values_are_named(change: dict, says: str) -> None:
    good = {"kind": "orbit", "time": "sweep", "inputs": _parallel(), "frames": 8, "hw": (64, 64)}
    with pytest.raises(InputError, match=says):
        make_path(**{**good, **change})
