"""One function that rasterises Gaussians, whatever does the work.

    picture = rasterize(gaussians.at(time), views)

Backends: ``gsplat`` (CUDA), ``cpu`` (ours, compiled by numba), ``plain`` (plain torch, slow, what
the others are tested against). All are differentiable and follow the same rules: splats in
front-to-back order, alpha = min(0.999, opacity · exp(-½ d²)), alpha below 1/255 is nothing, a pixel
ends before its transmittance falls to 1e-4. Depth is the alpha-weighted mean z-depth, 0 where
nothing is.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.rasterize_gsplat import why_not_gsplat
from fsm.renderers.gaussians.types import GSPLAT, Gaussians3D, Projection
from fsm.views import Rendering, Views

Backend = Literal["auto", "gsplat", "cpu", "plain"]

OneView = Callable[[Gaussians3D, Views, Projection], tuple[Tensor, Tensor, Tensor, int]]
"""Colour over black, alpha, depth times alpha and how many Gaussians were left out, of one view."""


@dataclass(frozen=True)
class Rasterization(Rendering):
    """A ``Rendering`` and how it came about."""

    backend: str = ""
    """What made it."""
    dropped: int = 0
    """Gaussians left out, summed over views, because a value was not finite or made no ellipse."""


def rasterize(
    gaussians: Gaussians3D,
    views: Views,
    *,
    background: Float[Tensor, " 3"] | None = None,
    backend: Backend = "auto",
    projection: Projection = GSPLAT,
) -> Rasterization:
    """Rasterise ``gaussians`` in every one of ``views`` [v], all in one space and on one device.

    ``background`` is black where not given. ``backend`` is resolved by ``choose_backend``; what was
    taken stands in ``Rasterization.backend``. The ``cpu`` backend takes CUDA tensors, too, and
    returns pictures on their device.
    """
    device = gaussians.means.device
    chosen = choose_backend(backend, device)
    if chosen == "cpu" and device.type != "cpu":
        gaussians, views = gaussians.to("cpu"), views.to("cpu")
    one_view = _one_view(chosen)
    pictures = [one_view(gaussians, views[i], projection) for i in range(len(views))]
    rgb, alpha, depth, dropped = zip(*pictures, strict=True)
    rgb, alpha, depth = (torch.stack(parts).to(device) for parts in (rgb, alpha, depth))
    if background is not None:
        rgb = rgb + (1.0 - alpha) * background[:, None, None]
    return Rasterization(rgb, alpha, depth / alpha.clamp_min(1e-10), chosen, sum(dropped))


def choose_backend(backend: Backend, device: torch.device) -> Literal["gsplat", "cpu", "plain"]:
    """The backend that ``backend`` means for Gaussians on ``device``.

    ``auto`` is gsplat on a CUDA device and cpu elsewhere; where gsplat cannot be used it is cpu,
    with one warning that says why. Asking for gsplat where it cannot be used is an ``InputError``.
    """
    if backend == "auto":
        if device.type != "cuda":
            return "cpu"
        reason = why_not_gsplat()
        if reason is None:
            return "gsplat"
        _warn_once(f"Gaussians are rasterised on the CPU: {reason}")
        return "cpu"
    if backend not in ("gsplat", "cpu", "plain"):
        raise InputError(f"backend is {backend!r}; choose auto, gsplat, cpu or plain.")
    if backend == "gsplat":
        if device.type != "cuda":
            raise InputError(
                f"backend is gsplat but the Gaussians are on {device}; choose device cuda or "
                "backend cpu."
            )
        reason = why_not_gsplat()
        if reason is not None:
            raise InputError(f"backend is gsplat: {reason}")
    return backend


@functools.cache
def _warn_once(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)


def _one_view(backend: str) -> OneView:
    """The function that rasterises one view; imported when asked for."""
    if backend == "gsplat":
        from fsm.renderers.gaussians.rasterize_gsplat import rasterize_view

        return rasterize_view
    if backend == "cpu":
        from fsm.renderers.gaussians.projection import project_gaussians as project
        from fsm.renderers.gaussians.rasterize_cpu import composite
    else:
        from fsm.renderers.gaussians.projection_plain import project_gaussians as project
        from fsm.renderers.gaussians.rasterize_plain import composite

    def rasterize_view(
        gaussians: Gaussians3D, view: Views, projection: Projection
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        splats = project(gaussians, view, projection)
        return *composite(splats, view.hw), splats.dropped

    return rasterize_view
