"""Scenes that are still being learnt: how far they have come, and the thread that takes them as
they come.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fsm.errors import InputError


@dataclass(frozen=True)
class ReadingProgress:
    """How much of a clip the scene shown has been made from."""

    read: int
    """Input frames."""
    total: int | None = None
    """All that will come, where that is known."""
    over: bool = False
    """No more will come."""
    error: str | None = None
    """Why it ended early, in a sentence."""

    @property
    def sentence(self) -> str:
        """What the panel says."""
        frames = "frame" if (self.total or self.read) == 1 else "frames"
        count = (
            f"{self.read} of {self.total} {frames}"
            if self.total is not None
            else f"{self.read} {frames}"
        )
        if self.error is not None:
            return f"**Stopped after {count}:** {self.error}"
        if not self.over:
            return f"Read {count} ..."
        return (
            f"Read {count}."
            if self.total not in (None, self.read)
            else f"Read all {self.read} {frames}."
        )


class SceneStream:
    """A thread that takes scenes from where they are made, one after the other, and hands each
    over.
    """

    def __init__(
        self,
        scenes: Iterable[Any],
        show: Callable[[Any, ReadingProgress], None],
        read: int = 0,
        total: int | None = None,
    ) -> None:
        """``show`` gets each scene; at the end once more the last one (None where none came), and
        why it ended.

        ``read`` frames are in the scene before the first of ``scenes``.
        """
        self._scenes, self._show, self._read, self._total = scenes, show, read, total
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fsm-viewer-stream", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether scenes may still come."""
        return self._thread.is_alive()

    def close(self, timeout: float = 5.0) -> None:
        """Take no more. One that is being made is made to its end, but not shown."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        last, error = None, None
        try:
            for scene in self._scenes:
                if self._closed.is_set():
                    return
                last, self._read = scene, len(scene.inputs)
                self._show(scene, ReadingProgress(self._read, self._total))
        except Exception as raised:  # whatever a model or a file may raise: the viewer outlives it
            error = in_a_sentence(raised)
        if not self._closed.is_set():
            self._show(last, ReadingProgress(self._read, self._total, over=True, error=error))


def in_a_sentence(error: Exception, most: int = 500) -> str:
    """What a panel says about an error: an ``InputError`` as it is, others with their kind."""
    sentence = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, InputError) and sentence != type(error).__name__:
        sentence = f"{type(error).__name__}: {sentence}"
    return sentence[:most]
