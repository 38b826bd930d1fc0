"""Depth maps and masks as files that other tools read."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.errors import InputError

MILLIMETRES = 1000.0
MOST = 65_535
"""Largest value of a 16-bit picture."""


def write_depth(path: Path, depth: Float[Tensor, "h w"]) -> None:
    """Depth as ``path``.npy in its own unit, and as ``path``.png: 16 bits in thousandths of it, the
    usual millimetres; 0 where it is larger than that holds.
    """
    values = depth.detach().cpu().float().numpy()
    np.save(path.with_suffix(".npy"), values)
    scaled = np.round(values * MILLIMETRES)
    held = np.where(np.isfinite(scaled) & (scaled <= MOST), scaled, 0.0)
    _write(path.with_suffix(".png"), held.astype(np.uint16))


def write_mask(path: Path, mask: Bool[Tensor, "h w"]) -> None:
    """White where the mask holds."""
    _write(path, mask.cpu().numpy().astype(np.uint8) * 255)


def _write(path: Path, picture: np.ndarray) -> None:
    import cv2

    if not cv2.imwrite(str(path), picture):
        raise InputError(f"{path} could not be written; check that its folder may be written to.")
