"""How large a scene is: lengths to read, and a grid to see. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fsm.renderers.film.splines import quaternions
from fsm.viewer.cameras import viewing_distance
from fsm.views import Views

CELLS = 3.0
"""At least as many squares of the grid fit between the cameras and what they look at."""
LOWERED = 0.7
"""The grid lies this share of half the picture's height under what is looked at."""


@dataclass(frozen=True)
class Grid:
    """Squares on a level plane under what the cameras look at."""

    metres: float
    """Side of a square: a power of ten."""
    cell: float
    """The same in the clip's unit."""
    cells: int
    """Squares along a side."""
    wxyz: tuple[float, float, float, float]
    """Its x to the right of the cameras, its z up."""
    position: tuple[float, float, float]
    """Middle, in the clip's unit."""


def trail_length(inputs: Views) -> float:
    """Way from camera to camera in the order of time, in the clip's unit."""
    order = torch.argsort(inputs.time, stable=True)
    return float(inputs.c2w[order, :3, 3].double().diff(dim=0).norm(dim=-1).sum())


def grid(inputs: Views, up: Sequence[float], metres_per_unit: float) -> Grid:
    """The grid of a scene with ``up`` (unit vector): squares of the largest power of ten metres
    that fit ``CELLS`` times.
    """
    distance = viewing_distance(inputs)
    metres = 10.0 ** math.floor(math.log10(distance * metres_per_unit / CELLS))
    c2w = inputs.c2w.double().cpu()
    z = torch.tensor(up, dtype=torch.float64)
    right = c2w[:, :3, 0].mean(0)
    x = right - (right @ z) * z
    if float(x.norm()) < 1e-3:  # up is sideways, or the cameras look everywhere
        x = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[int(z.abs().argmin())], z)
    x = x / x.norm()
    rotation = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
    seen = (c2w[:, :3, 3] + distance * c2w[:, :3, 2]).mean(0)
    half = 0.5 * inputs.hw[0] / float(inputs.intrinsics[0, 1]) * distance
    position = seen - LOWERED * half * z
    cell = metres / metres_per_unit
    cells = 2 * math.ceil(distance / cell)
    w, i, j, k = quaternions(rotation).tolist()
    px, py, pz = position.tolist()
    return Grid(metres, cell, cells, (w, i, j, k), (px, py, pz))


def length(metres: float) -> str:
    """To three digits, in km, m or mm."""
    rounded = float(f"{metres:.3g}")
    if rounded >= 1000:
        return f"{rounded / 1000:,.10g} km"
    return f"{rounded:.10g} m" if rounded >= 0.01 or rounded == 0 else f"{rounded * 1000:.10g} mm"
