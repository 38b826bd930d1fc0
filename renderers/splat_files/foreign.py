"""Files that ``gaussforge`` reads and writes for us: .sog (PlayCanvas) and .ksplat
(mkkellogg/GaussianSplats3D).

They pass through a standard PLY, so that nothing but our own reader sees what the library made. The
library runs in a process of its own.
"""

import dataclasses
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from fsm.errors import InputError, require
from fsm.files import atomic_file
from fsm.renderers.splat_files.ply import read_ply, write_ply
from fsm.renderers.splat_files.ply_header import read_header
from fsm.renderers.splat_files.table import SplatTable

CONVERTER = Path(__file__).with_name("converter.py")
SECONDS = 600
# bytes of all parts of a .sog, unpacked, against those of the file
MAX_RATIO = 100
FREE = 64 << 20
MAX_META = 16 << 20
# .ksplat: sections and splats, declared at these places of a header of 4096 bytes
KSPLAT_HEADER, KSPLAT_SECTION = 4096, 1024
KSPLAT_COUNTS = struct.Struct("<BB2xIIII")
# position, scale, rotation and colour at the strongest compression
KSPLAT_SMALLEST = 24


def read_sog(path: Path) -> SplatTable:
    """Gaussians of a .sog archive. Raises ``InputError`` for damaged files, for parts that would
    unpack to more than a hundred times the file (and 64 MiB), and without the extra ``formats``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            names = {part.filename: part.file_size for part in parts}
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path} is not a .sog archive ({error}); fetch it again.") from error
    if "meta.json" not in names or names["meta.json"] > MAX_META:
        raise InputError(
            f"{path} is an archive without a meta.json of at most {MAX_META >> 20} MiB; it is no "
            ".sog file."
        )
    if size > max(FREE, MAX_RATIO * path.stat().st_size):
        raise InputError(
            f"{path} would unpack to {size} bytes, more than {MAX_RATIO} times its size; the file "
            "is damaged or forged."
        )
    return _read(path, "sog")


def read_ksplat(path: Path) -> SplatTable:
    """Gaussians of a .ksplat file. Raises ``InputError`` for damaged files, for headers that
    declare more splats than the file has bytes for, and without the extra ``formats``.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            head = handle.read(KSPLAT_HEADER)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if len(head) < KSPLAT_HEADER:
        raise InputError(f"{path} ends within the header of a .ksplat file; fetch it again.")
    major, minor, most, sections, _, splats = KSPLAT_COUNTS.unpack_from(head)
    if (major, minor) != (0, 1):
        raise InputError(f"{path} is .ksplat version {major}.{minor}; version 0.1 is read.")
    needed = KSPLAT_HEADER + most * KSPLAT_SECTION + splats * KSPLAT_SMALLEST
    if sections > most or needed > size:
        raise InputError(
            f"{path} declares {splats} splats in {sections} of {most} sections, at least {needed} "
            f"bytes, in a file of {size}; it is truncated or damaged."
        )
    return _read(path, "ksplat")


def write_sog(path: Path, table: SplatTable) -> None:
    """Write a .sog archive, whole or not at all."""
    _write(path, table, "sog")


def write_ksplat(path: Path, table: SplatTable) -> None:
    """Write a .ksplat file, whole or not at all."""
    _write(path, table, "ksplat")


def _read(path: Path, kind: str) -> SplatTable:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.ply"
        _convert(path, path, kind, plain, "ply")
        header = read_header(plain)
        return read_ply(plain, header)


def _write(path: Path, table: SplatTable, kind: str) -> None:
    if len(table) == 0:
        raise InputError(f"{path}: there are no Gaussians to write; choose another moment.")
    # the library takes quaternions of a .sog to be of unit length
    unit = torch.nn.functional.normalize(table.quats, dim=-1)
    table = dataclasses.replace(table, quats=unit)
    with tempfile.TemporaryDirectory() as folder, atomic_file(path) as temporary:
        plain = Path(folder) / "plain.ply"
        write_ply(plain, table)
        _convert(path, plain, "ply", temporary, kind)


def _convert(named: Path, source: Path, kind: str, target: Path, wanted: str) -> None:
    """Run the converter; its complaint, or its end, becomes a sentence about the file ``named``."""
    require("formats", "gaussforge")
    words = [sys.executable, "-I", str(CONVERTER), str(source), kind, str(target), wanted]
    try:
        done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{named} took gaussforge more than {SECONDS} s; convert it to a PLY elsewhere."
        ) from error
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else f"its process ended with status {done.returncode}"
        raise InputError(
            f"{named}: gaussforge cannot convert {kind} to {wanted} ({said}); the file is damaged "
            "or of a version that it does not know."
        )
