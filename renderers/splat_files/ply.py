"""Standard 3D Gaussian splatting PLY: the layout of the first implementation (INRIA), read and
written by all tools.

One element ``vertex``: x y z, nx ny nz (unused), f_dc_0..2, f_rest_0..(3 ((d+1)² - 1) - 1),
opacity, scale_0..2, rot_0..3, all float32. f_rest is channel-major: all of red, then green, then
blue. Opacity is a logit, scales are logarithms, rot is wxyz.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.renderers.splat_files.ply_header import PlyElement, PlyHeader
from fsm.renderers.splat_files.table import SplatTable

POSITION, COLOUR, OPACITY = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2"), ("opacity",)
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
NORMAL = ("nx", "ny", "nz")
REST_COUNTS = (0, 9, 24, 45)


def read_ply(path: Path, header: PlyHeader) -> SplatTable:
    """Gaussians of a standard PLY, binary of either byte order or ASCII; properties it does not
    know are left aside.

    ``header`` is ``read_header(path)``. Raises ``InputError`` where it is not that of such a file.
    """
    vertex = header.elements.get("vertex")
    if vertex is None:
        raise InputError(f"{path} has no element 'vertex'; this is not a Gaussian splat file.")
    missing = [
        n for n in (*POSITION, *COLOUR, *OPACITY, *SCALE, *ROTATION) if n not in vertex.properties
    ]
    if missing:
        raise InputError(
            f"{path} lacks the properties {', '.join(missing)}; this is not a Gaussian splat file."
        )
    rest = rest_names(vertex, path)
    rows = read_rows(path, header)["vertex"]
    sh = np.concatenate(
        [columns(rows, COLOUR)[:, None], channel_minor(columns(rows, rest))], axis=1
    )
    return SplatTable(
        torch.from_numpy(columns(rows, POSITION)),
        torch.from_numpy(columns(rows, ROTATION)),
        torch.from_numpy(columns(rows, SCALE)),
        torch.from_numpy(columns(rows, OPACITY)[:, 0]),
        torch.from_numpy(sh),
    )


def write_ply(path: Path, table: SplatTable) -> None:
    """Write a standard binary little-endian PLY, whole or not at all; what ``read_ply`` gave is
    written back bit for bit.
    """
    from plyfile import PlyData
    from plyfile import PlyElement as Element

    n, rest = len(table), 3 * (table.sh.shape[1] - 1)
    names = [
        *POSITION,
        *NORMAL,
        *COLOUR,
        *(f"f_rest_{i}" for i in range(rest)),
        *OPACITY,
        *SCALE,
        *ROTATION,
    ]
    parts = [
        table.means,
        torch.zeros(n, 3),
        table.sh[:, 0],
        table.sh[:, 1:].transpose(1, 2).reshape(n, rest),
        table.logits[:, None],
        table.log_scales,
        table.quats,
    ]
    values = torch.cat([p.detach().float().cpu() for p in parts], dim=1).numpy()
    rows = values.astype("<f4", copy=False).view([(name, "<f4") for name in names])[:, 0]
    with atomic_file(path) as temporary, open(temporary, "wb") as handle:
        PlyData([Element.describe(rows, "vertex")], byte_order="<").write(handle)


def read_rows(path: Path, header: PlyHeader) -> dict[str, Any]:
    """The structured array of every element, memory-mapped where the file is binary. ``header`` has
    been checked.
    """
    from plyfile import PlyData, PlyParseError

    try:
        data = PlyData.read(str(path), mmap="r")
    except (PlyParseError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as PLY ({' '.join(str(error).split())}); export it again."
        ) from error
    found = {e.name: (e.count, [p.name for p in e.properties]) for e in data.elements}
    expected = {e.name: (e.count, list(e.properties)) for e in header.elements.values()}
    # two readers of one header must not differ
    if found != expected:
        raise InputError(f"{path} has an ambiguous header; export it again.")
    return {e.name: e.data for e in data.elements}


def rest_names(element: PlyElement, path: Path) -> list[str]:
    """f_rest_0, f_rest_1, ... as many as there are; a number that is no degree of spherical
    harmonics is refused.
    """
    count = sum(name.startswith("f_rest_") for name in element.properties)
    names = [f"f_rest_{i}" for i in range(count)]
    if count not in REST_COUNTS or any(name not in element.properties for name in names):
        raise InputError(
            f"{path} has {count} properties f_rest_*; expected f_rest_0 onwards, "
            f"{', '.join(map(str, REST_COUNTS))} "
            "of them (spherical harmonics of degree 0 to 3)."
        )
    return names


def columns(rows: Any, names: tuple[str, ...] | list[str]) -> Float[np.ndarray, "n c"]:
    """Named properties as float32 columns of their own memory."""
    from numpy.lib.recfunctions import structured_to_unstructured

    if not names:
        return np.zeros((len(rows), 0), np.float32)
    return np.array(structured_to_unstructured(rows[list(names)]), dtype=np.float32, order="C")


def channel_minor(rest: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n k 3"]:
    """f_rest as coefficients of three channels each."""
    return (
        np.ascontiguousarray(rest.reshape(len(rest), 3, -1).transpose(0, 2, 1))
        if rest.size
        else _none(len(rest))
    )


def _none(n: int) -> Float[np.ndarray, "n 0 3"]:
    return np.zeros((n, 0, 3), np.float32)
