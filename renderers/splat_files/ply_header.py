"""A PLY header read with every number bounded, before anything is allocated by what it says."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from fsm.errors import InputError

MAX_HEADER = 1 << 16
FORMATS = {"binary_little_endian", "binary_big_endian", "ascii"}
SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


@dataclass(frozen=True)
class PlyElement:
    """One table of a PLY file: so many rows of these properties."""

    name: str
    count: int
    properties: dict[str, str]
    """Name to type, in the file's order."""


@dataclass(frozen=True)
class PlyHeader:
    """What follows in a PLY file; no more than the file has bytes for."""

    format: str
    elements: dict[str, PlyElement]


def read_header(path: Path) -> PlyHeader:
    """The header of a PLY file that holds the rows it declares (ASCII: as many bytes as they need
    at least).

    Headers over 64 KiB, list properties, unknown types and counts that are no numbers or that the
    file is too short for are refused; bytes that follow the last row get a warning.
    """
    try:
        with open(path, "rb") as handle:
            start = handle.read(MAX_HEADER)
            size = os.fstat(handle.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    lines, length = _lines(start, path)
    header = _parse(lines, path)
    needed = sum(e.count * _row_bytes(e, header.format) for e in header.elements.values())
    declared = ", ".join(f"{e.count} of {e.name}" for e in header.elements.values())
    found, least = size - length, "at least " if header.format == "ascii" else ""
    if found < needed:
        raise InputError(
            f"{path} declares {declared}, which take {least}{needed} bytes, but {found} "
            "bytes follow the header; "
            "the file is truncated or damaged, fetch or export it again."
        )
    if found > needed and header.format != "ascii":
        text = (
            f"{path} holds {found - needed} bytes after the declared {declared}; they are left "
            "aside."
        )
        warnings.warn(text, stacklevel=2)
    return header


def _lines(start: bytes, path: Path) -> tuple[list[str], int]:
    """Lines of the header after the first, without the last, and its length in bytes."""
    newline = b"\r\n" if start[3:5] == b"\r\n" else start[3:4]
    if start[:3] != b"ply" or newline not in (b"\n", b"\r", b"\r\n"):
        raise InputError(
            f"{path} is not a PLY file (it does not begin with 'ply'); check what it holds."
        )
    mark = newline + b"end_header" + newline
    end = start.find(mark)
    if end < 0:
        raise InputError(
            f"{path} has no end_header within {MAX_HEADER} bytes; the file is damaged or "
            "no splat file."
        )
    try:
        return start[3 + len(newline) : end].decode("ascii").split(newline.decode()), end + len(
            mark
        )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} has a header that is not ASCII; the file is damaged or no PLY file."
        ) from error


def _parse(lines: list[str], path: Path) -> PlyHeader:
    format_, elements = "", {}
    for line in lines:
        words = line.split()
        match words:
            case [] | ["comment", *_] | ["obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in FORMATS and not format_ and not elements:
                format_ = name
            case ["element", name, count] if format_ and name not in elements:
                if not (count.isdecimal() and len(count) <= 12):
                    raise InputError(
                        f"{path} declares {count[:40]} of {name}; the count of a splat "
                        "file is a number."
                    )
                elements[name] = PlyElement(name, int(count), {})
            case ["property", "list", *_] if elements:
                raise InputError(
                    f"{path} has the list property {words[-1]!r} in {list(elements)[-1]}; "
                    "splat files have none, "
                    "this is a mesh or another kind of PLY."
                )
            case ["property", kind, name] if elements and kind in SIZES:
                properties = elements[list(elements)[-1]].properties
                if name in properties:
                    raise InputError(
                        f"{path} declares the property {name!r} twice; the file is damaged."
                    )
                properties[name] = kind
            case _:
                raise InputError(
                    f"{path} has the header line {line[:60]!r}, which is not PLY 1.0; "
                    "export it again."
                )
    if not format_:
        raise InputError(f"{path} has no format line; the file is damaged, export it again.")
    for element in elements.values():
        if not element.properties:
            raise InputError(
                f"{path} declares the element {element.name!r} without properties; export it again."
            )
    return PlyHeader(format_, elements)


def _row_bytes(element: PlyElement, format_: str) -> int:
    """Bytes of a row; in ASCII the least: one digit and one separator each."""
    if format_ == "ascii":
        return 2 * len(element.properties)
    return sum(SIZES[kind] for kind in element.properties.values())
