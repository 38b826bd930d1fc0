"""Our own ``.safetensors`` of moving Gaussians as a scene again."""

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.files import read_safetensors
from fsm.renderers.gaussians.four_dimensional import LONGEST, four_dimensional
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import GSPLAT
from fsm.renderers.splat_files.scene import default_views
from fsm.renderers.splat_files.sequence import MOVING_FORMAT
from fsm.renderers.splat_files.table import SplatTable
from fsm.views import SceneFrame

WIDTHS = {"means": 3, "velocities": 3, "times": 0, "time_scales": 0, "quats": 4, "scales": 3}
WIDTHS |= {"opacities": 0}


def open_moving(path: Path | str, device: torch.device | str = "cpu") -> GaussianScene:
    """The scene that ``write_moving`` wrote, seen by ``default_views`` over the clip's seconds.

    Gaussians that are always there and move are given a duration of 15 clips. Raises ``InputError``
    for other files, and for fields that are missing, not finite or of other shapes.
    """
    path = Path(path)
    fields = read_safetensors(path)
    first, last, antialiased = _metadata(path, fields)
    _check(path, fields)
    # of a static capture, whose clip is one moment, nothing depends on time
    half = (last - first) / 2.0 if last > first else 1.0
    velocities, lasts = fields["velocities"] * half, fields["time_scales"] / half
    times = (fields["times"] - first) / half - 1.0
    quats, scales = fields["quats"], fields["scales"]
    still = lasts.isinf() & (velocities == 0).all(-1)
    lasts = lasts.clamp_max(LONGEST)
    left, right, four = four_dimensional(velocities, lasts.square(), quats, scales.log())
    gaussians = Gaussians4D(
        fields["means"],
        times,
        torch.where(still[:, None], scales, four[:, :3]),
        torch.where(still, math.inf, four[:, 3]),
        torch.where(still[:, None], quats, left),
        torch.where(still[:, None], quats, right),
        fields["opacities"],
        fields["sh"],
    )
    table = SplatTable.of(fields["means"], quats, scales, fields["opacities"], fields["sh"])
    views = default_views(table)
    views = dataclasses.replace(views, time=torch.linspace(first, last, len(views)))
    return GaussianScene(
        gaussians.to(device),
        SceneFrame.identity((), first, last - first if last > first else math.inf).to(device),
        views.to(device),
        projection=dataclasses.replace(GSPLAT, antialiased=antialiased),
    )


def _metadata(path: Path, fields: dict[str, Tensor]) -> tuple[float, float, bool]:
    """First and last second, and whether splats are dimmed where they are widened."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != MOVING_FORMAT:
        raise InputError(
            f"{path} has the format {metadata.get('format')!r}, not {MOVING_FORMAT!r}; give a file "
            "that `fsm export` wrote."
        )
    times = fields.get("times", torch.zeros(0))
    try:
        first = float(metadata.get("first", times.min() if len(times) else 0.0))
        last = float(metadata.get("last", times.max() if len(times) else 0.0))
    except ValueError as error:
        raise InputError(f"{path}: first or last is not a number ({error}).") from error
    if not (math.isfinite(first) and math.isfinite(last) and first <= last):
        raise InputError(f"{path} lasts from {first} to {last} s; export it again.")
    return first, last, metadata.get("antialiased") == "true"


def _check(path: Path, fields: dict[str, Tensor]) -> None:
    missing = sorted({*WIDTHS, "sh"} - set(fields))
    if missing:
        raise InputError(f"{path} lacks the fields {', '.join(missing)}; export it again.")
    n = len(fields["means"])
    if n == 0:
        raise InputError(f"{path} holds no Gaussians; there is nothing to see.")
    for name, width in WIDTHS.items():
        shape = (n, width) if width else (n,)
        if tuple(fields[name].shape) != shape:
            raise InputError(f"{path}: {name} is {tuple(fields[name].shape)}, expected {shape}.")
    sh = tuple(fields["sh"].shape)
    if sh not in [(n, k, 3) for k in (1, 4, 9, 16)]:
        raise InputError(f"{path}: sh is {sh}, expected {n} rows of 1, 4, 9 or 16 times 3.")
    for name in (*WIDTHS, "sh"):
        if fields[name].dtype != torch.float32:
            raise InputError(f"{path}: {name} is {fields[name].dtype}, expected float32.")
        bad = fields[name].isnan() if name == "time_scales" else ~fields[name].isfinite()
        if bool(bad.any()):
            raise InputError(f"{path}: {name} is NaN or infinite for some; export it again.")
    if bool((fields["scales"] <= 0).any()) or bool((fields["time_scales"] < 0).any()):
        raise InputError(f"{path}: some scales are not above 0; export it again.")
