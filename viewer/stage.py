"""What all browsers look at: the scene, its inputs, and how a request becomes a picture. Knows no
browser.
"""

import copy
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.renderers.film.camera_paths import Track
from fsm.renderers.film.sequence import depth_range
from fsm.renderers.gaussians.scene import GaussianScene, Layer
from fsm.viewer import layer_maps, modes
from fsm.viewer.cameras import Camera, viewing_distance
from fsm.viewer.input_cameras import InputCameras, made_from, observed
from fsm.viewer.limits import Limits, within
from fsm.viewer.native_splats import Native
from fsm.viewer.render_worker import Turns
from fsm.viewer.stream import ReadingProgress
from fsm.viewer.time_controls import nearest_frame
from fsm.viewer.viewable import Viewable, finds_layers, rendered_maps
from fsm.viewer.wipe import Wipe, joined
from fsm.views import Views

PROBE = 128
"""Height in pixels of the pictures that the range of depths is taken from."""


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

    layer: Layer = "all"
    """Which Gaussians are shown."""
    aspect: float | None = None
    """Width to height of the picture in the middle of the window; None: it fills the window."""

    @property
    def framed(self) -> "Job":
        """The same with the camera of the picture in place of that of the window."""
        if self.aspect is None:
            return self
        return dataclasses.replace(self, camera=self.camera.framed(self.aspect))


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
            self.renders_depth, self.renders_opacity = rendered_maps(scene, self.inputs.views)
        self._finding = threading.Lock()
        self._layers: dict[Layer, GaussianScene] = {}

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
        of_frames = finds_layers(self.scene)
        moves = of_frames or (isinstance(self.scene, GaussianScene) and len(set(self.times)) > 1)
        there = {
            "Depth": self.renders_depth,
            "Opacity": self.renders_opacity,
            "Motion": moves and (of_frames or len(self.layers) > 1),
            "Flow": moves,
            "Difference": self.knows_frames,
        }
        return tuple(m for m in modes.MODES if there.get(m, True))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those worth offering: of Gaussians some of which stand and some do not."""
        if not isinstance(self.scene, GaussianScene) or self.live:
            return ("all",)
        stands = self.scene.gaussians.stands
        both = bool(stands.any()) and not bool(stands.all())
        return ("all", "static", "moving") if both else ("all",)

    @property
    def may_find_tracks(self) -> bool:
        """Whether there are none yet, and the scene can find its own."""
        return self.tracks is None and not self.live and finds_layers(self.scene)

    def find_tracks(self, cancelled: Callable[[], bool], told: Callable[[int], None]) -> bool:
        """Find the scene's own tracks, once for every browser; see ``layer_maps.find_tracks``.
        False where ``cancelled``.
        """
        with self._finding:
            if self.tracks is None:
                assert isinstance(self.scene, MemoryScene), "only those find tracks"
                self.tracks = layer_maps.find_tracks(self.scene, self.turn, cancelled, told)
            return self.tracks is not None

    def at_input(self, job: Job) -> bool:
        """Whether ``job`` is seen from where, and when, the nearest input was taken: only there a
        frame can be compared, and only of frames a scene memory knows what moves.
        """
        compared = job.wipe is not None and job.wipe.against is None
        of_frames = job.mode in ("Motion", "Flow") and not isinstance(self.scene, GaussianScene)
        return compared or of_frames or job.mode == "Difference"

    @property
    def aspect(self) -> float | None:
        """Width to height of the inputs' pictures; None where the scene was made from none, as a
        splat file.
        """
        made = getattr(self.scene, "frames_seen", None) is not None or self.knows_frames
        return self.through(0).aspect if made else None

    def through(self, index: int) -> Camera:
        """The camera of input ``index``."""
        return Camera.of_view(self.inputs.views, index)

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

    def on_path(self, fraction: float) -> Camera:
        """The camera on the clip's own path at ``fraction`` of its duration."""
        c2w, intrinsics = self._track.at(torch.tensor([fraction], dtype=torch.float64))
        view = Views(c2w.float(), intrinsics.float(), torch.zeros(1), self.inputs.views.hw)
        return Camera.of_view(view)

    def render(self, job: Job, height: int) -> RenderedPicture:
        """The picture of ``job``, ``height`` pixels high. Call with ``turn`` held. Raises whatever
        the scene raises.
        """
        frame = self.inputs.views[job.frame]
        request = job.camera.request(height, job.seconds)
        if self.at_input(job):
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
        if job.layer != "all" and scene is self.scene:
            scene = self._layer(job.layer)
        if isinstance(scene, GaussianScene) and not limits.open:
            scene, limits = scene.clipped(limits.near, limits.far), Limits()
        if job.mode in ("Motion", "Flow"):
            return self._motion(scene, job, request)
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

    def _motion(self, scene: Viewable, job: Job, request: Views) -> Float[Tensor, "3 h w"]:
        """What moves in the picture of Gaussians, or in the nearest input frame of a memory."""
        shown = layer_maps.grey if job.mode == "Motion" else layer_maps.wheel
        if isinstance(scene, GaussianScene):
            return shown(layer_maps.of_gaussians(scene, request))
        if not isinstance(scene, MemoryScene) or scene is not self.scene:
            raise InputError(
                "what moves is known of Gaussians and of this scene's own frames; choose another "
                "mode."
            )
        picture = shown(layer_maps.of_frame(scene, job.frame))
        frame = dataclasses.replace(self.inputs.views[[job.frame]], hw=scene.hw, rgb=picture[None])
        return modes.framed(frame, request)

    def _layer(self, layer: Layer) -> GaussianScene:
        """A layer of the scene, separated once."""
        assert isinstance(self.scene, GaussianScene), "only those have layers"
        if layer not in self._layers:
            self._layers[layer] = self.scene.layer(layer)
        return self._layers[layer]

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
