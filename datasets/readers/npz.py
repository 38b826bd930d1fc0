"""Plain arrays out of ``.npz`` files that others wrote."""

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Shaped

from fsm.errors import InputError

T = TypeVar("T")
MAX_ARRAY_BYTES = 64 << 20


def read_arrays(
    path: Path, keys: tuple[str, ...], most: int = MAX_ARRAY_BYTES
) -> list[Shaped[np.ndarray, "..."]]:
    """The arrays ``keys``, each of at most ``most`` bytes; ``InputError`` for missing ones and
    unreadable files.

    Sizes are checked before memory is taken, and pickled objects are never loaded.
    """

    def read() -> list[np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            for key in keys:
                _check_declared(archive, key, path, most)
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[key] for key in keys]

    return _reading(path, read)


def array_names(path: Path) -> set[str]:
    """Names of the arrays in the file."""

    def read() -> set[str]:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}

    return _reading(path, read)


def _reading(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except (
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InputError(
            f"{path} is not a readable .npz ({' '.join(str(error).split())}); copy it again."
        ) from error


def _check_declared(archive: zipfile.ZipFile, key: str, path: Path, most: int) -> None:
    names = archive.namelist()
    if f"{key}.npy" not in names:
        raise InputError(
            f"{path} lacks the array {key!r}; found "
            f"{', '.join(n.removesuffix('.npy') for n in names[:8])}."
        )
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    if dtype.hasobject:
        raise InputError(
            f"{path}: array {key!r} holds pickled objects, which are never loaded; store "
            "plain numbers."
        )
    declared = math.prod(shape) * dtype.itemsize
    if declared > most or declared > info.file_size:
        raise InputError(
            f"{path}: array {key!r} declares {declared} bytes, more than it holds or is "
            "allowed; copy it again."
        )
