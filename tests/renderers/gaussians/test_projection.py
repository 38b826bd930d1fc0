"""Gaussians to splats: the torch twin against gsplat's equations, the compiled twin against the
torch twin.
"""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from fsm.renderers.gaussians.constants import LEAST_ALPHA
from fsm.renderers.gaussians.projection import project_gaussians
from fsm.renderers.gaussians.projection_plain import project_gaussians as project_plain
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import GSPLAT, Gaussians3D, Projection, Splats
from fsm.views import Views
from tests.renderers.gaussian_examples import fields, some_camera, some_gaussians

TWINS = [project_plain, project_gaussians]
NAMES = ("centres", "conics", "depths", "opacities", "colours", "radii")


def peers(g: Gaussians3D, camera: Views, blur: float = 0.3) -> tuple[torch.Tensor, ...]:
    """gsplat's torch functions: centres, depths, conics and compensations of all Gaussians, none
    left out.
    """
    _fully_fused_projection = pytest.importorskip("gsplat.cuda._torch_impl")._fully_fused_projection

    fx, fy, cx, cy = camera.intrinsics[0].tolist()
    k = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).to(g.means)
    w2c = torch.linalg.inv(camera.c2w[0].to(g.means))
    h, w = camera.hw
    covariances = covariance_matrix(g.covariances)
    _, *found = _fully_fused_projection(
        g.means, covariances, w2c[None], k[None], w, h, eps2d=blur, calc_compensations=True
    )
    return tuple(t[0] for t in found if t is not None)


def numbered(g: Gaussians3D) -> Gaussians3D:
    """Red tells which one a splat is."""
    sh = torch.zeros(len(g), 1, 3).to(g.sh)
    sh[:, 0, 0] = torch.arange(len(g)).to(g.sh) / len(g) / SH_C0
    return dataclasses.replace(g, sh=sh)


def numbers(splats: Splats, n: int) -> torch.Tensor:
    return ((splats.colours[:, 0] - 0.5) * n).round().long()


@pytest.mark.parametrize("blur", [0.3, 0.1])
def test_centres_conics_depths_and_dimming_are_gsplats(blur: float) -> None:
    g, camera = numbered(some_gaussians(2000)), some_camera()
    splats = project_plain(g, camera, Projection(blur=blur, antialiased=True))
    index = numbers(splats, len(g))
    assert len(index) > 300
    double = Gaussians3D(*(t.double() for t in fields(g)))
    centres, depths, conics, dimming = peers(double, camera, blur)
    assert torch.allclose(splats.centres.double(), centres[index], rtol=1e-5, atol=1e-4)
    assert torch.allclose(splats.depths.double(), depths[index], rtol=1e-5)
    scale = (conics[index, 0] + conics[index, 2])[:, None]
    assert float(((splats.conics - conics[index]) / scale).abs().max()) < 1e-5
    assert torch.allclose(
        splats.opacities.double(), double.opacities[index] * dimming[index], rtol=1e-4
    )


def test_rotations_and_scales_make_gsplats_covariances() -> None:
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci

    from fsm.renderers.gaussians.gaussians4d import Gaussians4D

    quats, scales = torch.randn(100, 4), torch.rand(100, 3) + 0.01
    g = Gaussians4D.static(
        torch.zeros(100, 3), quats, scales, torch.ones(100), torch.zeros(100, 1, 3)
    ).at(3.0)
    expected, _ = _quat_scale_to_covar_preci(
        quats.double(), scales.double(), True, False, triu=True
    )
    assert expected is not None
    assert torch.allclose(g.covariances.double(), expected, atol=1e-6)


@pytest.mark.parametrize("project", TWINS)
@pytest.mark.parametrize("antialiased", [False, True])
def test_nothing_that_would_show_in_a_pixel_is_left_out(
    project: Callable[..., Splats], antialiased: bool
) -> None:
    few = [some_gaussians(400, size=s, seed=i) for i, s in enumerate((0.001, 0.05, 1.0))]
    g, camera = numbered(Gaussians3D.cat(few)), some_camera((24, 32))
    g = dataclasses.replace(
        g, opacities=torch.where(torch.arange(len(g)) % 5 == 0, LEAST_ALPHA * 1.01, g.opacities)
    )
    splats = project(g, camera, Projection(antialiased=antialiased))
    index = numbers(splats, len(g))
    double = Gaussians3D(*(t.double() for t in fields(g)))
    centres, depths, conics, dimming = peers(double, camera)
    boxes = torch.zeros(len(g), 2, dtype=torch.float64)
    boxes[index] = splats.radii.double()
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    d = torch.stack([x, y], -1).view(-1, 2).double() - centres[:, None]
    sigma = 0.5 * (conics[:, None, 0] * d[..., 0] ** 2 + conics[:, None, 2] * d[..., 1] ** 2)
    sigma = sigma + conics[:, None, 1] * d[..., 0] * d[..., 1]
    alpha = (double.opacities * (dimming if antialiased else 1.0))[:, None] * torch.exp(-sigma)
    visible = (alpha >= LEAST_ALPHA) & (depths >= GSPLAT.near)[:, None]
    inside = (d.abs() <= boxes[:, None]).all(-1)
    assert int(visible.sum()) > 10_000
    assert not bool((visible & ~inside).any())


def both(g: Gaussians3D, camera: Views, projection: Projection):
    """Splats of either twin, and gradients for random ones over all their fields."""
    results = []
    for project in TWINS:
        leaves = tuple(t.clone().requires_grad_() for t in fields(g))
        splats = project(Gaussians3D(*leaves), camera, projection)
        generator = torch.Generator().manual_seed(1)
        outputs = [getattr(splats, name) for name in NAMES[:5]]
        upstream = [torch.randn(o.shape, generator=generator) for o in outputs]
        results.append((splats, torch.autograd.grad(outputs, leaves, upstream)))
    return results


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_compiled_twin_agrees_in_values_and_gradients(degree: int, antialiased: bool) -> None:
    g, camera = some_gaussians(6000, degree), some_camera()
    (one, one_gradients), (other, other_gradients) = both(
        g, camera, Projection(antialiased=antialiased)
    )
    assert len(one.depths) == len(other.depths) > 1000
    assert one.dropped == other.dropped == 0
    for name in NAMES:
        a, b = getattr(one, name), getattr(other, name)
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.detach().abs().mean())), name
    for a, b in zip(one_gradients, other_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().mean()))


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_are_those_of_finite_differences(antialiased: bool) -> None:
    g, camera = some_gaussians(60, 2, size=0.2), some_camera()
    double = tuple(t.double() for t in fields(g))
    camera = dataclasses.replace(
        camera, c2w=camera.c2w.double(), intrinsics=camera.intrinsics.double()
    )

    def outputs(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        splats = project_plain(Gaussians3D(*leaves), camera, Projection(antialiased=antialiased))
        return tuple(getattr(splats, name) for name in NAMES[:5])

    assert len(outputs(*double)[0]) > 15
    assert torch.autograd.gradcheck(
        outputs, tuple(t.requires_grad_() for t in double), fast_mode=True
    )


def test_needles_keep_their_shape_in_float32() -> None:
    g = some_gaussians(500)
    thin = torch.tensor([1.0, 1e-3, 1e-4])
    half = torch.linalg.qr(torch.randn(500, 3, 3))[0] * thin
    full = half @ half.transpose(-1, -2)
    g = dataclasses.replace(numbered(g), covariances=full.flatten(1)[:, [0, 1, 2, 4, 5, 8]])
    camera = some_camera((256, 256))
    expected = project_plain(
        Gaussians3D(*(t.double() for t in fields(g))),
        dataclasses.replace(camera, c2w=camera.c2w.double(), intrinsics=camera.intrinsics.double()),
    )
    for project in TWINS:
        splats = project(g, camera)
        assert torch.equal(numbers(splats, 500), numbers(expected, 500))
        error = (splats.conics - expected.conics).abs().amax(-1) / expected.conics.abs().amax(-1)
        assert float(error.max()) < 2e-4  # 2e-3 where the ellipse is float32


def bad_gaussians() -> tuple[Gaussians3D, list[int]]:
    """Good ones among which every field is spoilt in turn; and where."""
    g = some_gaussians(64, 1)
    g = dataclasses.replace(g, means=0.1 * g.means)
    means, covariances, opacities, sh = (t.clone() for t in fields(g))
    means[3, 1], means[5, 0], covariances[8, 4], covariances[10, 0] = (
        math.nan,
        math.inf,
        math.nan,
        -math.inf,
    )
    opacities[12], opacities[13], sh[20, 2, 1], sh[63, 0, 0] = (
        math.nan,
        math.inf,
        math.nan,
        -math.inf,
    )
    covariances[30, 3] = -1.0
    return Gaussians3D(means, covariances, opacities, sh), [3, 5, 8, 10, 12, 13, 20, 30, 63]


@pytest.mark.parametrize("project", TWINS)
def test_values_that_are_none_are_dropped_and_counted(project: Callable[..., Splats]) -> None:
    g, bad = bad_gaussians()
    good = torch.ones(64, dtype=torch.bool)
    good[bad] = False
    leaves = tuple(t.requires_grad_() for t in fields(g))
    splats = project(Gaussians3D(*leaves), some_camera())
    expected = project(g[good].detach(), some_camera())
    assert splats.dropped == len(bad)
    for name in NAMES:
        assert torch.equal(getattr(splats, name), getattr(expected, name)), name
    outputs = [getattr(splats, name) for name in NAMES[:5]]
    for gradient in torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs]):
        assert bool(torch.isfinite(gradient).all())
        assert not bool(gradient[bad].any())
        assert bool(gradient.any())


@pytest.mark.parametrize("project", TWINS)
def test_extremes_are_defined(project: Callable[..., Splats]) -> None:
    """In order: no extent; all of space; behind; at the camera; on the near plane; just nearer; far
    away; invisible; a plane.
    """
    camera = Views(
        torch.eye(4)[None], torch.tensor([[30.0, 30.0, 16.0, 12.0]]), torch.zeros(1), (24, 32)
    )
    near = float(torch.tensor(GSPLAT.near))
    depths = torch.tensor([2.0, 2.0, -2.0, 0.0, near, near * 0.999, 3e10, 2.0, 2.0])
    means = torch.stack([torch.zeros(9), torch.zeros(9), depths], -1).requires_grad_()
    sizes = torch.tensor([0.0, 1e20, 0.01, 0.01, 1e-6, 1e-6, 0.01, 0.01, 0.0])
    covariances = sizes[:, None] * torch.tensor([1.0, 0, 0, 1, 0, 1])
    covariances[8, 0] = covariances[8, 3] = 1.0
    covariances.requires_grad_()
    opacities = torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.003, 0.9], requires_grad=True)
    sh = torch.zeros(9, 4, 3, requires_grad=True)
    leaves = (means, covariances, opacities, sh)
    splats = project(Gaussians3D(*leaves), camera)
    assert splats.dropped == 0
    assert torch.allclose(splats.depths, torch.tensor([2.0, 2.0, near, 2.0]))
    for name in NAMES:
        assert bool(torch.isfinite(getattr(splats, name)).all()), name
    assert torch.allclose(splats.conics[0], torch.tensor([1 / 0.3, 0.0, 1 / 0.3]))
    outputs = [getattr(splats, name) for name in NAMES[:5]]
    for gradient in torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs]):
        assert bool(torch.isfinite(gradient).all())
        assert not bool(gradient[[2, 3, 5, 6, 7]].any())


@pytest.mark.parametrize("project", TWINS)
def test_no_gaussians_and_one_pixel(project: Callable[..., Splats]) -> None:
    empty = tuple(t.requires_grad_() for t in fields(some_gaussians(0)))
    splats = project(Gaussians3D(*empty), some_camera())
    assert (len(splats.depths), splats.dropped) == (0, 0)
    outputs = [getattr(splats, name) for name in NAMES[:5]]
    gradients = torch.autograd.grad(outputs, empty, [torch.ones_like(o) for o in outputs])
    assert [tuple(t.shape) for t in gradients] == [(0, 3), (0, 6), (0,), (0, 1, 3)]
    assert len(project(some_gaussians(100), some_camera((1, 1))).depths) > 0


@pytest.mark.parametrize("project", TWINS)
def test_clipping_small_splats_and_limiting_depth(project: Callable[..., Splats]) -> None:
    g = some_gaussians(3000, size=0.02)
    everything = project(g, some_camera())
    large = project(g, some_camera(), Projection(radius_clip=3.0))
    assert (
        0
        < len(large.depths)
        == int((everything.radii.amax(-1) > 3.0).sum())
        < len(everything.depths)
    )
    between = project(g, some_camera(), Projection(near=2.0, far=3.0))
    assert (
        0
        < len(between.depths)
        == int(((everything.depths >= 2.0) & (everything.depths <= 3.0)).sum())
    )


def test_compiled_twin_gives_the_same_bits_for_any_number_of_threads() -> None:
    g, camera, threads = some_gaussians(20_000, 1), some_camera((64, 64)), torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = tuple(t.clone().requires_grad_() for t in fields(g))
            splats = project_gaussians(Gaussians3D(*leaves), camera)
            outputs = [getattr(splats, name) for name in NAMES[:5]]
            gradients = torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs])
            results.append((*(getattr(splats, name) for name in NAMES), *gradients))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert bool((torch.diff(numbers(project_gaussians(numbered(g), camera), len(g))) > 0).all())


def test_gradients_over_the_camera_come_from_the_torch_twin() -> None:
    g, camera = some_gaussians(200), some_camera()
    c2w = camera.c2w.clone().requires_grad_()
    splats = project_gaussians(g, dataclasses.replace(camera, c2w=c2w))
    (found,) = torch.autograd.grad(splats.centres.sum(), c2w)
    (expected,) = torch.autograd.grad(
        project_plain(g, dataclasses.replace(camera, c2w=c2w)).centres.sum(), c2w
    )
    assert torch.equal(found, expected)
    assert bool(found.any())
