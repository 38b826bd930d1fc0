"""``subpixel.equations`` in torch, on any device and in any precision."""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.stereo.config import SubpixelConfig
from fsm.renderers.stereo.sources import SourceViews


def plain_equations(
    sources: SourceViews,
    maps: Float[Tensor, "b n 9 hn wn"],
    rho: Float[Tensor, "b v 1 h w"],
    unit: Float[Tensor, "b v 1 h w"],
    config: SubpixelConfig,
) -> Float[Tensor, "b v 3 h w"]:
    """See ``subpixel.equations``."""
    seen = sources.project(rho)
    samples, inside = sources.sample(maps, seen.pixels)
    colour, right, down = samples.split(3, dim=3)
    # pixels by which a point moves in the source view, per unit of inverse depth
    translation = sources.cameras.translation[..., None, None]
    focal, principal = (
        t[..., None, None] for t in (sources.cameras.focal, sources.cameras.principal)
    )
    place = (seen.pixels.movedim(-1, 3) - principal) / focal
    shift = (translation[:, :, :, :2] - place * translation[:, :, :, 2:]) * focal
    x, y = (shift * (seen.scale * unit)[:, :, :, None]).split(1, dim=3)
    difference, slope = colour - sources.pictures[:, :, None], right * x + down * y
    ratio = difference.square().mean(3, keepdim=True) / config.outlier**2
    weight = inside / (1.0 + ratio)
    along, square = (
        torch.where(weight > 0, weight * slope * t, 0.0).mean((2, 3)) for t in (difference, slope)
    )
    misfit = (weight * ratio + config.unseen_misfit * (1.0 - inside)).mean((2, 3))
    return torch.stack([along, square, misfit], dim=2)
