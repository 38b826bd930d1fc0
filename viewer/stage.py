"""What all browsers look at: the scene, its inputs, and how a request becomes a picture. Knows no
browser.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from fsm.renderers.film.camera_paths import Track
from fsm.renderers.film.sequence import depth_range
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.viewer import modes
from fsm.viewer.cameras import Camera, viewing_distance
from fsm.viewer.input_cameras import InputCameras, made_from, observed
from fsm.viewer.limits import Limits, within
from fsm.viewer.native_splats import Native
from fsm.viewer.render_worker import Turns
from fsm.viewer.stream import ReadingProgress
from fsm.viewer.time_controls import nearest_frame
from fsm.viewer.wipe import Wipe, joined
from fsm.views import Rendering, Views

PROBE = 128
"""Height in pixels of the pictures that the range of depths is taken from."""
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
    wipe: Wipe | None = None
    """What is compared with; None: nothing."""
    limits: Limits = Limits()
    """Depths that are shown."""
    depths: Limits = Limits()
    """Ends of the colour map of depth; an open one is found from the inputs."""
    backdrop: tuple[int, int, int] | None = None
    """Colour to send in place of a picture, bytes: the browser draws the scene itself, before that.
    """

    @property
    def at_input(self) -> bool:
        """Whether it is seen from where, and when, the nearest input was taken: only there a frame
        can be compared.
        """
        return self.mode == "Difference" or (self.wipe is not None and self.wipe.against is None)


@dataclass(frozen=True)
class RenderedPicture:
    """A picture, and what it took."""

    picture: UInt8[ndarray, "h w 3"]
    seconds: float


class Stage:
    """A scene with all that is worked out once for every browser."""

    def __init__(
        self,
        scene: Viewable,
        clip: Any = None,
        compare: Mapping[str, Viewable] | None = None,
        *,
        turn: Turns | None = None,
        before: "Stage | None" = None,
        reading: ReadingProgress | None = None,
    ) -> None:
        """``clip`` is what the scene was made from (``fsm.datasets``), for pictures of the inputs
        the scene lacks.

        ``compare``: other scenes of the same clip, by the names to choose them by. ``turn`` is
        shared by stages of one viewer. ``before`` is the stage whose place this one takes: what it
        knows of the same clip is not worked out again. ``reading``: how far a scene that is being
        learnt has come.
        """
        if len(scene.inputs) == 0:
            raise InputError("a viewer needs at least one input camera, found none.")
        before = before if before is not None and clip is not None and before.clip is clip else None
        self.scene, self.clip, self.reading = scene, clip, reading
        self.compare: dict[str, Viewable] = dict(compare or {})
        """Other scenes, in the same space and on the same clock."""
        self.inputs = InputCameras.of(
            observed(scene, clip, None if before is None else before.inputs.views)
        )
        self.tracks = _tracks(scene.inputs, clip) if before is None else before.tracks
        """Points of the clip followed in 3D; None where it carries none, or is not what the scene
        was made from.
        """
        self.times: list[float] = self.inputs.views.time.tolist()
        self.distance = viewing_distance(self.inputs.views)
        """From a camera to what it looks at, in the clip's unit."""
        self.turn = Turns() if turn is None else turn
        """Held while drawing: scenes need not bear two threads, and two would share the same cores.
        """
        self._track = Track.through(self.inputs.views)
        self._depths: tuple[float, float] | None = None
        if before is not None and self.live:  # until the end: colours would flicker
            self._depths = before._depths
        with self.turn:
            self.renders_depth, self.renders_opacity = _renders(scene, self.inputs.views)

    @property
    def live(self) -> bool:
        """Whether more inputs may come."""
        return self.reading is not None and not self.reading.over

    def with_progress(self, reading: ReadingProgress) -> "Stage":
        """The same stage with other news of how far its scene has come."""
        other = copy.copy(self)
        other.reading = reading
        return other

    @property
    def native(self) -> Native | None:
        """What a browser can draw itself, where it can; not while more inputs may come."""
        return None if self.live else self._native

    @cached_property
    def _native(self) -> Native | None:
        return Native.of(self.scene)

    @property
    def knows_frames(self) -> bool:
        """Whether the inputs' pictures are known."""
        return self.inputs.views.rgb is not None

    @property
    def modes(self) -> tuple[modes.Mode, ...]:
        """Those worth offering: what the scene renders, and no difference where no input's picture
        is known.
        """
        there = {
            "Depth": self.renders_depth,
            "Opacity": self.renders_opacity,
            "Difference": self.knows_frames,
        }
        return tuple(m for m in modes.MODES if there.get(m, True))

    @property
    def found_depths(self) -> tuple[float, float] | None:
        """Nearest and farthest depth of the inputs' views, in the clip's unit; None before a
        picture needed them.
        """
        return self._depths

    def nearest(self, seconds: float, position: Sequence[float] | None = None) -> int:
        """Index of the input nearest in time; of several of one moment the one nearest to
        ``position``, or the first.
        """
        first = nearest_frame(self.times, seconds)
        same = [i for i, t in enumerate(self.times) if t == self.times[first]]
        if position is None or len(same) == 1:
            return first
        apart = self.inputs.views.c2w[same, :3, 3] - torch.tensor(position)
        return same[int(apart.norm(dim=-1).argmin())]

    def on_path(self, fraction: float, aspect: float) -> Camera:
        """The camera on the clip's own path at ``fraction`` of its duration, for a window of
        ``aspect``.
        """
        c2w, intrinsics = self._track.at(torch.tensor([fraction], dtype=torch.float64))
        view = Views(c2w.float(), intrinsics.float(), torch.zeros(1), self.inputs.views.hw)
        return dataclasses.replace(Camera.of_view(view), aspect=aspect)

    def render(self, job: Job, height: int) -> RenderedPicture:
        """The picture of ``job``, ``height`` pixels high. Call with ``turn`` held. Raises whatever
        the scene raises.
        """
        frame = self.inputs.views[job.frame]
        request = job.camera.request(height, job.seconds)
        if job.at_input:
            c2w = request.c2w.clone()
            c2w[0, :3, 3] = frame.c2w[0, :3, 3]
            request = dataclasses.replace(request, c2w=c2w, time=frame.time)
        colours = self._depth_limits(job.depths) if job.mode == "Depth" else None
        began = time.perf_counter()
        if job.wipe is None:
            picture = self._shown(self.scene, job, request, colours)
        else:
            picture = self._compared(job.wipe, job, request, colours)
        return RenderedPicture(modes.as_bytes(picture), time.perf_counter() - began)

    def _compared(
        self, wipe: Wipe, job: Job, request: Views, colours: tuple[float, float] | None
    ) -> Float[Tensor, "3 h w"]:
        """Both sides. Each is drawn whole where it is seen at all: a model's pixels depend on the
        rest of its picture.
        """
        h, w = request.hw
        column = wipe.column(w)
        left = right = torch.zeros(3, h, w)
        if column > 0:
            left = self._shown(self.scene, job, request, colours).cpu()
        if column < w and wipe.against is None:
            right = modes.framed(self.inputs.views[job.frame], request)
        elif column < w:
            if wipe.against not in self.compare:
                raise InputError(
                    f"there is no scene {wipe.against!r} to compare with; choose another."
                )
            try:
                right = self._shown(self.compare[wipe.against], job, request, colours).cpu()
            except InputError as error:
                raise InputError(f"{wipe.against}: {error}") from error
        return joined(left, right, column)

    def _shown(
        self, scene: Viewable, job: Job, request: Views, colours: tuple[float, float] | None
    ) -> Float[Tensor, "3 h w"]:
        """``request`` of one scene in the mode of ``job``."""
        limits = job.limits
        if isinstance(scene, GaussianScene) and not limits.open:
            scene, limits = scene.clipped(limits.near, limits.far), Limits()
        rendering = scene.render(request)
        if colours is not None:
            picture = modes.depth(rendering, colours)
        elif job.mode == "Opacity":
            picture = modes.opacity(rendering)
        elif job.mode == "Difference":
            picture = modes.difference(rendering, self.inputs.views[job.frame], request)
        else:
            picture = modes.colour(rendering)
        return within(picture, rendering, limits)

    def _depth_limits(self, wanted: Limits) -> tuple[float, float]:
        """Near and far of the colour map, what is open from the inputs: the same for all pictures,
        or colours would flicker.
        """
        if wanted.near > 0 and wanted.far < math.inf:
            return wanted.near, wanted.far
        if self._depths is None:
            inputs = self.inputs.views.without_rgb()
            h, w = inputs.hw
            small = inputs.resized((PROBE, max(1, round(w * PROBE / h)))) if h > PROBE else inputs
            self._depths = depth_range(self.scene, small)  # pyright: ignore[reportArgumentType]
        near = wanted.near or self._depths[0]
        far = wanted.far if wanted.far < math.inf else self._depths[1]
        if not near < far and not wanted.open:
            raise InputError(
                f"the colours of depth would run from {near:.4g} to {far:.4g}; choose both ends."
            )
        return near, far


def _tracks(inputs: Views, clip: Any) -> Tracks | None:
    return clip.tracks() if isinstance(clip, Clip) and made_from(inputs, clip) else None


def _renders(scene: Viewable, inputs: Views) -> tuple[bool, bool]:
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
