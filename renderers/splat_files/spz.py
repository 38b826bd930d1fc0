"""SPZ (Niantic): about a tenth of a PLY. Versions 1 to 4 are read, 3 and 4 are written; most
readers know version 3.

Attributes one after the other (github.com/nianticlabs/spz, README): positions 3 x 24-bit fixed
point (version 1: float16), opacity uint8, colour 3 x uint8, log scale 3 x uint8, rotation (from
version 3: index of the largest component and three of 10 bits; before: x y z as uint8), spherical
harmonics uint8. Up to version 3 they are one gzip stream after a header of 16 bytes, in version 4 a
Zstandard stream each. Axes are RUB (y up, z back) unless an extension says otherwise; they become
OpenCV's here.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fsm.errors import InputError
from fsm.files import atomic_file
from fsm.renderers.splat_files.compressed_ply import insert_largest
from fsm.renderers.splat_files.table import SplatTable

MAGIC = 0x5053474E
HEADER = struct.Struct("<IIIBBBB")
HEADER_4 = struct.Struct("<IIIBBBBI12x")
ANTIALIASED, EXTENSIONS = 0x1, 0x2
COORDINATE_SYSTEM = 0xADBE0003
# f_dc beyond what sRGB shows is kept
COLOUR_SCALE = 0.15
# signs that take these axes to OpenCV's (RDF); their own inverse
RUB = (1.0, -1.0, -1.0)
# Which axes' signs a harmonic changes with, in the order of files.
PARITY = ("", "y", "z", "x", "xy", "yz", "", "xz", "", "y", "xyz", "y", "z", "x", "z", "x")
# real scenes are packed to a half or a third
MAX_RATIO = 100
# bytes that may be unpacked whatever the ratio
FREE = 64 << 20
MAX_EXTENSIONS = 1 << 16
FRACTION_BITS = range(8, 17)


@dataclass(frozen=True)
class _Packed:
    """What both containers hold, unpacked to bytes."""

    version: int
    points: int
    degree: int
    fraction_bits: int
    flags: int
    streams: tuple[bytes | memoryview, ...]
    """Positions, opacities, colours, scales, rotations, harmonics."""
    extensions: bytes | memoryview


def read_spz(path: Path) -> SplatTable:
    """Gaussians of an SPZ file of version 1 to 4.

    Raises ``InputError`` for damaged files, degrees above 3, unknown flags, and where the declared
    number of splats would unpack to more than a hundred times the file (and more than 64 MiB).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if data[:2] == b"\x1f\x8b":
        packed = _read_gzip(data, path)
    elif data[:4] == MAGIC.to_bytes(4, "little"):
        packed = _read_zstd(data, path)
    else:
        raise InputError(
            f"{path} is not an SPZ file (neither gzip nor 'NGSP' at its start); check what "
            "it holds."
        )
    return _decode(packed, _signs(packed, path))


def write_spz(path: Path, table: SplatTable, version: int = 3) -> None:
    """Write SPZ of ``version`` 3 or 4, whole or not at all, with as many fraction bits (8 to 16) as
    the farthest centre leaves.

    Log scales are held to [-10, 5.9] in steps of 1/16, harmonics beyond the colour to [-1, 1] in
    steps of 1/128. Centres further than 32768 from the origin are an ``InputError``.
    """
    bits = _fraction_bits(table, path)
    n, degree = len(table), table.sh_degree
    signs = np.array(RUB)
    means = np.round(table.means.double().cpu().numpy() * signs * (1 << bits)).astype(np.int64)
    fixed = (means & 0xFFFFFF).astype("<u4").view(np.uint8).reshape(n, 3, 4)[..., :3]
    harmonics = table.sh[:, 1:].double().cpu().numpy() * _parity_signs(RUB, degree)[:, None]
    streams = (
        fixed,
        _bytes(torch.sigmoid(table.logits.double()).cpu().numpy() * 255.0),
        _bytes(table.sh[:, 0].double().cpu().numpy() * (COLOUR_SCALE * 255.0) + 127.5),
        _bytes((table.log_scales.double().cpu().numpy() + 10.0) * 16.0),
        _pack_rotations(table.quats.double().cpu().numpy(), RUB),
        _bytes(harmonics * 128.0 + 128.0),
    )
    flags = ANTIALIASED if table.antialiased else 0
    head, parts = (n, degree, bits, flags), [s.tobytes() for s in streams]
    content = _in_zstd(head, parts) if version == 4 else _in_gzip(head, parts)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_spz_4(path: Path, table: SplatTable) -> None:
    """``write_spz`` of version 4."""
    write_spz(path, table, version=4)


def _in_gzip(head: tuple[int, int, int, int], streams: list[bytes]) -> bytes:
    """Version 3: a header and all streams as one gzip stream."""
    # 16: gzip, without name and time
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    body = HEADER.pack(MAGIC, 3, *head, 0) + b"".join(streams)
    return packer.compress(body) + packer.flush()


def _in_zstd(head: tuple[int, int, int, int], streams: list[bytes]) -> bytes:
    """Version 4: a plain header, sizes packed and unpacked, and a Zstandard stream of each."""
    from zstandard import ZstdCompressor

    # readers expect no stream where there are no harmonics
    whole = [s for s in streams if s]
    packed = [ZstdCompressor(level=12).compress(s) for s in whole]
    sizes = zip(packed, whole, strict=True)
    toc = b"".join(struct.pack("<QQ", len(small), len(large)) for small, large in sizes)
    header = HEADER_4.pack(MAGIC, 4, *head, len(whole), HEADER_4.size)
    return header + toc + b"".join(packed)


def _fraction_bits(table: SplatTable, path: Path) -> int:
    farthest = float(table.means.abs().max()) if len(table) else 0.0
    for bits in reversed(FRACTION_BITS):
        if farthest * (1 << bits) < 2**23 - 1:
            return bits
    raise InputError(
        f"{path}: centres lie up to {farthest:.6g} from the origin and SPZ holds them to "
        f"{2**23 >> FRACTION_BITS[0]}; write a PLY."
    )


def _sizes(version: int, points: int, degree: int) -> tuple[int, ...]:
    position, rotation = 6 if version == 1 else 9, 3 if version < 3 else 4
    return tuple(points * k for k in (position, 1, 3, 3, rotation, 3 * ((degree + 1) ** 2 - 1)))


def _check(
    path: Path, size: int, version: int, points: int, degree: int, bits: int, flags: int
) -> tuple[int, ...]:
    """Bytes of each stream, after every number of the header has been found sensible."""
    if degree > 3:
        raise InputError(
            f"{path} has spherical harmonics of degree {degree}; up to 3 are read, convert "
            "it first."
        )
    if bits > 23:
        raise InputError(f"{path} declares {bits} fraction bits of 24; the file is damaged.")
    if flags & ~(ANTIALIASED | EXTENSIONS):
        raise InputError(
            f"{path} has flags {flags:#04x}, of which this package knows 0x01 and 0x02; "
            "convert it first."
        )
    sizes = _sizes(version, points, degree)
    if sum(sizes) > max(FREE, MAX_RATIO * size):
        raise InputError(
            f"{path} declares {points} splats, {sum(sizes)} bytes, in a file of {size}; "
            "the file is damaged or forged."
        )
    return sizes


def _read_gzip(data: bytes, path: Path) -> _Packed:
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        head = inflate.decompress(data, HEADER.size)
        if len(head) < HEADER.size:
            raise InputError(f"{path} ends within the header; it is truncated, fetch it again.")
        magic, version, points, degree, bits, flags, _ = HEADER.unpack(head)
        if magic != MAGIC:
            raise InputError(f"{path} is gzip but not SPZ; check what it holds.")
        if not 1 <= version <= 3:
            raise InputError(f"{path} is SPZ version {version} in gzip; versions 1 to 3 are.")
        sizes = _check(path, len(data), version, points, degree, bits, flags)
        body = inflate.decompress(inflate.unconsumed_tail, sum(sizes)) if points else b""
        extensions = b""
        if flags & EXTENSIONS:
            extensions = inflate.decompress(inflate.unconsumed_tail, MAX_EXTENSIONS)
    except zlib.error as error:
        raise InputError(
            f"{path} cannot be unpacked ({error}); it is damaged, fetch it again."
        ) from error
    if len(body) < sum(sizes):
        raise InputError(
            f"{path} declares {points} splats, {sum(sizes)} bytes, but holds {len(body)}; "
            "it is truncated, fetch it again."
        )
    ends = np.cumsum(sizes).tolist()
    view = memoryview(body)
    streams = tuple(view[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return _Packed(version, points, degree, bits, flags, streams, extensions)


def _read_zstd(data: bytes, path: Path) -> _Packed:
    from zstandard import ZstdDecompressor, ZstdError

    if len(data) < HEADER_4.size:
        raise InputError(f"{path} ends within the header; it is truncated, fetch it again.")
    _, version, points, degree, bits, flags, streams, toc = HEADER_4.unpack_from(data)
    if version != 4:
        raise InputError(f"{path} is SPZ version {version} outside gzip; version 4 is.")
    sizes = _check(path, len(data), version, points, degree, bits, flags)
    wanted = [size for size in sizes if size]
    start = toc + 16 * streams
    if streams != len(wanted) or toc < HEADER_4.size or start > len(data):
        raise InputError(
            f"{path} has {streams} streams at {toc}, expected {len(wanted)}; the file is damaged."
        )
    unpacked, view = [], memoryview(data)
    for i, size in enumerate(wanted):
        length, declared = struct.unpack_from("<QQ", data, toc + 16 * i)
        if declared != size or start + length > len(data):
            raise InputError(
                f"{path}: stream {i} is to hold {declared} bytes, expected {size}; the "
                "file is damaged."
            )
        try:
            with ZstdDecompressor().stream_reader(view[start : start + length]) as reader:
                unpacked.append(reader.read(size))
        except ZstdError as error:
            raise InputError(
                f"{path} cannot be unpacked ({error}); it is damaged, fetch it again."
            ) from error
        if len(unpacked[-1]) != size:
            raise InputError(
                f"{path}: stream {i} holds {len(unpacked[-1])} of {size} bytes; fetch the "
                "file again."
            )
        start += length
    rest = iter(unpacked)
    whole = tuple(next(rest) if size else b"" for size in sizes)
    return _Packed(
        version, points, degree, bits, flags, whole, view[HEADER_4.size : toc][:MAX_EXTENSIONS]
    )


def _signs(packed: _Packed, path: Path) -> tuple[float, float, float]:
    """Signs of x, y, z that take the file's axes to OpenCV's."""
    records = bytes(packed.extensions) if packed.flags & EXTENSIONS else b""
    while len(records) >= 8:
        kind, length = struct.unpack_from("<II", records)
        if kind == COORDINATE_SYSTEM and length == 4 and len(records) >= 12:
            (system,) = struct.unpack_from("<I", records, 8)
            # unspecified: the default
            if system == 0:
                return RUB
            if not 1 <= system <= 8:
                raise InputError(
                    f"{path} has the coordinate system {system}; 1 (LDB) to 8 (RUF) are "
                    "read, convert it."
                )
            right, up, front = ((system - 1) >> k & 1 for k in range(3))
            return (1.0 if right else -1.0, -1.0 if up else 1.0, 1.0 if front else -1.0)
        records = records[8 + length :]
    return RUB


def _decode(packed: _Packed, signs: tuple[float, float, float]) -> SplatTable:
    n, degree = packed.points, packed.degree
    position, opacity, colour, scale, rotation, harmonics = (
        np.frombuffer(s, np.uint8) for s in packed.streams
    )
    with np.errstate(divide="ignore"):
        levels = np.arange(256) / 255.0
        logits = (np.log(levels) - np.log1p(-levels))[opacity]
    sh = np.empty((n, (degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = (colour.reshape(n, 3) / 255.0 - 0.5) / COLOUR_SCALE
    rest = harmonics.reshape(n, sh.shape[1] - 1, 3)
    sh[:, 1:] = (rest / 128.0 - 1.0) * _parity_signs(signs, degree)[:, None]
    means = _positions(position, packed) * np.array(signs)
    fields = (
        means,
        _rotations(rotation, packed.version, n, signs),
        scale.reshape(n, 3) / 16.0 - 10.0,
        logits,
        sh,
    )
    tensors = (torch.from_numpy(np.ascontiguousarray(f, dtype=np.float32)) for f in fields)
    return SplatTable(*tensors, antialiased=bool(packed.flags & ANTIALIASED))


def _positions(stream: UInt8[np.ndarray, " m"], packed: _Packed) -> Float[np.ndarray, "n 3"]:
    if packed.version == 1:
        return stream.view("<f2").reshape(packed.points, 3).astype(np.float64)
    wide = np.zeros((packed.points, 3, 4), np.uint8)
    # the top three bytes: the shift back extends the sign
    wide[..., 1:] = stream.reshape(packed.points, 3, 3)
    return (wide.view("<i4")[..., 0] >> 8) / float(1 << packed.fraction_bits)


def _rotations(
    stream: UInt8[np.ndarray, " m"], version: int, n: int, signs: tuple[float, ...]
) -> np.ndarray:
    """wxyz in OpenCV axes."""
    if version < 3:
        three = stream.reshape(n, 3) / 127.5 - 1.0
        xyzw = insert_largest(three, np.full(n, 3))
    else:
        word = stream.view("<u4")
        parts = np.stack(
            [word >> np.uint32(shift) & np.uint32(1023) for shift in (20, 10, 0)], axis=-1
        )
        size = (parts & np.uint32(511)) * (math.sqrt(0.5) / 511.0)
        xyzw = insert_largest(
            np.where(parts > 511, -size, size), (word >> np.uint32(30)).astype(np.int64)
        )
    return (xyzw * _turn_signs(signs))[:, [3, 0, 1, 2]]


def _pack_rotations(
    wxyz: Float[np.ndarray, "n 4"], signs: tuple[float, ...]
) -> UInt8[np.ndarray, "n 4"]:
    """The three smaller components of xyzw at 10 bits (sign and size), under the index of the
    largest, made positive.
    """
    length = np.linalg.norm(wxyz, axis=-1, keepdims=True)
    unit = np.where(length > 0, wxyz / np.where(length > 0, length, 1.0), [1.0, 0.0, 0.0, 0.0])
    xyzw = unit[:, [1, 2, 3, 0]] * _turn_signs(signs)
    largest = np.abs(xyzw).argmax(-1)
    xyzw = xyzw * np.where(np.take_along_axis(xyzw, largest[:, None], 1) < 0, -1.0, 1.0)
    order = np.arange(3) + (np.arange(3) >= largest[:, None])
    three = np.take_along_axis(xyzw, order, axis=1)
    size = np.minimum(np.round(np.abs(three) * (511.0 / math.sqrt(0.5))), 511).astype(np.uint32)
    parts = size | (three < 0).astype(np.uint32) << np.uint32(9)
    word = largest.astype(np.uint32) << np.uint32(30)
    for i, shift in enumerate((20, 10, 0)):
        word = word | parts[:, i] << np.uint32(shift)
    return word.astype("<u4").view(np.uint8).reshape(-1, 4)


def _turn_signs(signs: tuple[float, ...]) -> np.ndarray:
    """Signs of a quaternion's xyzw where axes change theirs: each turn lies in the plane of the
    other two axes.
    """
    x, y, z = signs
    return np.array([y * z, x * z, x * y, 1.0])


def _parity_signs(signs: tuple[float, ...], degree: int) -> np.ndarray:
    """Signs of the harmonics beyond the first where axes change theirs."""
    values = dict(zip("xyz", signs, strict=True))
    return np.array(
        [math.prod(values[axis] for axis in axes) for axes in PARITY[1 : (degree + 1) ** 2]]
    )


def _bytes(values: np.ndarray) -> UInt8[np.ndarray, "..."]:
    return np.round(np.clip(values, 0.0, 255.0)).astype(np.uint8)
