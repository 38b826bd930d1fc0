"""Outputs that exist whole or not at all; JSON, YAML and safetensors input with errors that name
the file.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fsm.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_HEADER_BYTES = 100 << 20
MAX_CONFIG_BYTES = 1 << 16
MAX_CONFIG_DEPTH = 32
_renameat2: Any = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (same suffix) that replaces it on success and vanishes
    on any failure.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` on success (an older one is removed)
    and vanishes on failure.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        # some writers keep the owner-only mode of their own temporary files
        for file in temporary.rglob("*"):
            os.chmod(file, (0o777 if file.is_dir() else 0o666) & ~_umask())
        if path.is_dir():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def slug(id: str) -> str:
    """File name for a clip id: safe characters only, and a hash where that changed anything."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", id).lstrip(".-")[:100]
    return safe if safe == id else f"{safe or 'clip'}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON (indented, UTF-8, no NaN) atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def read_json(path: Path | str, max_bytes: int = 256 << 20) -> Any:
    """Parse a JSON file; a missing, oversized or malformed one is an ``InputError`` that names
    it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(
                f"{path} is {path.stat().st_size} bytes, more than the {max_bytes} allowed "
                "for JSON."
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    # ValueError: not UTF-8, not JSON, or a number of thousands of digits
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); check that the file is complete."
        ) from error


def read_yaml(path: Path | str) -> Any:
    """Parse a small YAML file of plain values; tags, aliases, deep nesting and files over 64 KiB
    are refused.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(
                f"{path} is {path.stat().st_size} bytes; a config is at most {MAX_CONFIG_BYTES}."
            )
        text = path.read_text(encoding="utf-8")
        depth = 0
        # lazily: a hostile file is left at its first fault
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{path} uses YAML aliases (*name); write the values out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if depth > MAX_CONFIG_DEPTH:
                raise InputError(
                    f"{path} is nested more than {MAX_CONFIG_DEPTH} deep; a config never is."
                )
        return yaml.safe_load(text)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    # ValueError: not UTF-8, or a date that does not exist
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}).") from error


def read_safetensors(path: Path) -> "dict[str, Tensor]":
    """All tensors of a safetensors file; truncated, malformed and ambiguous (duplicate key) files
    are refused.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}); fetch or export it again."
        ) from error


def read_plain(path: Path | str, device: "torch.device | str" = "cpu") -> Any:
    """What ``torch.save`` wrote, if it is tensors and plain values only; anything else is refused,
    and never run.
    """
    import torch

    try:
        with warnings.catch_warnings():
            # remarks on the pickle protocol; the refusal below says what matters
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler fail in a dozen ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{path} was refused or cannot be read as plain tensors ({reason}); nothing in "
            "it was run."
        ) from error


def _check_header(path: Path) -> None:
    """The library lets the last of two equal keys win; we refuse, and bound the header before
    reading it.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [k for k, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(k for k in keys if keys.count(k) > 1)
            raise InputError(
                f"{path} names the tensor {twice!r} twice; the file is corrupt or forged."
            )
        return dict(pairs)

    try:
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > min(MAX_HEADER_BYTES, path.stat().st_size):
                raise InputError(
                    f"{path} declares a header of {size} bytes, more than it can hold; "
                    "fetch the file again."
                )
            json.loads(handle.read(size), object_pairs_hook=unique)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}).") from error


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders: in one step on Linux, so that a killed process leaves one or the other,
    elsewhere in three.
    """
    if _renameat2 is not None:
        # AT_FDCWD, RENAME_EXCHANGE
        at_cwd, exchange = -100, 2
        if _renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0:
            return
    aside = Path(tempfile.mkdtemp(prefix=f".{b.name}.old.", dir=b.parent))
    os.replace(b, aside)
    try:
        os.replace(a, b)
    except OSError:
        os.replace(aside, b)
        raise
    os.replace(aside, a)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
