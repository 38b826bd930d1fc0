"""Colours by lightness, chroma and hue."""

import functools

import torch
from torch import Tensor


def oklch(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """Linear sRGB of OKLCH colours (Ottosson 2020), clipped to the gamut: [*s, 3] from three [*s].

    ``hue`` is in radians.
    """
    a, b = chroma * hue.cos(), chroma * hue.sin()
    to_lms, to_rgb = _oklab_matrices()
    lms = torch.stack([lightness, a, b], -1) @ to_lms.T
    return (lms**3 @ to_rgb.T).clamp(0.01, 0.95)


@functools.lru_cache(maxsize=1)
def _oklab_matrices() -> tuple[Tensor, Tensor]:
    to_lms = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    return torch.tensor(to_lms, dtype=torch.float64), torch.tensor(to_rgb, dtype=torch.float64)
