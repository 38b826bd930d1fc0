"""What one tab of the panel is made of: parts, each with its controls and what it shows in the
scene.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from fsm.viewer.cameras import Camera
from fsm.viewer.stage import Job, Stage
from fsm.viewer.time_controls import Playback

Tab = Literal["Picture", "Scene", "Film"]


class Host(ABC):
    """What a part may ask of the session it belongs to. Everything may be called from any
    thread.
    """

    client: Any
    """viser's handle of the browser."""
    stage: Stage
    """The scene that it looks at now."""
    up: tuple[float, float, float]
    """What the browser's camera turns about; a unit vector. Kept by all that moves the camera."""

    @property
    @abstractmethod
    def playback(self) -> Playback:
        """Where its clock stands."""

    @property
    @abstractmethod
    def camera(self) -> Camera:
        """The browser's camera; ``InputError`` where that is no pose."""

    @abstractmethod
    def tab(self, name: Tab) -> AbstractContextManager[Any]:
        """Controls that are added inside go to that tab."""

    @abstractmethod
    def change(self, change: Callable[[Playback], Playback]) -> None:
        """Change the clock, show where it stands and ask for its picture."""

    @abstractmethod
    def go_to(self, camera: Camera) -> None:
        """Move the browser's camera there; the picture follows."""

    @abstractmethod
    def show(self, camera: Camera, seconds: float) -> None:
        """Go to ``camera`` and stand at ``seconds``, also where time is frozen or the view follows
        the clip.
        """

    @abstractmethod
    def look_through(self, index: int) -> None:
        """Go to where input ``index`` was taken, and when, unless time is frozen."""

    @abstractmethod
    def showed(self, seconds: float) -> None:
        """Tell all parts that the browser was sent what the scene looks like at ``seconds``."""

    @abstractmethod
    def refresh(self) -> None:
        """Ask for the picture of the present moment, camera and controls."""

    @abstractmethod
    def reshow(self) -> None:
        """Another kind of picture is wanted: go where an input was taken, if it can only be seen
        from there, and refresh.
        """


class Part:
    """Base of all parts; what it does not override, it does not care about. Built with its ``Host``
    alone.
    """

    def wants(self, job: Job) -> Job:
        """``job`` as this part's controls would have it. Be quick; ``InputError`` where they
        contradict each other.
        """
        return job

    def asked(self, camera: Camera, seconds: float) -> None:
        """A picture from ``camera`` at ``seconds`` was asked for: the place to let things in the
        scene follow. Be quick.
        """

    def shown(self, seconds: float) -> None:
        """The browser was sent what the scene looks like at ``seconds``: the place for what must
        keep pace with pictures.

        Comes from any thread; while a slow browser takes no pictures, it does not come.
        """

    def reset(self) -> None:
        """The user wants to see what one sees at first: put back what hides, tints or turns the
        picture; do not refresh.
        """

    def restaged(self) -> None:
        """The host has another stage: more inputs came, or other ones."""

    def close(self) -> None:
        """The browser has gone, or goes on to another scene: stop threads. What was shown is
        removed by others.
        """


def user_events_only(act: Callable[[Any], None]) -> Callable[[Any], Any]:
    """``act`` on the value that the user gives a control, not on what the clock writes into it.

    A coroutine runs on the server's own thread, where events arrive in their order; a plain
    function would run in any of a pool of threads, and a later event might come first. What it does
    is quick: it draws nothing.
    """

    async def handle(event: Any) -> None:
        if event.client_id is not None:
            act(event.target.value)

    return handle
