"""Parameters there and back."""

import dataclasses

import torch

from fsm.refine.parameters import FreeGaussians, rotation
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.rotations import rotation_3d
from tests.refine.small_scenes import some_gaussians


def _wild(n: int = 400) -> Gaussians4D:
    """Any rotation, scales over four orders of magnitude, durations from a frame to many clips."""
    return dataclasses.replace(
        some_gaussians(n),
        scales=torch.exp(2.0 * torch.randn(n, 3) - 3.0).clamp_max(5.0),
        time_scales=torch.exp(1.5 * torch.randn(n)).clamp_max(5.0),
        right=torch.randn(n, 4),
        opacities=0.001 + 0.998 * torch.rand(n),
    )


def _same_motion(found: MovingGaussians, expected: MovingGaussians) -> None:
    for name in MovingGaussians.names():
        a, b = (
            getattr(m, name).flatten(1) if name == "sh" else getattr(m, name)
            for m in (found, expected)
        )
        size = b.reshape(len(b), -1).norm(dim=1).clamp_min(1e-6)
        off = (a - b).reshape(len(b), -1).norm(dim=1) / size
        assert float(off.max()) < 5e-5, name


def test_parameters_mean_the_same_gaussians_there_and_back() -> None:
    gaussians = _wild()
    free = FreeGaussians.from_gaussians(gaussians)
    _same_motion(free.moving(), gaussians.condition())
    _same_motion(free.gaussians().condition(), gaussians.condition())


def test_rows_hold_every_parameter_and_views_write_through() -> None:
    free = FreeGaussians.from_gaussians(some_gaussians(7, sh_degree=1))
    columns = free.packed()
    again = FreeGaussians.unpacked(columns)
    for field in dataclasses.fields(FreeGaussians):
        assert torch.equal(getattr(again, field.name), getattr(free, field.name))
    again.times.fill_(9.0)
    assert torch.equal(FreeGaussians.unpacked(columns).times, torch.full((7,), 9.0))


def test_rotation_is_that_of_the_renderer() -> None:
    quats = torch.randn(20, 4)
    torch.testing.assert_close(rotation(quats), rotation_3d(quats), atol=1e-6, rtol=0)


def test_standing_gaussians_look_the_same_at_their_moment_and_never_change() -> None:
    moving = FreeGaussians.from_gaussians(some_gaussians(200))
    standing = moving.standing(-1.0)
    now, later = (standing.moving().at(torch.tensor(t)) for t in (-1.0, 2.5))
    expected = moving.moving().at(torch.tensor(-1.0))
    for field in dataclasses.fields(expected):
        one, other, third = (getattr(g, field.name) for g in (now, expected, later))
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert torch.equal(one, third)
    assert bool(standing.gaussians().is_static.all())
