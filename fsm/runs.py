"""Runs that write to a folder: one set of settings a folder, one writer at a time, a state to
resume from, a progress bar, and a stop that waits for the step at hand.

Train, refine, reconstruct, evaluate and the ablation are such runs. Light imports only.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsm.errors import InputError
from fsm.files import atomic_file, read_json, read_plain, write_json

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
LOCK, SETTINGS = ".lock", "settings.json"
WARM, MEASURED = 4, 8
"""Parts of a run before its pace is measured, and parts that it is measured on: multiples of the
pictures that are rendered at once."""


class OtherSettings(InputError):
    """A folder holds what other settings made. Unlike one bad clip, this stops a list of clips."""


@dataclass(frozen=True)
class Run:
    """A folder that one set of settings fills, in as many goes as it takes."""

    folder: Path
    settings: Mapping[str, Any]
    """Plain values that the results follow from; kept as JSON in ``file``."""
    file: str = SETTINGS
    """Name of the file of settings."""
    state: str | None = None
    """Name of the file that ``resume`` reads. Until it exists, other settings may replace those in
    ``file``. None: nothing is resumed, and settings count from the start."""
    free: tuple[str, ...] = ()
    """Settings that change no result: they may differ from one go to the next."""

    def locked(self, wait: bool = False) -> contextlib.AbstractContextManager[None]:
        """Hold the folder: ``locked(folder, wait)``."""
        return locked(self.folder, wait)

    def claim(self, read: Callable[[Any, str], Mapping[str, Any]] | None = None) -> bool:
        """Write the settings (true), or check that those in the folder are the same (false).

        ``read`` brings stored values (from the named file) up to date, so that an option newer
        than the folder is no difference. Raises ``OtherSettings`` where they differ.
        """
        path = self.folder / self.file
        fresh = not path.exists()
        fresh = fresh or (self.state is not None and not (self.folder / self.state).exists())
        if not fresh:
            stored = read_json(path)
            stored = stored if read is None else read(stored, str(path))
            check_settings(path, self.settings, stored, self.free)
        if fresh or self.free:
            write_json(path, dict(self.settings))
        return fresh

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all."""
        import torch

        assert self.state is not None, "a run that resumes names its state"
        with atomic_file(self.folder / self.state) as temporary:
            torch.save(dict(state), temporary)

    def resume(self, load: Callable[[Any], None], device: "torch.device | str" = "cpu") -> bool:
        """Give the state to ``load``, where there is one (true); ``InputError`` where it does not
        fit.
        """
        assert self.state is not None, "a run that resumes names its state"
        path = self.folder / self.state
        if not path.exists():
            return False
        state = read_plain(path, device)
        try:
            load(state)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{path} cannot be resumed from ({reason}); move it away to start over."
            ) from error
        return True


def check_settings(
    path: Path, settings: Mapping[str, Any], stored: Any, free: Iterable[str] = ()
) -> None:
    """Raise ``OtherSettings`` where the values ``stored`` in ``path`` differ from ``settings``, but
    for those that are ``free``.
    """
    known = stored if isinstance(stored, Mapping) else {}
    changed = [
        k
        for k, value in settings.items()
        if k not in free and (k not in known or known[k] != value)
    ]
    if changed:
        raise OtherSettings(
            f"{path} was written with other settings (differs in {', '.join(changed)}); choose "
            "another folder, or remove this one."
        )


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder; where another process holds it, ``wait`` for it to let go or raise
    ``InputError``. The end of a process, killed or not, lets go.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"{folder} is being written by another process; wait for it or choose another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM that arrived inside the block: a run stops between steps, where its state
    is whole.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    before = {
        s: signal.signal(s, lambda number, _: arrived.append(number))
        for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def progress(
    label: str,
    total: int,
    done: int = 0,
    shown: bool = True,
    tell: Callable[[float], None] | None = None,
) -> Iterator[Callable[[str], None]]:
    """A function to call after each of ``total`` parts, ``done`` of them before, with a few words
    to stand beside the bar.

    The bar is on stderr, where that is a terminal and it is to be ``shown``. ``tell`` gets, once
    the first parts are done, the seconds that the others will take at their pace.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    hidden = not (shown and os.isatty(2))
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task("", total=total, completed=done)
        moments: list[float] = []

        def advance(words: str) -> None:
            bar.update(task, advance=1, description=words)
            if tell is None or len(moments) >= WARM + MEASURED:
                return
            moments.append(time.monotonic())
            left = total - done - len(moments)
            if len(moments) == WARM + MEASURED and left > 0:
                tell(left * (moments[-1] - moments[WARM - 1]) / MEASURED)

        yield advance


def tracked(
    items: Iterable[T], label: str, total: int, tell: Callable[[float], None] | None = None
) -> Iterator[T]:
    """The same items, with a bar on stderr where that is a terminal; ``tell`` as in
    ``progress``.
    """
    with progress(label, total, tell=tell) as advance:
        for item in items:
            yield item
            advance("")
