"""Files that hold motion or come from a standard: .4dgs (4dgs.dev), glTF with
``KHR_gaussian_splatting``, and animated USD, all written by ``fourdgs``.

A .4dgs file has our temporal model: a centre that moves at a velocity and a weight that is a
Gaussian of time, cut at 0.05. glTF holds one moment. USD holds a sample a frame. The clip's first
moment is second 0.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fsm.errors import InputError, require
from fsm.files import atomic_file
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.renderers.splat_files.table import SplatTable

# axes that the formats can name, and how
UP = {"y": "y-up-right-handed", "z": "z-up-right-handed"}
# bytes of harmonics span [-4, 4]
SH_RANGE = 8.0
COLOURS = "srgb-rec709-display"
USD_SUFFIXES = (".usd", ".usda", ".usdc")
# values of all frames that a USD stage may hold: it is built in memory
MAX_SAMPLES = 20_000_000


def write_4dgs(path: Path, tables: SceneTables, up: str) -> None:
    """Write all Gaussians and their motion, whole or not at all, turned so that ``up`` (y or z) is
    up in the file.

    Centres are held to 2 % of the median size, colour (within [0, 1]) and opacity to 8 bits,
    harmonics to 1/64.
    Raises ``InputError`` for Gaussians that follow trajectories, and without the extra.
    """
    require("formats", "fourdgs")
    import fourdgs

    gaussians, seconds = moving_set(path, tables)
    # the format has bytes for colours, as .splat has
    gaussians = dataclasses.replace(gaussians, colors=gaussians.colors.clip(0.0, 1.0))
    options = fourdgs.WriteOptions(
        profile="fine",
        cutoff=MIN_WEIGHT,
        library="fsm-toolkit",
        metadata={"coordinate_system": UP[up], "color_space": COLOURS},
    )

    def write(temporary: Path) -> None:
        fourdgs.write(str(temporary), gaussians, seconds, options=options)

    _written(path, write)


def write_glb(path: Path, table: SplatTable) -> None:
    """Write the Gaussians of a moment, y up, as binary glTF, whole or not at all; harmonics in
    steps of 1/32.
    """
    require("formats", "fourdgs")
    import fourdgs

    gaussians = still_set(path, table)

    def write(temporary: Path) -> None:
        fourdgs.to_gltf(
            str(temporary),
            gaussians,
            0.0,
            cutoff=MIN_WEIGHT,
            coordinate_system=UP["y"],
            color_space=COLOURS,
        )

    _written(path, write)


def write_usd(path: Path, tables: SceneTables, fps: float, up: str) -> None:
    """Write a USD stage (.usd, .usda or .usdc) with the Gaussians of every frame as time samples,
    whole or not at all.

    Raises ``InputError`` for Gaussians that follow trajectories, for more than 20 million Gaussians
    in all frames together, and without the extra.
    """
    require("formats", "fourdgs", "pxr")
    import fourdgs

    gaussians, seconds = moving_set(path, tables)
    frames = round(seconds * fps) + 1
    if frames * gaussians.count > MAX_SAMPLES:
        raise InputError(
            f"{path}: {frames} frames of up to {gaussians.count} Gaussians are more than the "
            f"{MAX_SAMPLES} a USD stage is written with; lower --fps."
        )

    def write(temporary: Path) -> None:
        fourdgs.to_usd(
            str(temporary),
            gaussians,
            0.0,
            cutoff=MIN_WEIGHT,
            coordinate_system=UP[up],
            color_space=COLOURS,
            animated=True,
            fps=fps,
            duration_sec=seconds,
        )

    _written(path, write)


def moving_set(path: Path, tables: SceneTables) -> tuple[Any, float]:
    """``fourdgs.GaussianSet`` of a scene, and how many seconds it lasts."""
    if tables.moving.follow is not None:
        raise InputError(
            f"{path}: {len(tables.moving.follow.index)} Gaussians follow trajectories, and "
            f"{path.suffix} holds straight motion only; write a PLY sequence, or --layer static."
        )
    fields = tables.tensors()
    ends = tables.frame.seconds(tables.scales.new_tensor([-1.0, 1.0]))
    first, last = ends.tolist()
    means, quats, scales = fields["means"], fields["quats"], fields["scales"]
    table = SplatTable.of(means, quats, scales, fields["opacities"], fields["sh"])
    still = still_set(path, table)
    moving = dataclasses.replace(
        still,
        motions=_array(fields["velocities"]),
        mu_t=_array(fields["times"] - first),
        sigma_t=_array(fields["time_scales"]),
    )
    return moving, last - first


def still_set(path: Path, table: SplatTable) -> Any:
    """``fourdgs.GaussianSet`` of a table: there at all times, without motion."""
    import fourdgs

    n = len(table)
    if n == 0:
        raise InputError(f"{path}: there are no Gaussians to write; choose another moment.")
    unit = torch.nn.functional.normalize(table.quats, dim=-1)
    colour = 0.5 + SH_C0 * table.sh[:, 0]
    harmonics = ((table.sh[:, 1:] / SH_RANGE + 0.5) * 255.0).clamp(0.0, 255.0).round()
    return fourdgs.GaussianSet(
        positions=_array(table.means),
        scales=_array(table.log_scales.exp()),
        rotations=_array(unit[:, [1, 2, 3, 0]]),
        colors=_array(torch.cat([colour, table.logits.sigmoid()[:, None]], dim=1)),
        motions=np.zeros((n, 3), np.float32),
        mu_t=np.zeros(n, np.float32),
        sigma_t=np.full(n, np.inf, np.float32),
        win_lo=np.full(n, -np.inf),
        win_hi=np.full(n, np.inf),
        sh=_array(harmonics).reshape(n, -1).astype(np.uint8) if table.sh.shape[1] > 1 else None,
        sh_degree=table.sh_degree,
    )


def _written(path: Path, write: Callable[[Path], None]) -> None:
    from fourdgs import FourdgsError

    try:
        with atomic_file(path) as temporary:
            write(temporary)
    except (FourdgsError, ValueError) as error:
        raise InputError(f"{path}: fourdgs cannot write it ({error}).") from error


def _array(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().float().cpu().numpy())
