"""The one protocol that viewer, evaluation, export and command line know."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from fsm.views import Rendering, Views


@runtime_checkable
class Scene(Protocol):
    """Anything that can be seen from any camera at any moment."""

    def render(self, views: Views) -> Rendering:
        """Pictures for the requested views; poses and times are in the clip's own space and
        seconds.
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write the scene to a folder, whole or not at all."""
        ...
