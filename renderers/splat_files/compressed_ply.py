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
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.splat_files.ply import channel_minor, columns, read_rows, rest_names
from fsm.renderers.splat_files.ply_header import PlyHeader
from fsm.renderers.splat_files.table import SplatTable

CHUNK = 256
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
