"""Outputs that exist whole or not at all, and JSON/YAML input with errors that name the file."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fsm.errors import InputError

MAX_CONFIG_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (same suffix) that replaces it on success and vanishes on any failure."""
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
    """Yield a temporary sibling folder that becomes ``path`` on success (an older one is removed) and vanishes on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        for file in temporary.rglob("*"):  # some writers keep the owner-only mode of their own temporary files
            os.chmod(file, (0o777 if file.is_dir() else 0o666) & ~_umask())
        if path.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON (indented, UTF-8, no NaN) atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str, max_bytes: int = 256 << 20) -> Any:
    """Parse a JSON file; a missing, oversized or malformed one is an ``InputError`` that names it."""
    path = Path(path)
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path} is {path.stat().st_size} bytes, more than the {max_bytes} allowed for JSON.")
        return json.loads(path.read_text(encoding="utf-8"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or a number of thousands of digits
        raise InputError(f"{path} is not valid JSON ({error}); check that the file is complete.") from error


def read_yaml(path: Path | str) -> Any:
    """Parse a small YAML file of plain values; tags, anchors and files over 1 MiB are refused."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path} is {path.stat().st_size} bytes; a config is at most {MAX_CONFIG_BYTES}.")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InputError(f"{path} uses YAML aliases (*name); write the values out.")
        return yaml.safe_load(text)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (
        ValueError,
        yaml.YAMLError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}).") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
