"""A splat file as a scene: with cameras of our choice, because the file has none."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import look_at
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import GSPLAT
from fsm.renderers.splat_files.io import read_table
from fsm.renderers.splat_files.table import SplatTable
from fsm.views import SceneFrame, Views

HW = (480, 640)
# degrees, vertical
FIELD_OF_VIEW = 60.0
CAMERAS = 8
# percent: few stray splats far away must not decide
FROM, TO = 5.0, 95.0
MARGIN = 1.15


def open_splats(
    path: Path | str, device: torch.device | str = "cpu", *, drop_invalid: bool = False
) -> GaussianScene:
    """The Gaussians of a splat file as a scene without motion, seen by ``default_views``; bad files
    raise ``InputError``.

    ``drop_invalid`` leaves out what is NaN or infinite instead of refusing the file.
    """
    table = read_table(path, drop_invalid)
    if len(table) == 0:
        raise InputError(f"{path} holds no Gaussians; there is nothing to see.")
    return GaussianScene(
        table.gaussians().to(device),
        SceneFrame.identity().to(device),
        default_views(table).to(device),
        projection=dataclasses.replace(GSPLAT, antialiased=table.antialiased),
    )


def default_views(table: SplatTable) -> Views:
    """A level ring of cameras around the Gaussians, y down, from where nearly all of them are in
    the picture.

    It surrounds the box from the 5th to the 95th percentile of the centres with a margin; the first
    camera looks along +z.
    """
    means = table.means.double().cpu().numpy()
    low, high = (torch.from_numpy(np.percentile(means, p, axis=0)) for p in (FROM, TO))
    size = float(table.log_scales.double().amax(-1).exp().median())
    radius = max(MARGIN * float((high - low).norm()) / 2, 3.0 * size, 1e-6)
    return _ring((low + high) / 2, radius / math.sin(math.radians(FIELD_OF_VIEW / 2)))


def _ring(middle: Float[Tensor, " 3"], distance: float) -> Views:
    h, w = HW
    angle = 2 * math.pi * torch.arange(CAMERAS, dtype=torch.float64)[:, None] / CAMERAS
    back, right, down = (
        torch.tensor(v, dtype=torch.float64) for v in ((0.0, 0, -1), (1.0, 0, 0), (0.0, 1, 0))
    )
    position = middle + distance * (angle.cos() * back + angle.sin() * right)
    c2w = look_at(position, middle.expand_as(position), down.expand_as(position)).float()
    focal = 0.5 * h / math.tan(math.radians(FIELD_OF_VIEW / 2))
    intrinsics = torch.tensor([focal, focal, w / 2, h / 2]).expand(CAMERAS, 4).contiguous()
    return Views(c2w, intrinsics, torch.zeros(CAMERAS), HW)
