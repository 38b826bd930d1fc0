"""One function to read any splat file, one to write any."""

from collections.abc import Callable
from pathlib import Path

from fsm.errors import InputError
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.splat_files.compressed_ply import (
    is_compressed,
    read_compressed_ply,
    write_compressed_ply,
)
from fsm.renderers.splat_files.foreign import read_ksplat, read_sog, write_ksplat, write_sog
from fsm.renderers.splat_files.ply import read_ply, write_ply
from fsm.renderers.splat_files.ply_header import read_header
from fsm.renderers.splat_files.splat import read_splat, write_splat
from fsm.renderers.splat_files.spz import read_spz, write_spz, write_spz_4
from fsm.renderers.splat_files.table import SplatTable

WRITERS: dict[str, Callable[[Path, SplatTable], None]] = {
    "ply": write_ply,
    "compressed-ply": write_compressed_ply,
    "splat": write_splat,
    "spz": write_spz,
    "spz-4": write_spz_4,
    "sog": write_sog,
    "ksplat": write_ksplat,
}
SUFFIXES = (".ply", ".splat", ".spz", ".sog", ".ksplat")
COMPRESSED = ".compressed.ply"


def read_table(path: Path | str, drop_invalid: bool = False) -> SplatTable:
    """Gaussians of a standard or compressed .ply, a .splat, .spz, .sog or .ksplat, before
    activation.

    The kind is told by the file's first bytes; .splat and .ksplat have none to tell by, so their
    suffix counts. The last two need the extra ``formats``.
    Raises ``InputError`` for anything else, for damaged files, and for NaN and infinite values
    unless ``drop_invalid`` leaves those Gaussians out.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if start[:3] == b"ply":
        header = read_header(path)
        table = (
            read_compressed_ply(path, header) if is_compressed(header) else read_ply(path, header)
        )
    elif start[:2] == b"\x1f\x8b" or start == b"NGSP":
        table = read_spz(path)
    elif start == b"PK\x03\x04":
        table = read_sog(path)
    elif path.suffix.lower() == ".ksplat":
        table = read_ksplat(path)
    elif path.suffix.lower() == ".splat":
        table = read_splat(path)
    else:
        raise InputError(
            f"{path} is not a splat file this package knows: standard or compressed .ply, "
            ".splat, .spz, .sog or .ksplat; convert it first."
        )
    return table[~table.invalid()] if drop_invalid else table.check(str(path))


def read_splats(path: Path | str) -> Gaussians4D:
    """Gaussians of a splat file, there at all times; see ``read_table``."""
    return read_table(path).gaussians()


def write_table(path: Path | str, table: SplatTable, format: str | None = None) -> None:
    """Write Gaussians in one of the formats of ``WRITERS`` (by the suffix of ``path`` where not
    given), whole or not at all.
    """
    path = Path(path)
    name = format_of(path) if format is None else format
    if name not in WRITERS:
        raise InputError(
            f"{path}: splats cannot be written as {name!r}; choose one of {', '.join(WRITERS)}."
        )
    WRITERS[name](path, table)


def format_of(path: Path) -> str:
    """What the suffix of ``path`` asks for: ``compressed-ply`` of X.compressed.ply, else the last
    suffix itself.
    """
    if path.name.lower().endswith(COMPRESSED):
        return "compressed-ply"
    return path.suffix.lower().removeprefix(".")
