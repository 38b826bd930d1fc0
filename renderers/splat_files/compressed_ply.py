"""Compressed PLY of PlayCanvas and SuperSplat: 16 bytes a splat, values between the bounds of its
chunk of 256.

Elements: ``chunk`` (bounds of position, logarithmic scale and, in newer files, colour), ``vertex``
(packed_position and packed_scale 11-10-11 bits, packed_rotation index of the largest component and
10-10-10, packed_color 8-8-8-8 with opacity), and optionally ``sh`` (f_rest_* as bytes over [-4,
4]). Facts: developer.playcanvas.com, splat-transform's output.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt32

from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.splat_files.ply import channel_minor, columns, read_rows, rest_names
from fsm.renderers.splat_files.ply_header import PlyHeader
from fsm.renderers.splat_files.table import SplatTable

CHUNK = 256
AXES = ("x", "y", "z", "scale_x", "scale_y", "scale_z", "r", "g", "b")
# logarithms of scales that files hold; PlayCanvas clamps to the same
LOG_SCALES = (-20.0, 20.0)
MORTON_BITS = 10
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
# bytes span [-4, 4]
SH_RANGE = 8.0


def is_compressed(header: PlyHeader) -> bool:
    """Whether a PLY header is of this kind."""
    vertex = header.elements.get("vertex")
    return vertex is not None and "packed_position" in vertex.properties


def read_compressed_ply(path: Path, header: PlyHeader) -> SplatTable:
    """Gaussians of a compressed PLY; ``InputError`` where the elements of ``header`` do not go
    together.
    """
    _check(header, path)
    rows = read_rows(path, header)
    chunk, vertex = rows["chunk"], rows["vertex"]
    of = np.arange(len(vertex)) // CHUNK
    packed = {name: np.ascontiguousarray(vertex[name], dtype=np.uint32) for name in PACKED}
    colour = packed["packed_color"]
    rgb = np.stack([_unit(colour, shift, 8) for shift in (24, 16, 8)], axis=-1)
    if "min_r" in header.elements["chunk"].properties:
        rgb = _between(chunk, "r", "g", "b", of, rgb)
    sh = [((rgb - 0.5) / SH_C0).astype(np.float32)[:, None]]
    if "sh" in rows:
        sh.append(
            channel_minor(_harmonics(columns(rows["sh"], rest_names(header.elements["sh"], path))))
        )
    opacity = _unit(colour, 0, 8)
    with np.errstate(divide="ignore"):
        logits = np.log(opacity) - np.log1p(-opacity)
    position, scale = (
        _unpack_11_10_11(packed["packed_position"]),
        _unpack_11_10_11(packed["packed_scale"]),
    )
    return SplatTable(
        _tensor(_between(chunk, "x", "y", "z", of, position)),
        _tensor(_rotations(packed["packed_rotation"])),
        _tensor(_between(chunk, "scale_x", "scale_y", "scale_z", of, scale)),
        _tensor(logits),
        _tensor(np.concatenate(sh, axis=1)),
    )


def write_compressed_ply(path: Path, table: SplatTable) -> None:
    """Write a compressed PLY, whole or not at all, in Morton order of the centres, so that chunks
    are small and their steps fine.

    Log scales are held to [-20, 20], harmonics beyond the colour to [-4, 4] in steps of 1/32.
    A table without Gaussians is an ``InputError``.
    """
    from plyfile import PlyData
    from plyfile import PlyElement as Element

    n = len(table)
    if n == 0:
        raise InputError(f"{path}: there are no Gaussians to write; choose another moment.")
    table = table[_morton_order(table.means)]
    colour = 0.5 + SH_C0 * table.sh[:, 0].double()
    held = torch.cat([table.means, table.log_scales.clamp(*LOG_SCALES), colour], dim=1)
    values = held.double().cpu().numpy()
    starts = np.arange(0, n, CHUNK)
    # in float32 as the file has them, so that fractions are those that a reader undoes
    low = np.minimum.reduceat(values, starts).astype("<f4")
    high = np.maximum.reduceat(values, starts).astype("<f4")
    names = [
        f"{end}_{axis}"
        for part in (AXES[:3], AXES[3:6], AXES[6:])
        for end in ("min", "max")
        for axis in part
    ]
    bounds = {f"min_{axis}": low[:, i] for i, axis in enumerate(AXES)}
    bounds |= {f"max_{axis}": high[:, i] for i, axis in enumerate(AXES)}
    chunk = np.zeros(len(starts), [(name, "<f4") for name in names])
    for name in names:
        chunk[name] = bounds[name]
    of = np.arange(n) // CHUNK
    span = (high.astype(np.float64) - low)[of]
    unit = np.divide(values - low[of], span, out=np.zeros_like(values), where=span > 0)
    opacity = torch.sigmoid(table.logits.double()).cpu().numpy()[:, None]
    vertex = np.zeros(n, [(name, "<u4") for name in PACKED])
    vertex["packed_position"] = _pack(unit[:, :3], (11, 10, 11))
    vertex["packed_rotation"] = _packed_rotations(table.quats.double().cpu().numpy())
    vertex["packed_scale"] = _pack(unit[:, 3:6], (11, 10, 11))
    vertex["packed_color"] = _pack(np.concatenate([unit[:, 6:], opacity], axis=1), (8, 8, 8, 8))
    elements = [Element.describe(chunk, "chunk"), Element.describe(vertex, "vertex")]
    if table.sh.shape[1] > 1:
        rest = table.sh[:, 1:].transpose(1, 2).reshape(n, -1).double().cpu().numpy()
        bins = np.clip(np.floor((rest / SH_RANGE + 0.5) * 256.0), 0, 255).astype(np.uint8)
        rows = bins.view([(f"f_rest_{i}", "u1") for i in range(rest.shape[1])])[:, 0]
        elements.append(Element.describe(rows, "sh"))
    with atomic_file(path) as temporary, open(temporary, "wb") as handle:
        PlyData(elements, byte_order="<").write(handle)


def _morton_order(means: torch.Tensor) -> torch.Tensor:
    """Indices that sort centres along a Morton curve through their box."""
    low, high = means.amin(0), means.amax(0)
    cells = (means - low) / (high - low).clamp_min(torch.finfo(means.dtype).tiny)
    cells = (cells * ((1 << MORTON_BITS) - 1)).long()
    code = torch.zeros_like(cells[:, 0])
    for bit in range(MORTON_BITS):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return torch.argsort(code, stable=True)


def _pack(unit: Float[np.ndarray, "n c"], bits: tuple[int, ...]) -> UInt32[np.ndarray, " n"]:
    """Fractions rounded to ``bits`` each, the first in the highest place."""
    word = np.zeros(len(unit), np.uint32)
    for column, count in zip(unit.T, bits, strict=True):
        top = (1 << count) - 1
        part = np.clip(np.round(column * top), 0, top).astype(np.uint32)
        word = word << np.uint32(count) | part
    return word


def _packed_rotations(wxyz: Float[np.ndarray, "n 4"]) -> UInt32[np.ndarray, " n"]:
    """Index of the largest component, made positive, and the other three over ±1/sqrt(2)."""
    length = np.linalg.norm(wxyz, axis=-1, keepdims=True)
    unit = np.where(length > 0, wxyz / np.where(length > 0, length, 1.0), [1.0, 0.0, 0.0, 0.0])
    largest = np.abs(unit).argmax(-1)
    unit = unit * np.where(np.take_along_axis(unit, largest[:, None], 1) < 0, -1.0, 1.0)
    order = np.arange(3) + (np.arange(3) >= largest[:, None])
    three = np.take_along_axis(unit, order, axis=1) / math.sqrt(2.0) + 0.5
    return largest.astype(np.uint32) << np.uint32(30) | _pack(three, (10, 10, 10))


def _check(header: PlyHeader, path: Path) -> None:
    elements = header.elements
    vertex, chunk = elements["vertex"], elements.get("chunk")
    if chunk is None:
        raise InputError(
            f"{path} has packed vertices but no element 'chunk' with their bounds; export it again."
        )
    axes = ["x", "y", "z", "scale_x", "scale_y", "scale_z"]
    axes += ["r", "g", "b"] if "min_r" in chunk.properties else []
    bounds = [f"{end}_{axis}" for end in ("min", "max") for axis in axes]
    missing = [n for n in PACKED if vertex.properties.get(n) not in ("uint", "uint32")]
    missing += [n for n in bounds if chunk.properties.get(n) not in ("float", "float32")]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)} in the type of a compressed splat file; "
            "export it again."
        )
    if chunk.count != math.ceil(vertex.count / CHUNK):
        raise InputError(
            f"{path} has {chunk.count} chunks for {vertex.count} splats, expected one for "
            f"every {CHUNK}."
        )
    if "sh" in elements and elements["sh"].count != vertex.count:
        raise InputError(
            f"{path} has {elements['sh'].count} rows of sh for {vertex.count} splats; "
            "export it again."
        )
    if "sh" in elements and set(elements["sh"].properties.values()) - {"uchar", "uint8"}:
        raise InputError(f"{path} has an element sh that is not all bytes; export it again.")


def _unit(values: UInt32[np.ndarray, " n"], shift: int, bits: int) -> Float[np.ndarray, " n"]:
    top = (1 << bits) - 1
    return ((values >> np.uint32(shift)) & np.uint32(top)) / np.float64(top)


def _unpack_11_10_11(values: UInt32[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    return np.stack([_unit(values, 21, 11), _unit(values, 11, 10), _unit(values, 0, 11)], axis=-1)


def _between(
    chunk: Any, a: str, b: str, c: str, of: np.ndarray, t: np.ndarray
) -> Float[np.ndarray, "n 3"]:
    """Fractions ``t`` between the bounds of each splat's chunk; exact at both ends."""
    low, high = (
        columns(chunk, [f"{end}_{axis}" for axis in (a, b, c)])[of] for end in ("min", "max")
    )
    return low * (1.0 - t) + high * t


def _rotations(values: UInt32[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    """wxyz: three components over ±1/sqrt(2), the fourth and largest from the unit length."""
    three = np.stack([_unit(values, shift, 10) for shift in (20, 10, 0)], axis=-1)
    three = (three - 0.5) * math.sqrt(2.0)
    return insert_largest(three, (values >> np.uint32(30)).astype(np.int64))


def insert_largest(three: Float[np.ndarray, "n 3"], index: np.ndarray) -> Float[np.ndarray, "n 4"]:
    """Unit quaternions from all components but that at ``index`` [n], which is positive."""
    largest = np.sqrt(np.maximum(0.0, 1.0 - np.square(three).sum(-1)))
    # where component i is found among the three
    place = np.arange(4) - (np.arange(4) > index[:, None])
    out = np.take_along_axis(three, np.minimum(place, 2), axis=1)
    np.put_along_axis(out, index[:, None], largest[:, None], axis=1)
    return out


def _harmonics(values: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Bytes to coefficients: centres of 256 bins, but the outermost are the ends themselves."""
    t = (values + 0.5) / 256.0
    t = np.where(values == 0, 0.0, np.where(values == 255, 1.0, t))
    return (t - 0.5) * SH_RANGE


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
