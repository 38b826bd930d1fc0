"""Damaged, forged and foreign files: one sentence each, and no memory taken because a file says
so.
"""

import dataclasses
import gzip
import struct
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.errors import InputError
from fsm.renderers.splat_files import open_splats, read_table, write_table
from tests.renderers.splat_files.tables import random_table
from tests.renderers.splat_files.test_spz import as_version_4

SOUND = random_table(n=20, degree=1)


def _replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


PLY_FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a million million": (
        _replace(b"vertex 20", b"vertex 1000000000000"),
        "declares 1000000000000 of vertex",
    ),
    "a count of 26 digits": (
        _replace(b"vertex 20", b"vertex " + b"9" * 26),
        "declares 9{26} of vertex",
    ),
    "a billion": (
        _replace(b"vertex 20", b"vertex 1000000000"),
        "take 104000000000 bytes, but 2080 bytes follow",
    ),
    "one too many": (_replace(b"vertex 20", b"vertex 21"), "truncated or damaged"),
    "negative": (_replace(b"vertex 20", b"vertex -1"), "declares -1 of vertex"),
    "underscored": (_replace(b"vertex 20", b"vertex 2_0"), "declares 2_0 of vertex"),
    "exponent": (_replace(b"vertex 20", b"vertex 2e1"), "declares 2e1 of vertex"),
    "list": (_replace(b"float nx", b"list uchar int nx"), "list property 'nx' in vertex"),
    "unknown type": (_replace(b"float nx", b"quad nx"), "header line 'property quad nx'"),
    "duplicate": (_replace(b"float nx", b"float x"), "declares the property 'x' twice"),
    "two vertices": (
        _replace(b"end_header", b"element vertex 0\nend_header"),
        "header line 'element vertex 0'",
    ),
    "empty element": (
        _replace(b"end_header", b"element face 3\nend_header"),
        "'face' without properties",
    ),
    "no format": (
        _replace(b"format binary_little_endian 1.0\n", b""),
        "header line 'element vertex 20'",
    ),
    "format 2": (_replace(b"little_endian 1.0", b"little_endian 2.0"), "which is not PLY 1.0"),
    "endless header": (
        _replace(b"end_header", b"comment " + b"x" * (1 << 17)),
        "no end_header within 65536 bytes",
    ),
    "not ASCII": (_replace(b"end_header", b"comment \xff\nend_header"), "header that is not ASCII"),
    "no opacity": (
        _replace(b"float opacity", b"float opaqueness"),
        "lacks the properties opacity;",
    ),
    "harmonics of no degree": (
        _replace(b"float f_rest_8", b"float other"),
        "has 8 properties f_rest",
    ),
    "a gap in the harmonics": (
        _replace(b"float f_rest_3", b"float f_rest_9"),
        "expected f_rest_0 onwards",
    ),
    "other element": (_replace(b"element vertex", b"element point"), "no element 'vertex'"),
    "truncated": (lambda data: data[:-1], "truncated or damaged"),
    "header only": (lambda data: data[: data.index(b"end_header")], "no end_header"),
    "first bytes only": (lambda data: data[:4], "no end_header"),
    "three bytes": (lambda data: data[:3], "does not begin with 'ply'"),
    "text that is none": (
        _replace(b"binary_little_endian", b"ascii"),
        "(cannot be read as PLY|truncated or damaged)",
    ),
    "packed without chunks": (_replace(b"float nx", b"uint packed_position"), "no element 'chunk'"),
}


@pytest.mark.parametrize("fault", PLY_FAULTS)
def test_damaged_ply(tmp_path: Path, fault: str) -> None:
    change, says = PLY_FAULTS[fault]
    path = tmp_path / "a.ply"
    write_table(path, SOUND)
    path.write_bytes(change(path.read_bytes()))
    _refused_cheaply(path, says)


def _refused_cheaply(path: Path, says: str, most: int = 2 << 20) -> None:
    """One sentence that names the file, and at most ``most`` bytes taken on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=says) as caught:
            read_table(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < most


COMPRESSED_HEADER = (
    b"ply\nformat binary_little_endian 1.0\nelement chunk 1\n"
    + b"".join(
        b"property float %s_%s%s\n" % (end, kind, axis)
        for kind in (b"", b"scale_")
        for end in (b"min", b"max")
        for axis in (b"x", b"y", b"z")
    )
    + b"element vertex 2\n"
    + b"".join(
        b"property uint packed_%s\n" % name
        for name in (b"position", b"rotation", b"scale", b"color")
    )
    + b"element sh 2\n"
    + b"".join(b"property uchar f_rest_%d\n" % i for i in range(9))
    + b"end_header\n"
)
COMPRESSED = COMPRESSED_HEADER + bytes(12 * 4 + 2 * 16 + 2 * 9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_replace(b"chunk 1", b"chunk 0"), "0 chunks for 2 splats"),
        (_replace(b"vertex 2", b"vertex 1"), "2 rows of sh for 1 splats"),
        (_replace(b"uint packed_scale", b"int packed_scale"), "lacks packed_scale in the type"),
        (_replace(b"float max_z", b"float maximum_z"), "lacks max_z"),
        (_replace(b"uchar f_rest_0", b"char f_rest_0"), "not all bytes"),
        (_replace(b"uchar f_rest_8", b"uchar more"), "8 properties f_rest"),
        (
            _replace(b"vertex 2", b"vertex 400000000000"),
            "declares 1 of chunk, 400000000000 of vertex",
        ),
    ],
)
def test_damaged_compressed_ply(
    tmp_path: Path, change: Callable[[bytes], bytes], says: str
) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(COMPRESSED)
    assert len(read_table(path)) == 2
    data = change(COMPRESSED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the changes make the file too long as well
        path.write_bytes(data)
        _refused_cheaply(path, says)


@pytest.mark.parametrize("kind", ["ply", "splat", "spz"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_no_gaussian_has(tmp_path: Path, kind: str, value: float) -> None:
    path = tmp_path / f"a.{kind}"
    means = SOUND.means.clone()
    means[7, 1] = value
    table = dataclasses.replace(SOUND, means=means)
    if kind == "spz":  # fixed point holds no such value: it cannot be written
        with pytest.raises(InputError, match="write a PLY"):
            write_table(path, table)
        return
    write_table(path, table)
    with pytest.raises(
        InputError, match=r"position is NaN or infinite for 1 of 20 Gaussians.*--drop-invalid"
    ):
        read_table(path)
    assert len(read_table(path, drop_invalid=True)) == 19


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("quats", float("inf"), "rotation"),
        ("log_scales", float("inf"), "scale"),
        ("log_scales", 89.0, "scale"),  # exp overflows float32
        ("log_scales", float("nan"), "scale"),
        ("logits", float("nan"), "opacity"),
        ("sh", float("nan"), "colour"),
    ],
)
def test_every_field_is_checked(tmp_path: Path, field: str, value: float, says: str) -> None:
    changed = getattr(SOUND, field).clone()
    changed[3] = value
    write_table(tmp_path / "a.ply", dataclasses.replace(SOUND, **{field: changed}))
    with pytest.raises(
        InputError, match=f"{says} is NaN or infinite for 1 of 20 Gaussians, first number 3"
    ):
        read_table(tmp_path / "a.ply")


def test_damaged_splat(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    write_table(path, SOUND)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    _refused_cheaply(path, "not a multiple of 32")
    path.write_bytes(data[:12] + struct.pack("<f", -1.0) + data[16:])
    _refused_cheaply(path, "negative scales")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="holds no Gaussians"):
        open_splats(path)


def _legacy(count: int, degree: int = 1, bits: int = 12, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, bits, flags, 0)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (_legacy(4_000_000_000), "declares 4000000000 splats, 116000000000 bytes, in a file of"),
        (_legacy(20) + bytes(100), "declares 20 splats, 580 bytes, but holds 100"),
        (_legacy(20, degree=4), "degree 4"),
        (_legacy(20, bits=30), "30 fraction bits"),
        (_legacy(20, flags=0x80), "flags 0x80"),
        (_legacy(20, version=5), "version 5 in gzip"),
        (_legacy(20, version=0), "version 0 in gzip"),
        (_legacy(20)[:9], "ends within the header"),
        (b"x" * 100, "gzip but not SPZ"),
    ],
)
def test_damaged_spz_in_gzip(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "a.spz"
    path.write_bytes(gzip.compress(raw))
    _refused_cheaply(path, says)


def test_truncated_and_corrupt_spz(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    write_table(path, SOUND)
    version_3, version_4 = path.read_bytes(), as_version_4(path)
    path.write_bytes(version_3[: len(version_3) // 2])
    _refused_cheaply(path, "truncated")
    path.write_bytes(version_3[:30] + bytes(20) + version_3[50:])
    _refused_cheaply(path, "(cannot be unpacked|truncated)")
    for length in (3, 10, 40, 200, len(version_4) - 1):
        path.write_bytes(version_4[:length])
        _refused_cheaply(path, "(not an? S?P?Z?|header|streams|stream|unpacked|fetch)")
    for at, value, says in (
        (4, struct.pack("<I", 5), "version 5 outside gzip"),
        (8, struct.pack("<I", 1 << 31), "declares 2147483648 splats"),
        (15, b"\x05", "has 5 streams"),
        (16, struct.pack("<I", 4), "streams at 4"),
        (40, struct.pack("<Q", 1 << 40), "is to hold 1099511627776 bytes, expected 180"),
        (32, struct.pack("<Q", 1 << 60), "stream 0 is to hold"),
    ):
        path.write_bytes(version_4[:at] + value + version_4[at + len(value) :])
        _refused_cheaply(path, says)


def test_bombs_unpack_no_further_than_declared(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    body = bytes(3 * 29)
    path.write_bytes(gzip.compress(_legacy(3) + body + bytes(64 << 20)))
    assert _peak(lambda: read_table(path)) < 2 << 20
    write_table(path, SOUND[:3])
    packed = [zstandard.compress(bytes(size) + bytes(64 << 20)) for size in (27, 3, 9, 9, 12, 27)]
    sizes = (27, 3, 9, 9, 12, 27)
    toc = b"".join(struct.pack("<QQ", len(p), size) for p, size in zip(packed, sizes, strict=True))
    header = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 3, 1, 12, 0, 6, 32)
    path.write_bytes(header + toc + b"".join(packed))
    assert _peak(lambda: read_table(path)) < 2 << 20


def _peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.txt", "a.ply", "a.spz", "a.obj"])
def test_foreign_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something else entirely")
    _refused_cheaply(tmp_path / name, "not a splat file this package knows")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "missing" / name)
    with pytest.raises(InputError, match="cannot be written as 'obj'"):
        write_table(tmp_path / "a.obj", SOUND)


def _sound_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        files = {"compressed.ply": COMPRESSED}
        for kind in ("ply", "splat", "spz"):
            write_table(Path(folder) / f"a.{kind}", SOUND[:4])
            files[kind] = (Path(folder) / f"a.{kind}").read_bytes()
        files["4.spz"] = as_version_4(Path(folder) / "a.spz")
        data = plyfile.PlyData.read(Path(folder) / "a.ply", mmap="r")
        data.text = True
        data.write(Path(folder) / "text.ply")
        files["text.ply"] = (Path(folder) / "text.ply").read_bytes()
        return files


FILES = _sound_files()


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(
        st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=6), st.booleans()),
        max_size=4,
    ),
    st.integers(0, 3000),
)
def test_any_change_gives_gaussians_or_one_sentence(name: str, changes: list, cut: int) -> None:
    data = FILES[name]
    for at, new, insert in changes:
        at %= len(data)
        data = data[:at] + new + data[at + (0 if insert else len(new)) :]
    data = data[: len(data) - cut] if cut < 50 else data
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / f"a.{name.rpartition('.')[2]}"
        path.write_bytes(data)
        try:
            table = read_table(path)
        except InputError:  # and no other
            return
        assert len(table) * 16 <= max(len(data), 1 << 14)
        assert not bool(table.invalid().any())
        assert table.sh.dtype == torch.float32
        assert np.isfinite(table.means.numpy()).all()
