"""What a viewer needs of a scene, and what a scene offers beside colour."""

from typing import Protocol, runtime_checkable

from fsm.memory_scene import MemoryScene
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.viewer.cameras import Camera
from fsm.views import Rendering, Views

GLANCE = 32
"""Height in pixels of the picture that says what a scene renders beside colour."""


@runtime_checkable
class Viewable(Protocol):
    """What a viewer needs of a scene."""

    @property
    def inputs(self) -> Views:
        """Cameras and times of the input frames [v]."""
        ...

    @property
    def hw(self) -> tuple[int, int]:
        """Natural size to render."""
        ...

    def render(self, views: Views) -> Rendering:
        """Pictures for the requested views [v]."""
        ...


def finds_layers(scene: Viewable) -> bool:
    """Whether ``scene`` is a memory whose model finds depth, and has several moments."""
    several = len(scene.inputs.time.unique()) > 1
    return several and isinstance(scene, MemoryScene) and scene.model.finds_layers


def rendered_maps(scene: Viewable, inputs: Views) -> tuple[bool, bool]:
    """Whether ``scene`` renders depth, and opacity. One that fails may do so again where somebody
    reads the error.
    """
    if isinstance(scene, GaussianScene):
        return True, True
    try:
        glance = scene.render(Camera.of_view(inputs).request(GLANCE, float(inputs.time[0])))
    except Exception:  # whatever a scene may raise
        return True, True
    return glance.depth is not None, glance.alpha is not None
