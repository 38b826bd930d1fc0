"""Long work for one browser, off the threads that serve it: in a folder of its own that vanishes
with it.
"""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Result = TypeVar("Result")


class BackgroundTask(Generic[Result]):
    """A thread that does one thing; in the end exactly one of ``done`` and ``failed`` is called on
    it, unless cancelled.
    """

    def __init__(
        self,
        work: Callable[[Path, Callable[[], bool]], Result | None],
        done: Callable[[Result], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """``work(folder, cancelled)`` returns what is made; it looks at ``cancelled()`` often, and
        then returns None.

        ``folder`` is temporary: what should remain is in the result.
        """
        self._work, self._done, self._failed = work, done, failed
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fsm-viewer-task", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether its end is still to come."""
        return self._thread.is_alive() and not self._cancelled.is_set()

    def cancel(self) -> None:
        """Nothing more will be heard of it."""
        self._cancelled.set()

    def close(self, timeout: float = 5.0) -> None:
        """Cancel, and wait until nothing is left of it."""
        self.cancel()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="fsm-viewer-") as folder:
                result = self._work(Path(folder), self._cancelled.is_set)
            if result is not None and not self._cancelled.is_set():
                self._done(result)
        except Exception as error:  # whatever a scene may raise: the viewer outlives it
            if not self._cancelled.is_set():
                self._failed(error)
