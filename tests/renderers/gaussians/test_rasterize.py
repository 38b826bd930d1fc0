"""The front door: pictures by gsplat itself, backends against each other, backgrounds, choices and
what is left out.
"""

import dataclasses
import importlib.machinery
import importlib.util
import inspect
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fsm.errors import InputError
from fsm.renderers.gaussians import rasterize as rasterize_module
from fsm.renderers.gaussians import rasterize_gsplat
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.rasterize import Backend, Rasterization, choose_backend, rasterize
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.renderers.gaussians.types import Gaussians3D, Projection
from fsm.views import Views
from tests.renderers.gaussian_examples import fields, some_camera, some_gaussians

BACKENDS: list[Backend] = ["plain", "cpu"]


def gradients(
    g: Gaussians3D, views: Views, backend: Backend, projection: Projection
) -> tuple[Rasterization, tuple]:
    """A picture and the gradients of a random sum of colour, alpha and depth."""
    leaves = tuple(t.detach().clone().requires_grad_() for t in fields(g))
    picture = rasterize(Gaussians3D(*leaves), views, backend=backend, projection=projection)
    generator = torch.Generator().manual_seed(1)
    assert picture.alpha is not None
    assert picture.depth is not None
    outputs = (picture.rgb, picture.alpha, picture.depth * (picture.alpha > 0.1))
    upstream = [torch.randn(o.shape, generator=generator).to(o) for o in outputs]
    return picture, torch.autograd.grad(outputs, leaves, upstream)


def assert_same(one: Rasterization, other: Rasterization, tolerance: float = 1e-4) -> None:
    for name in ("rgb", "alpha", "depth"):
        a, b = getattr(one, name).detach().cpu(), getattr(other, name).detach().cpu()
        if name == "depth":
            thick = one.alpha.detach().cpu() > 0.01  # pyright: ignore[reportOptionalMemberAccess]
            a, b = a[thick], b[thick]
        assert float((a - b).abs().max()) < tolerance * max(1.0, float(a.abs().max())), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_picture_that_gsplat_made(shared_data, backend: Backend) -> None:
    case = load_file(shared_data / "gsplat_reference" / "tiny_case.safetensors")
    h, w = 82, 123
    c2w = torch.eye(4)[None].clone()
    c2w[0, :3, 3] = torch.tensor([0.123, 0.456, -8.0])
    view = Views(c2w, torch.tensor([[61.5, 61.5, 61.5, 41.0]]), torch.zeros(1), (h, w))
    g = Gaussians4D.static(
        case["means"],
        case["quats"],
        case["scales"].exp(),
        case["opacities"].flatten().sigmoid(),
        case["coeffs"],
    ).at(0.0)
    picture = rasterize(g, view, backend=backend)
    expected = case["out_img"].permute(2, 0, 1)
    assert float((picture.rgb[0] - expected[:3]).abs().max()) < 1e-4
    assert picture.alpha is not None
    assert float((picture.alpha[0] - expected[3:]).abs().max()) < 1e-4


@pytest.mark.parametrize("antialiased", [False, True])
def test_cpu_and_plain_agree_in_pictures_and_gradients(antialiased: bool) -> None:
    g, views = some_gaussians(1500, 2, size=0.08), Views.cat([some_camera(), some_camera()])
    c2w = views.c2w.clone()
    c2w[1, :3, 3] += torch.tensor([0.3, -0.2, -0.5])
    views = dataclasses.replace(views, c2w=c2w)
    projection = Projection(antialiased=antialiased)
    (one, one_gradients), (other, other_gradients) = (
        gradients(g, views, b, projection) for b in BACKENDS
    )
    assert (one.backend, other.backend) == ("plain", "cpu")
    assert one.rgb.shape == (2, 3, 48, 64)
    assert_same(one, other)
    for a, b in zip(one_gradients, other_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().mean()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_gaussian_by_hand(backend: Backend) -> None:
    view = Views(torch.eye(4)[None], torch.tensor([[10.0, 10.0, 4.5, 4.5]]), torch.zeros(1), (9, 9))
    colour = torch.tensor([[0.2, 0.5, 0.9]])
    g = Gaussians3D(
        torch.tensor([[0.0, 0, 2.0]]),
        0.04 * torch.tensor([[1.0, 0, 0, 1, 0, 1]]),
        torch.tensor([0.8]),
        colour_to_sh(colour),
    )
    background = torch.tensor([1.0, 0.0, 0.5])
    picture = rasterize(g, view, background=background, backend=backend)
    variance = 0.04 * 25.0 + 0.3  # (focal length / depth)² times the variance, and the blur
    y, x = torch.meshgrid(torch.arange(9) - 4.0, torch.arange(9) - 4.0, indexing="ij")
    alpha = 0.8 * torch.exp(-0.5 * (x * x + y * y) / variance)
    alpha = torch.where(alpha < 1 / 255, torch.zeros_like(alpha), alpha)
    assert picture.alpha is not None
    assert picture.depth is not None
    assert torch.allclose(picture.alpha[0, 0], alpha, atol=1e-6)
    expected = alpha * colour[0][:, None, None] + (1 - alpha) * background[:, None, None]
    assert torch.allclose(picture.rgb[0], expected, atol=1e-6)
    assert torch.allclose(picture.depth[0, 0], 2.0 * (alpha > 0), atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gaussians_are_background(backend: Backend) -> None:
    picture = rasterize(
        some_gaussians(0),
        some_camera((3, 5)),
        background=torch.tensor([0.1, 0.2, 0.3]),
        backend=backend,
    )  # pyright: ignore[reportArgumentType]
    assert torch.allclose(
        picture.rgb, torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(1, 3, 3, 5)
    )
    assert picture.depth is not None
    assert not bool(picture.depth.any())
    one = rasterize(some_gaussians(50), some_camera((1, 1)), backend=backend)
    assert one.rgb.shape == (1, 3, 1, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_gaussians_are_counted_and_leave_no_trace(backend: Backend) -> None:
    g = some_gaussians(300, size=0.2)
    bad = some_gaussians(5, size=0.2)
    means, covariances, opacities, sh = (t.clone() for t in fields(bad))
    means[0, 0], covariances[1, 2], opacities[2], sh[3, 0, 1], covariances[4, 0] = (
        math.nan,
        math.inf,
        math.nan,
        math.inf,
        -1.0,
    )
    mixed = Gaussians3D.cat([g[:100], Gaussians3D(means, covariances, opacities, sh), g[100:]])
    views = Views.cat([some_camera(), some_camera()])
    picture, found = gradients(mixed, views, backend, Projection())
    expected, wanted = gradients(g, views, backend, Projection())
    assert picture.dropped == 2 * 5
    assert expected.dropped == 0
    assert torch.equal(picture.rgb, expected.rgb)
    for a, b in zip(found, wanted, strict=True):
        assert not bool(a[100:105].any())
        assert torch.allclose(torch.cat([a[:100], a[105:]]), b, rtol=1e-5, atol=1e-7)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gsplat_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a stand-in for gsplat in its place, and forget what was found out about it."""

    def stand_in(backend: Any) -> None:
        """``backend``: its module of kernels, an error that importing it raises, or None."""
        package, cuda = types.ModuleType("gsplat"), types.ModuleType("gsplat.cuda")
        package.__spec__ = importlib.machinery.ModuleSpec("gsplat", None)
        if isinstance(backend, Exception):

            def building(name: str) -> None:
                raise backend

            cuda.__getattr__ = building  # pyright: ignore[reportAttributeAccessIssue]
        else:
            cuda._backend = backend  # pyright: ignore[reportAttributeAccessIssue]
        package.cuda = cuda  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, "gsplat", package)
        monkeypatch.setitem(sys.modules, "gsplat.cuda", cuda)
        if backend is None:
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        for cached in (rasterize_gsplat.why_not_gsplat, rasterize_module._warn_once):
            cached.cache_clear()

    yield stand_in
    for cached in (rasterize_gsplat.why_not_gsplat, rasterize_module._warn_once):
        cached.cache_clear()


def test_a_backend_that_can_run_is_taken(gsplat_is: Callable[..., None]) -> None:
    gsplat_is(types.SimpleNamespace(_C=object()))
    assert choose_backend("auto", CPU) == "cpu"
    assert choose_backend("auto", CUDA) == "gsplat"
    assert choose_backend("gsplat", CUDA) == "gsplat"
    assert choose_backend("cpu", CUDA) == "cpu"
    assert choose_backend("plain", CUDA) == "plain"
    assert rasterize(some_gaussians(3), some_camera((4, 4))).backend == "cpu"


def test_a_backend_that_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="the Gaussians are on cpu; choose device cuda or backend"):
        rasterize(some_gaussians(3), some_camera((4, 4)), backend="gsplat")
    with pytest.raises(InputError, match="choose auto, gsplat, cpu or plain"):
        inspect.unwrap(choose_backend)("metal", CPU)  # pyright: ignore[reportArgumentType]


UNUSABLE = [
    (None, r"gsplat not installed; run `pip install 'fsm-toolkit\[gpu\]'`"),
    (types.SimpleNamespace(_C=None), r"finds no CUDA compiler \(nvcc\).*; install a CUDA toolkit"),
    (
        RuntimeError("Error building extension 'gsplat_cuda': nvcc fatal\nninja: stopped"),
        r"cannot build its kernels \(Error building extension 'gsplat_cuda': nvcc fatal\); install",
    ),
    (OSError("CUDA_HOME environment variable is not set."), r"CUDA_HOME environment .*; install"),
    (ImportError("libcudart.so.12: cannot open"), r"build its kernels \(libcudart.*; install a"),
]


@pytest.mark.parametrize(("backend", "sentence"), UNUSABLE)
def test_a_gsplat_that_cannot_work_means_the_cpu_and_one_warning(
    gsplat_is: Callable[..., None], backend: Any, sentence: str
) -> None:
    gsplat_is(backend)
    with pytest.warns(UserWarning, match=f"rasterised on the CPU: .*{sentence}") as seen:
        assert [choose_backend("auto", CUDA) for _ in range(3)] == ["cpu"] * 3
    assert len(seen) == 1
    with pytest.raises(InputError, match=f"backend is gsplat: .*{sentence}"):
        choose_backend("gsplat", CUDA)


def test_gsplat_is_called_with_what_its_function_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own shape checks and projection, without a GPU: the names and shapes of arguments are
    right.
    """
    rasterization = pytest.importorskip("gsplat.rendering").rasterization
    seen: dict = {}

    def stand_in(*args, **kwargs):
        bound = inspect.signature(rasterization).bind(*args, **kwargs)
        seen.update(bound.arguments)
        h, w = bound.arguments["height"], bound.arguments["width"]
        return torch.rand(1, h, w, 4), torch.rand(1, h, w, 1), {}

    monkeypatch.setattr(rasterize_gsplat, "_rasterization", lambda: stand_in)
    g, view = some_gaussians(40, 2), some_camera((6, 8))
    huge = g.covariances.clone()
    huge[3] = 1e30 * torch.tensor([1.0, 0, 0, 1, 0, 1])
    means = g.means.clone()
    means[3], means[5, 0] = 0.0, math.nan
    g = Gaussians3D(means, huge, g.opacities, g.sh)
    rgb, alpha, depth, dropped = rasterize_gsplat.rasterize_view(
        g, view, Projection(antialiased=True, radius_clip=2.0)
    )
    assert [tuple(t.shape) for t in (rgb, alpha, depth)] == [(3, 6, 8), (1, 6, 8), (1, 6, 8)]
    assert dropped == 2
    n = len(g) - 2
    assert (seen["means"].shape, seen["covars"].shape, seen["colors"].shape) == (
        (n, 3),
        (n, 3, 3),
        (n, 9, 3),
    )
    assert (seen["viewmats"].shape, seen["Ks"].shape, seen["sh_degree"]) == (
        (1, 4, 4),
        (1, 3, 3),
        2,
    )
    assert (seen["rasterize_mode"], seen["radius_clip"], seen["eps2d"]) == ("antialiased", 2.0, 0.3)
    assert torch.allclose(seen["viewmats"][0] @ view.c2w[0], torch.eye(4), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [0, 3])
def test_gsplat_agrees_with_plain_torch_in_pictures_and_gradients(
    degree: int, antialiased: bool
) -> None:
    g, view, projection = (
        some_gaussians(1500, degree, size=0.08),
        some_camera(),
        Projection(antialiased=antialiased),
    )
    expected, expected_gradients = gradients(g, view, "plain", projection)
    found, found_gradients = gradients(g.to("cuda"), view.to("cuda"), "auto", projection)
    assert found.backend == "gsplat"
    assert_same(expected, found)
    for a, b in zip(expected_gradients, found_gradients, strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-3, atol=1e-3 * float(a.abs().mean()))


@pytest.mark.gpu
def test_gsplat_counts_bad_gaussians_and_survives_extremes() -> None:
    g = some_gaussians(300, size=0.2)
    means, covariances, opacities, sh = (t.clone() for t in fields(g))
    means[0, 0], opacities[2], covariances[4] = math.nan, math.inf, 1e30
    means[4], covariances[5], means[6] = 0.0, 0.0, some_camera().c2w[0, :3, 3]
    mixed = Gaussians3D(means, covariances, opacities, sh).to("cuda")
    picture, found = gradients(mixed, some_camera().to("cuda"), "gsplat", Projection())
    assert picture.dropped == 3
    for t in (picture.rgb, *found):
        assert bool(torch.isfinite(t).all())
