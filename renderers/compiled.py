"""Kernels: functions that numba compiles once per machine, and threads that run them.

    @kernel("void(int64, float32[::1])")
    def fill(worker, values): ...

    fill(0, values)                    # here
    on_threads(fill, 4, values)        # fill(0, values) ... fill(3, values), at once

Compiled code is kept in ``NUMBA_CACHE_DIR``, beside the source, or in the user's cache folder: the first of them that can be
written to. Compiling takes seconds and is announced on a terminal.

Threads are ours, not numba's: its layers either abort when two threads of a program use them at once or kill forked processes.
Kernels release Python's lock; any number of threads may call them, forked processes too.
"""

import contextlib
import hashlib
import inspect
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

_COMPILING = threading.RLock()
_pool: ThreadPoolExecutor | None = None


def cache_folders(source: Path) -> list[Path]:
    """Where code compiled from the file ``source`` may be kept, best first."""
    named = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return [*named, source.parent / "__pycache__", home / "fsm-toolkit" / "kernels"]


class _Locator(_CacheLocator):
    """Finds the folder; a change in this file or in ``simd`` counts as a change of every kernel."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source, self._folder = source, folder

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        shared = (Path(__file__), Path(__file__).with_name("simd.py"), self._source)
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in shared)).hexdigest()

    def get_disambiguator(self) -> str:
        return ""

    @classmethod
    def from_function(cls, py_func, py_file) -> "_Locator | None":
        for folder in cache_folders(Path(py_file)):
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
                return cls(Path(py_file), folder)
        return None


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    _impl_class = _CacheImpl
    announce: Callable[[], Any] | None = None

    def load_overload(self, sig, target_context):
        """A file that cannot be read is as good as none: numba compiles and writes a new one."""
        found = None
        with contextlib.suppress(Exception):
            found = super().load_overload(sig, target_context)
        if found is None and self.announce is not None:
            self.announce()
        return found


class Kernel:
    """A function of arrays and numbers, compiled (or read from the cache) when it is first called."""

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        # Under a type checker's import hook the function comes wrapped.
        self.function, self.signature = inspect.unwrap(function), signature
        self._run: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """Run it in this thread."""
        return self.ready()(*args)

    def ready(self) -> Callable[..., Any]:
        """The compiled function."""
        if self._run is None:
            with _COMPILING:
                self._run = self._run or self._compiled()
        return self._run

    def _compiled(self) -> Callable[..., Any]:
        dispatcher = numba.njit(nogil=True, error_model="numpy")(self.function)
        with contextlib.suppress(RuntimeError):  # no folder to write to: every process compiles anew
            dispatcher._cache = _Cache(self.function)
        with contextlib.ExitStack() as shown:
            if sys.stderr.isatty() and isinstance(dispatcher._cache, _Cache):
                dispatcher._cache.announce = lambda: shown.enter_context(_status(self.function.__name__))
            dispatcher.compile(self.signature)
        dispatcher.disable_compile()
        return dispatcher


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a function a ``Kernel``; what it calls must be a ``part`` in the same file or stand in ``simd``."""
    return lambda function: Kernel(function, signature)


def part(function: Callable[..., Any]) -> Any:
    """A function for kernels to call."""
    return numba.njit(error_model="numpy")(inspect.unwrap(function))


def _status(name: str) -> contextlib.AbstractContextManager[Any]:
    from rich.console import Console

    return Console(stderr=True).status(
        f"Compiling {name.replace('_', ' ').strip()} for this processor; later runs reuse it"
    )


def on_threads(run: Kernel, workers: int, *args: Any) -> None:
    """``run(i, *args)`` for every i < ``workers`` at once, the first in this thread."""
    compiled = run.ready()
    waiting = [_threads().submit(compiled, i, *args) for i in range(1, workers)]
    compiled(0, *args)
    for result in waiting:
        result.result()


def workers() -> int:
    """How many threads kernels use: as many as torch."""
    return torch.get_num_threads()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with _COMPILING:
            _pool = _pool or ThreadPoolExecutor(max(os.cpu_count() or 1, 2), thread_name_prefix="fsm-kernel")
    return _pool


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _pool, _COMPILING
    _pool, _COMPILING = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
