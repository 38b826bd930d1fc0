"""The one protocol that viewer, evaluation, export and command line know."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from fsm.views import Rendering, Views


@runtime_checkable
class Scene(Protocol):
    """Anything that can be seen from any camera at any moment."""

    @property
    def frames_seen(self) -> Int64[Tensor, "n 2"] | None:
        """Ids (``fsm.frame_ids``) of the frames it was made from; None where nobody recorded
        them.
        """
        ...

    def render(self, views: Views) -> Rendering:
        """Pictures for the requested views; poses and times are in the clip's own space and
        seconds.
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write the scene to a folder, whole or not at all."""
        ...
