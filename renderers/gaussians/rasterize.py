"""One function that draws Gaussians, whatever does the drawing.

    picture = rasterize(gaussians.at(time), views)

Backends: ``gsplat`` (CUDA), ``cpu`` (ours, compiled by numba), ``reference`` (plain torch, slow,
what the others are tested against). All are differentiable and follow the same rules: splats in
front-to-back order, alpha = min(0.999, opacity · exp(-½ d²)), alpha below 1/255 is nothing, a pixel
ends before its transmittance falls to 1e-4. Depth is the alpha-weighted mean z-depth, 0 where
nothing is.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.gaussians4d import Gaussians3D
from fsm.renderers.gaussians.projection import GSPLAT, Projection
from fsm.views import Rendering, Views

Backend = Literal["auto", "gsplat", "cpu", "reference"]


@dataclass(frozen=True)
class Rasterization(Rendering):
    """A ``Rendering`` and how it came about."""

    backend: str = ""
    """Who drew it."""
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
    """Draw ``gaussians`` in every one of ``views`` [v], all in one space; ``background`` is black
    where not given.

    ``auto`` is gsplat for CUDA tensors and cpu otherwise; what was taken stands in
    ``Rasterization.backend``.
    """
    chosen = choose_backend(backend, gaussians.means.device)
    draw = _drawer(chosen)
    pictures = [draw(gaussians, views[i], projection) for i in range(len(views))]
    rgb, alpha, depth, dropped = zip(*pictures, strict=True)
    rgb, alpha, depth = (torch.stack(parts) for parts in (rgb, alpha, depth))
    if background is not None:
        rgb = rgb + (1.0 - alpha) * background[:, None, None]
    return Rasterization(rgb, alpha, depth / alpha.clamp_min(1e-10), chosen, sum(dropped))


def choose_backend(backend: Backend, device: torch.device) -> str:
    """The backend that ``auto`` means on ``device``; asking for one that cannot run there is an
    ``InputError``.
    """
    if backend == "auto":
        return "gsplat" if device.type == "cuda" else "cpu"
    if backend not in ("gsplat", "cpu", "reference"):
        raise InputError(f"backend is {backend!r}; choose auto, gsplat, cpu or reference.")
    if backend == "gsplat" and device.type != "cuda":
        raise InputError(
            f"backend is gsplat but the Gaussians are on {device}; move them to cuda or choose cpu."
        )
    if backend == "cpu" and device.type != "cpu":
        raise InputError(f"backend is cpu but the Gaussians are on {device}; choose gsplat.")
    return backend


def _drawer(backend: str):
    """Colour over black, alpha, depth times alpha and how many were dropped, of one view; imported
    when asked for.
    """
    if backend == "gsplat":
        from fsm.renderers.gaussians.rasterize_gsplat import draw

        return draw
    if backend == "cpu":
        from fsm.renderers.gaussians.projection_cpu import project_on_cpu as project
        from fsm.renderers.gaussians.rasterize_cpu import composite
    else:
        from fsm.renderers.gaussians.projection import project_gaussians as project
        from fsm.renderers.gaussians.rasterize_plain import composite

    def draw(
        gaussians: Gaussians3D, view: Views, projection: Projection
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        splats = project(gaussians, view, projection)
        return *composite(splats, view.hw), splats.dropped

    return draw
