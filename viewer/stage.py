"""What all browsers look at: the scene, its inputs, and how a request becomes a picture. Knows no browser."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from numpy import ndarray

from fsm.errors import InputError
from fsm.renderers.camera_paths import Track
from fsm.renderers.sequence import depth_range
from fsm.viewer import modes
from fsm.viewer.cameras import Camera, viewing_distance
from fsm.viewer.inputs import InputCameras, observed
from fsm.viewer.render_worker import Turns
from fsm.viewer.time_controls import nearest_frame
from fsm.views import Rendering, Views

PROBE = 128
"""Height in pixels of the pictures that the range of depths is taken from."""


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


@dataclass(frozen=True)
class Job:
    """One picture that is wanted."""

    camera: Camera
    seconds: float
    frame: int
    """Input frame nearest to ``seconds``."""
    mode: modes.Mode
    height: int
    """Pixels, in full."""


@dataclass(frozen=True)
class Shot:
    """A picture, and what it took."""

    picture: UInt8[ndarray, "h w 3"]
    seconds: float


class Stage:
    """A scene with all that is worked out once for every browser."""

    def __init__(self, scene: Viewable, clip: Any = None) -> None:
        """``clip`` is what the scene was made from (``fsm.datasets``), for pictures of the inputs the scene lacks."""
        if len(scene.inputs) == 0:
            raise InputError("a viewer needs at least one input camera, found none.")
        self.scene = scene
        self.inputs = InputCameras.of(observed(scene, clip))
        self.times: list[float] = self.inputs.views.time.tolist()
        self.distance = viewing_distance(self.inputs.views)
        """From a camera to what it looks at, in the clip's unit."""
        self.turn = Turns()
        """Held while drawing: scenes need not bear two threads, and two would share the same cores."""
        self._track = Track.through(self.inputs.views)
        self._depths: tuple[float, float] | None = None

    @property
    def modes(self) -> tuple[modes.Mode, ...]:
        """Those worth offering: no difference where no input's picture is known."""
        known = self.inputs.views.rgb is not None
        return tuple(m for m in modes.MODES if known or m != "Difference")

    def nearest(self, seconds: float) -> int:
        """Index of the input nearest in time."""
        return nearest_frame(self.times, seconds)

    def on_path(self, fraction: float, aspect: float) -> Camera:
        """The camera on the clip's own path at ``fraction`` of its duration, for a window of ``aspect``."""
        c2w, intrinsics = self._track.at(torch.tensor([fraction], dtype=torch.float64))
        view = Views(c2w.float(), intrinsics.float(), torch.zeros(1), self.inputs.views.hw)
        return dataclasses.replace(Camera.of_view(view), aspect=aspect)

    def draw(self, job: Job, height: int) -> Shot:
        """The picture of ``job``, ``height`` pixels high. Call with ``turn`` held. Raises whatever the scene raises."""
        frame = self.inputs.views[job.frame]
        request = job.camera.request(height, job.seconds)
        if job.mode == "Difference":  # a frame can be compared only from where, and when, it was taken
            c2w = request.c2w.clone()
            c2w[0, :3, 3] = frame.c2w[0, :3, 3]
            request = dataclasses.replace(request, c2w=c2w, time=frame.time)
        limits = self._depth_limits() if job.mode == "Depth" else None
        began = time.perf_counter()
        rendering = self.scene.render(request)
        if limits is not None:
            picture = modes.depth(rendering, limits)
        elif job.mode == "Opacity":
            picture = modes.opacity(rendering)
        elif job.mode == "Difference":
            picture = modes.difference(rendering, frame, request)
        else:
            picture = modes.colour(rendering)
        return Shot(modes.as_bytes(picture), time.perf_counter() - began)

    def _depth_limits(self) -> tuple[float, float]:
        """Near and far of the colour map, from the inputs' views: the same for all pictures, or colours would flicker."""
        if self._depths is None:
            inputs = self.inputs.views.without_rgb()
            h, w = inputs.hw
            small = inputs.resized((PROBE, max(1, round(w * PROBE / h)))) if h > PROBE else inputs
            self._depths = depth_range(self.scene, small)  # pyright: ignore[reportArgumentType]
        return self._depths
