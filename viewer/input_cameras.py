"""The input cameras in the scene: frustums with thumbnails, the one of the moment highlighted, the
trail they left.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
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
"""Frustums nearer to the eye than this many of their sizes are hidden: they would cover the
picture.
"""
HIGHLIGHT = (255, 140, 0)
SAME_MOMENT = 1e-3
"""Seconds within which a clip's frame is an input's."""
SAME_PLACE = 0.02
"""Of the distance to what the cameras look at: within that the frame's camera is an input's,
refined or not.
"""


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
        picked = np.unique(
            np.linspace(0, len(order) - 1, min(len(order), MAX_SHOWN)).round().astype(int)
        )
        shown = tuple(order[i] for i in picked)
        small = views[list(shown)]
        h, w = views.hw
        if small.rgb is not None and h > THUMBNAIL:
            small = small.resized((THUMBNAIL, max(1, round(w * THUMBNAIL / h))))
        pictures = (
            (None,) * len(shown)
            if small.rgb is None
            else tuple(as_bytes(picture) for picture in small.rgb)
        )
        cameras = tuple(Camera.of_view(views, i) for i in shown)
        return InputCameras(
            views, shown, cameras, pictures, time_colours(small.time.tolist()), frustum_size(views)
        )

    def nearest_shown(self, index: int) -> int:
        """Place among ``shown`` of the input nearest in time to input ``index``."""
        times = self.views.time
        gaps = [
            abs(float(times[i] - times[index])) + (0.0 if i == index else 1e-9) for i in self.shown
        ]
        return gaps.index(min(gaps))


def observed(scene: Any, clip: Any = None, known: Views | None = None) -> Views:
    """The scene's input cameras [v], with their pictures where the scene keeps them or ``clip`` has
    those moments.

    ``known`` are views of the same clip whose pictures need not be read again.
    """
    inputs: Views = scene.inputs.to("cpu")
    if isinstance(scene, MemoryScene) and scene.observed.rgb is not None:
        return scene.observed.to("cpu")
    if clip is None:
        return inputs
    frames = frames_at(inputs, clip)
    if frames is None:
        return inputs
    have: dict[int, torch.Tensor] = {}
    if known is not None and known.rgb is not None and known.hw == inputs.hw:
        before = frames_at(known, clip)
        have = {} if before is None else dict(zip(before.tolist(), known.rgb, strict=True))
    new = sorted(set(frames.tolist()) - have.keys())
    if new:
        have |= dict(zip(new, clip.views(new, inputs.hw).rgb, strict=True))
    rgb = torch.stack([have[i] for i in frames.tolist()])
    return Views(inputs.c2w, inputs.intrinsics, inputs.time, inputs.hw, rgb)


def frames_at(inputs: Views, clip: Any) -> Int[torch.Tensor, " v"] | None:
    """Indices of the clip's frames of the inputs' moments, of several the one with the nearest
    pose; None where it lacks a moment: another clip, or another cut of it.
    """
    gaps = (clip.cameras.time[None, :] - inputs.time.cpu()[:, None]).abs()
    least = gaps.amin(1, keepdim=True)
    if float(least.max()) > SAME_MOMENT:
        return None
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0 / viewing_distance(inputs)])
    ours, theirs = ((v.c2w.cpu()[:, :3] * scale).flatten(1) for v in (inputs, clip.cameras))
    return torch.cdist(ours, theirs).masked_fill(gaps > least, torch.inf).argmin(1)


def made_from(inputs: Views, clip: Any) -> bool:
    """Whether a scene with these inputs lies in the space of ``clip`` and on its clock: the same
    moments, from the same places.
    """
    frames = frames_at(inputs, clip)
    if frames is None:
        return False
    apart = (clip.cameras.c2w[frames, :3, 3] - inputs.c2w.cpu()[:, :3, 3]).norm(dim=-1)
    return float(apart.max()) < SAME_PLACE * viewing_distance(inputs)


def frustum_size(views: Views) -> float:
    """Twice the way from camera to camera, but within 2 and 5 % of the distance to what they look
    at.
    """
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
    return np.ascontiguousarray(
        cv2.applyColorMap(levels[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    )


def around(position: Sequence[float], cameras: Sequence[Camera], distance: float) -> set[int]:
    """Places of ``cameras`` within ``distance`` of ``position``: their frustums would stand before
    the viewer's eye.
    """
    centres = np.array([c.position for c in cameras])
    return set(
        np.flatnonzero(np.linalg.norm(centres - np.asarray(position), axis=1) < distance).tolist()
    )


class InputNodes:
    """The input cameras in one browser's scene."""

    def __init__(self, client: Any, inputs: InputCameras, picked: Callable[[int], None]) -> None:
        """``client`` is viser's handle; ``picked`` gets the index of an input whose frustum is
        clicked.
        """
        self._client, self._inputs, self._picked = client, inputs, picked
        self._lock = threading.Lock()
        self._shown = self._trail_shown = False
        self._eye: tuple[float, ...] | None = None
        self._hidden, self._highlighted = set[int](), -1
        self._frustums = [self._add(place) for place in range(len(inputs.shown))]
        self._trail = self._add_trail()

    def _add(self, place: int) -> Any:
        inputs, camera = self._inputs, self._inputs.cameras[place]
        index = inputs.shown[place]
        frustum = self._client.scene.add_camera_frustum(
            f"/inputs/camera_{index}",
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
            visible=self._shown and place not in self._hidden,
        )
        frustum.on_click(lambda _: self._picked(index))
        return frustum

    def _add_trail(self) -> Any:
        """A line through the cameras shown, coloured by time, in place of any before; None for a
        single one.
        """
        inputs = self._inputs
        if len(inputs.shown) < 2:
            return None
        centres = np.array([c.position for c in inputs.cameras], dtype=np.float32)
        return self._client.scene.add_line_segments(
            "/inputs/trail",
            points=np.stack([centres[:-1], centres[1:]], axis=1),
            colors=np.stack([inputs.colours[:-1], inputs.colours[1:]], axis=1),
            thickness=3.0,
            thickness_units="screen",
            visible=self._trail_shown,
        )

    def restage(self, inputs: InputCameras) -> None:
        """Show other ``inputs``: what is the same stays in the scene, so that nothing flickers."""
        with self._lock:
            before, frustums = (
                self._inputs,
                dict(zip(self._inputs.shown, self._frustums, strict=True)),
            )
            marked = before.shown[self._highlighted] if self._highlighted >= 0 else -1
            self._inputs, self._highlighted = inputs, -1
            self._hide()
            for index in set(before.shown) - set(inputs.shown):
                frustums.pop(index).remove()
            self._frustums = []
            for place, index in enumerate(inputs.shown):
                if index in frustums and _same(before, before.shown.index(index), inputs, place):
                    frustum = frustums[index]
                    if index == marked:
                        self._highlighted = place
                    else:
                        frustum.color = tuple(int(c) for c in inputs.colours[place])
                    frustum.scale = inputs.size
                else:
                    frustum = self._add(place)
                self._frustums.append(frustum)
            if self._trail is not None and len(inputs.shown) < 2:
                self._trail.remove()
            self._trail = self._add_trail()
            self._show()

    def highlight(self, index: int) -> None:
        """Mark the frustum of input ``index`` (the nearest one that is shown), and unmark the one
        before.
        """
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
            self._eye = tuple(position)
            self._hide()
            self._show()

    def show(self, frustums: bool, trail: bool) -> None:
        """Show or hide them."""
        with self._lock:
            self._shown, self._trail_shown = frustums, trail
            self._show()
            if self._trail is not None:
                self._trail.visible = trail

    def _hide(self) -> None:
        """Find out which ones the eye should not see."""
        if self._eye is not None:
            self._hidden = around(self._eye, self._inputs.cameras, NEAR * self._inputs.size)

    def _show(self) -> None:
        for place, frustum in enumerate(self._frustums):
            frustum.visible = self._shown and place not in self._hidden


def _same(before: InputCameras, a: int, after: InputCameras, b: int) -> bool:
    """Whether the frustums at places ``a`` and ``b`` differ in colour and size at most."""
    pictures = before.thumbnails[a], after.thumbnails[b]
    if any(p is None for p in pictures):
        return before.cameras[a] == after.cameras[b] and pictures[0] is pictures[1]
    return before.cameras[a] == after.cameras[b] and np.array_equal(*pictures)
