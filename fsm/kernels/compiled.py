"""Kernels: functions that numba compiles once per machine, and threads that run them.

    @kernel("void(int64, float32[::1])")
    def fill(worker, values): ...

    fill(0, values)                    # here
    on_threads(fill, 4, values)        # fill(0, values) ... fill(3, values), at once

Compiled code is kept in ``NUMBA_CACHE_DIR``, beside the source, or in the user's cache folder: the
first of them that can be written to. Compiling takes seconds and is announced on a terminal.

Threads are ours, not numba's: its layers either abort when two threads of a program use them at
once or kill forked processes. Kernels release Python's lock; any number of threads may call them,
forked processes too.
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
import numpy as np
import torch
from numba.core import config as _config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.dispatcher import Dispatcher

config: Any = _config
_COMPILING = threading.RLock()
_pool: ThreadPoolExecutor | None = None


def cache_folders(source: Path) -> list[Path]:
    """Where code compiled from the file ``source`` may be kept, best first."""
    # sources of one name do not meet
    place = hashlib.sha256(str(source.resolve().parent).encode()).hexdigest()[:16]
    named = [Path(config.CACHE_DIR) / place] if config.CACHE_DIR else []
    return [*named, source.parent / "__pycache__", user_cache() / "fsm-toolkit" / "kernels" / place]


def user_cache() -> Path:
    """The user's folder for things that can be made again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _namespaces(function: Callable[..., Any]) -> dict[Path, dict[str, Any]]:
    """Names that a function's file knows, and those of the files of its parts, of their parts, and
    so on.
    """
    found: dict[Path, dict[str, Any]] = {}
    waiting = [function]
    while waiting:
        next_one = waiting.pop()
        path = Path(inspect.getfile(next_one))
        if path not in found:
            found[path] = next_one.__globals__
            waiting += [
                v.py_func for v in next_one.__globals__.values() if isinstance(v, Dispatcher)
            ]
    return found


class _Locator(_CacheLocator):
    """Finds the folder, and what a kernel was made of: its file, those of its parts, ``simd`` and
    the numbers it names.
    """

    def __init__(self, function: Callable[..., Any], source: Path, folder: Path) -> None:
        spaces = _namespaces(function)
        vectors = Path(__file__).parent.glob("simd*.py")
        files = sorted({source, Path(__file__), *vectors, *spaces})
        named = [pair for space in spaces.values() for pair in space.items()]
        numbers = sorted(
            {(k, repr(v)) for k, v in named if isinstance(v, (int, float, np.generic))}
        )
        made_of = [path.read_bytes() for path in files] + [repr(numbers).encode()]
        self._stamp, self._folder = hashlib.sha256(b"\0".join(made_of)).hexdigest(), folder

    def get_cache_path(self) -> Any:
        return str(self._folder)

    def get_source_stamp(self) -> Any:
        return self._stamp

    def get_disambiguator(self) -> Any:
        return ""

    @classmethod
    def from_function(cls, py_func, py_file) -> "_Locator | None":
        for folder in cache_folders(Path(py_file)):
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
                return cls(py_func, Path(py_file), folder)
        return None


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    _impl_class = _CacheImpl
    announce: Callable[[], Any] | None = None

    def load_overload(self, sig, target_context):
        """A file that cannot be read is as good as none: numba compiles and writes a new one."""
        found = None
        try:
            found = super().load_overload(sig, target_context)
        except Exception:
            with contextlib.suppress(OSError):
                self.flush()
        if found is None and self.announce is not None:
            self.announce()
        return found

    def save_overload(self, sig, data):
        """A full disk is no reason to fail."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class Kernel:
    """A function of arrays and numbers, compiled (or read from the cache) when it is first
    called.
    """

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
        dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(self.function)
        # no folder to write to: every process compiles anew
        with contextlib.suppress(RuntimeError):
            dispatcher._cache = _Cache(self.function)
        with contextlib.ExitStack() as shown:
            if sys.stderr.isatty():
                if isinstance(dispatcher._cache, _Cache):
                    dispatcher._cache.announce = lambda: shown.enter_context(
                        _status(self.function.__name__)
                    )
                else:
                    shown.enter_context(_status(self.function.__name__))
            dispatcher.compile(self.signature)
        dispatcher.disable_compile()
        return dispatcher


def kernel(signature: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a function a ``Kernel``; it may call ``part``s and what stands in ``simd``."""
    return lambda function: Kernel(function, signature)


def part(function: Callable[..., Any]) -> Any:
    """A function for kernels to call."""
    return numba.njit(error_model="numpy")(inspect.unwrap(function))


def loose_part(function: Callable[..., Any]) -> Any:
    """The same, with sums that may be reordered and fused; NaN and infinity keep their meaning."""
    loose = {"contract", "reassoc", "nsz", "arcp"}
    return numba.njit(error_model="numpy", fastmath=loose)(inspect.unwrap(function))


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
            _pool = _pool or ThreadPoolExecutor(
                max(os.cpu_count() or 1, 2), thread_name_prefix="fsm-kernel"
            )
    return _pool


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _pool, _COMPILING
    _pool, _COMPILING = None, threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
