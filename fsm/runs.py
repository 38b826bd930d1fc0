"""Long runs that write to a folder: one process at a time, and a stop that waits for the step at
hand.
"""

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from fsm.errors import InputError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder; where another process holds it, ``wait`` for it to let go or raise
    ``InputError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as handle:
        if wait:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder} is being written by another process; wait for it or choose "
                "another folder."
            ) from error
        print(os.getpid(), file=handle, flush=True)
        yield


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
