"""The input cameras in the scene: frustums with thumbnails, the one of the moment highlighted, the trail they left."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from fsm.memory_scene import MemoryScene
from fsm.viewer.cameras import Camera, viewing_distance
from fsm.viewer.modes import as_bytes
from fsm.views import Views

THUMBNAIL = 64
"""Pixels high."""
MAX_SHOWN = 64
"""Frustums; of more inputs an even choice is shown."""
NEAR = 4.0
"""Frustums nearer to the eye than this many of their sizes are hidden: they would cover the picture."""
HIGHLIGHT = (255, 140, 0)
SAME_MOMENT = 1e-3
"""Seconds within which a clip's frame is an input's."""


@dataclass(frozen=True)
class InputCameras:
    """The inputs of a scene as a viewer shows them."""

    views: Views
    """All of them [v], with rgb where it is known."""
    shown: tuple[int, ...]
    """Indices of those with a frustum, in order of time."""
    cameras: tuple[Camera, ...]
    """Of those shown."""
    thumbnails: tuple[Any, ...]
    """Of those shown: bytes [h w 3], or None."""
    colours: UInt8[ndarray, "s 3"]
    """Of those shown, by time: dark blue to yellow."""
    size: float
    """Of a frustum, in the clip's unit."""

    @staticmethod
    def of(views: Views) -> "InputCameras":
        """From unbatched ``views``, with rgb where it is known."""
        views = views.to("cpu")
        order = torch.argsort(views.time, stable=True).tolist()
        picked = np.unique(np.linspace(0, len(order) - 1, min(len(order), MAX_SHOWN)).round().astype(int))
        shown = tuple(order[i] for i in picked)
        small = views[list(shown)]
        h, w = views.hw
        if small.rgb is not None and h > THUMBNAIL:
            small = small.resized((THUMBNAIL, max(1, round(w * THUMBNAIL / h))))
        pictures = (None,) * len(shown) if small.rgb is None else tuple(as_bytes(picture) for picture in small.rgb)
        cameras = tuple(Camera.of_view(views, i) for i in shown)
        return InputCameras(views, shown, cameras, pictures, time_colours(small.time.tolist()), frustum_size(views))

    def nearest_shown(self, index: int) -> int:
        """Place among ``shown`` of the input nearest in time to input ``index``."""
        times = self.views.time
        gaps = [abs(float(times[i] - times[index])) + (0.0 if i == index else 1e-9) for i in self.shown]
        return gaps.index(min(gaps))


def observed(scene: Any, clip: Any = None) -> Views:
    """The scene's input cameras [v], with their pictures where the scene keeps them or ``clip`` has those moments."""
    inputs: Views = scene.inputs.to("cpu")
    if isinstance(scene, MemoryScene) and scene.observed.rgb is not None:
        return scene.observed.to("cpu")
    if clip is None:
        return inputs
    gaps = (clip.cameras.time[None, :] - inputs.time[:, None]).abs()
    if float(gaps.amin(1).max()) > SAME_MOMENT:
        return inputs  # another clip, or another cut of it
    frames = clip.views(gaps.argmin(1), inputs.hw)
    return Views(inputs.c2w, inputs.intrinsics, inputs.time, inputs.hw, frames.rgb)


def frustum_size(views: Views) -> float:
    """Twice the way from camera to camera, but within 2 and 5 % of the distance to what they look at."""
    far = viewing_distance(views)
    order = torch.argsort(views.time, stable=True)
    steps = views.c2w[order, :3, 3].diff(dim=0).norm(dim=-1)
    step = float(steps.median()) if len(steps) else 0.0
    return min(max(2 * step, 0.02 * far), 0.05 * far)


def time_colours(times: Sequence[float]) -> UInt8[ndarray, "n 3"]:
    """Viridis from the earliest (dark blue) to the latest (yellow)."""
    import cv2

    values = np.asarray(times, dtype=np.float64)
    span = max(float(np.ptp(values)), 1e-9)
    levels = np.round((values - values.min()) / span * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def around(position: Sequence[float], cameras: Sequence[Camera], distance: float) -> set[int]:
    """Places of ``cameras`` within ``distance`` of ``position``: their frustums would stand before the viewer's eye."""
    centres = np.array([c.position for c in cameras])
    return set(np.flatnonzero(np.linalg.norm(centres - np.asarray(position), axis=1) < distance).tolist())


class InputNodes:
    """The input cameras in one browser's scene."""

    def __init__(self, client: Any, inputs: InputCameras, picked: Callable[[int], None]) -> None:
        """``client`` is viser's handle; ``picked`` gets the index of an input whose frustum is clicked."""
        self._inputs = inputs
        self._lock = threading.Lock()
        self._frustums = [self._add(client, place, picked) for place in range(len(inputs.shown))]
        self._trail = _add_trail(client, inputs)
        self._shown, self._hidden, self._highlighted = True, set[int](), -1

    def _add(self, client: Any, place: int, picked: Callable[[int], None]) -> Any:
        inputs, camera = self._inputs, self._inputs.cameras[place]
        frustum = client.scene.add_camera_frustum(
            f"/inputs/camera_{inputs.shown[place]}",
            fov=camera.fov,
            aspect=camera.aspect,
            scale=inputs.size,
            thickness=1.5,
            thickness_units="screen",
            color=tuple(int(c) for c in inputs.colours[place]),
            image=inputs.thumbnails[place],
            format="jpeg",
            jpeg_quality=80,
            wxyz=camera.wxyz,
            position=camera.position,
        )
        frustum.on_click(lambda _: picked(inputs.shown[place]))
        return frustum

    def highlight(self, index: int) -> None:
        """Mark the frustum of input ``index`` (the nearest one that is shown), and unmark the one before."""
        with self._lock:
            place = self._inputs.nearest_shown(index)
            if place == self._highlighted:
                return
            if self._highlighted >= 0:
                before = self._frustums[self._highlighted]
                before.color = tuple(int(c) for c in self._inputs.colours[self._highlighted])
                before.thickness = 1.5
            self._highlighted = place
            self._frustums[place].color, self._frustums[place].thickness = HIGHLIGHT, 4.0

    def seen_from(self, position: Sequence[float]) -> None:
        """Take frustums out of the way of a viewer at ``position``."""
        with self._lock:
            hidden = around(position, self._inputs.cameras, NEAR * self._inputs.size)
            for place in hidden ^ self._hidden:
                self._frustums[place].visible = self._shown and place not in hidden
            self._hidden = hidden

    def show(self, frustums: bool, trail: bool) -> None:
        """Show or hide them."""
        with self._lock:
            self._shown = frustums
            for place, frustum in enumerate(self._frustums):
                frustum.visible = frustums and place not in self._hidden
            if self._trail is not None:
                self._trail.visible = trail


def _add_trail(client: Any, inputs: InputCameras) -> Any:
    """A line through the cameras shown, coloured by time; None for a single one."""
    if len(inputs.shown) < 2:
        return None
    centres = np.array([c.position for c in inputs.cameras], dtype=np.float32)
    return client.scene.add_line_segments(
        "/inputs/trail",
        points=np.stack([centres[:-1], centres[1:]], axis=1),
        colors=np.stack([inputs.colours[:-1], inputs.colours[1:]], axis=1),
        thickness=3.0,
        thickness_units="screen",
    )
