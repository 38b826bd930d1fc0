"""The .splat file of antimatter15's viewer: 32 bytes a splat, no header, no spherical harmonics
beyond the colour.

Position 3 x float32, scale 3 x float32, colour and opacity 4 x uint8, quaternion (wxyz, q · 128 +
128) 4 x uint8.
"""

from pathlib import Path

import numpy as np
import torch

from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.splat_files.table import SMALLEST_SCALE, SplatTable

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def read_splat(path: Path) -> SplatTable:
    """Gaussians of a .splat file. Raises ``InputError`` where its size is not a multiple of 32
    bytes or scales are negative.
    """
    try:
        size = path.stat().st_size
        if size % RECORD.itemsize:
            raise InputError(
                f"{path} is {size} bytes, not a multiple of {RECORD.itemsize}; it is "
                "truncated or no .splat."
            )
        rows = np.fromfile(path, dtype=RECORD)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if bool((rows["scale"] < 0).any()):
        raise InputError(f"{path} has negative scales; it is damaged or no .splat file.")
    rgba = rows["rgba"].astype(np.float64) / 255.0
    with np.errstate(divide="ignore"):
        log_scales = np.log(rows["scale"].astype(np.float64))
        logits = np.log(rgba[:, 3]) - np.log1p(-rgba[:, 3])
    quats = (rows["quat"].astype(np.float64) - 128.0) / 128.0
    sh = ((rgba[:, :3] - 0.5) / SH_C0)[:, None]
    return SplatTable(
        _tensor(rows["mean"]), _tensor(quats), _tensor(log_scales), _tensor(logits), _tensor(sh)
    )


def write_splat(path: Path, table: SplatTable) -> None:
    """Write a .splat file, whole or not at all: largest volume times opacity first, as viewers load
    it progressively.
    """
    weight = table.log_scales.double().sum(-1) + torch.nn.functional.logsigmoid(
        table.logits.double()
    )
    table = table[torch.argsort(weight, descending=True, stable=True)]
    rows = np.zeros(len(table), dtype=RECORD)
    rows["mean"] = table.means.cpu().numpy()
    rows["scale"] = table.log_scales.double().exp().clamp_min(SMALLEST_SCALE).cpu().numpy()
    colour = 0.5 + SH_C0 * table.sh[:, 0].double()
    rgba = torch.cat([colour, torch.sigmoid(table.logits.double())[:, None]], dim=-1)
    rows["rgba"] = _bytes(rgba * 255.0)
    quats = table.quats.double()
    length = quats.norm(dim=-1, keepdim=True)
    unit = torch.where(length > 0, quats / length, quats.new_tensor([1.0, 0.0, 0.0, 0.0]))
    rows["quat"] = _bytes(unit * 128.0 + 128.0)
    with atomic_file(path) as temporary:
        rows.tofile(temporary)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _bytes(values: torch.Tensor) -> np.ndarray:
    return values.clamp(0.0, 255.0).round().to(torch.uint8).cpu().numpy()
