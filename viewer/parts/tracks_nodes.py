"""3D tracks in the scene: points where they are now, with tails to where they were. Arithmetic, and
the nodes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from fsm.datasets.tracks import Tracks

Colouring = Literal["Track", "Speed"]
MAX_STEPS = 30
"""Pieces of one tail: longer tails have longer pieces."""
FAST = 0.95
"""Share of all speeds that is slower than the red end of the colours."""
OLD = 0.35
"""Brightness of the old end of a tail."""
POINT = 0.004
"""Size of a point, of its median distance from the cameras."""
NODE = "/tracks"


@dataclass(frozen=True)
class Drawing:
    """Tracks as they look at one moment."""

    points: Float[ndarray, "p 3"]
    """Those seen now."""
    colours: UInt8[ndarray, "p 3"]
    pieces: Float[ndarray, "s 2 3"]
    """Of their tails, from old to new."""
    piece_colours: UInt8[ndarray, "s 2 3"]


@dataclass(frozen=True)
class Palette:
    """The colours of some tracks, the same at all moments."""

    tracks: Tracks
    colouring: Colouring
    of_track: UInt8[ndarray, "n 3"]
    """A rainbow in the order of the tracks: neighbours, which belong to one thing, look alike."""
    fastest: float
    """Speed of the red end, in the clip's unit a second; above 0."""

    @staticmethod
    def of(tracks: Tracks, colouring: Colouring) -> "Palette":
        """Worked out once."""
        hues = turbo(np.linspace(0.05, 0.95, max(len(tracks), 1)))[: len(tracks)]
        speeds = (tracks.points.diff(dim=1).norm(dim=-1) / tracks.times.diff()).flatten()
        speeds = speeds[speeds.isfinite()]
        fastest = float(np.quantile(speeds.numpy(), FAST)) if len(speeds) else 1.0
        return Palette(tracks, colouring, hues, max(fastest, 1e-9))

    def draw(self, seconds: float, tail: float) -> Drawing:
        """At ``seconds``, with tails of ``tail`` seconds; only tracks that are seen now have
        one.
        """
        when = moments(self.tracks.times, seconds, tail)
        along = self.tracks.at(when)
        seen = along[:, -1].isfinite().all(-1)
        along, own = along[seen].numpy(), self.of_track[seen.numpy()]
        pieces = np.stack([along[:, :-1], along[:, 1:]], axis=2)  # [p s 2 3]
        known = np.isfinite(pieces).all((-2, -1))
        now, colours = own, np.broadcast_to(own[:, None, None], pieces.shape)
        if self.colouring == "Speed" and len(when) > 1:
            speeds = (
                np.linalg.norm(pieces[:, :, 1] - pieces[:, :, 0], axis=-1) / when.diff().numpy()
            )
            fast = turbo(np.nan_to_num(speeds / self.fastest).clip(0, 1))
            now, colours = fast[:, -1], np.broadcast_to(fast[:, :, None], pieces.shape)
        fade = np.linspace(OLD, 1.0, len(when))
        bright = np.stack([fade[:-1], fade[1:]], axis=-1)[None, :, :, None]
        faded = (colours * bright).round().astype(np.uint8)
        return Drawing(along[:, -1], now, pieces[known], faded[known])


def moments(times: Float[Tensor, " t"], seconds: float, tail: float) -> Float[Tensor, " k"]:
    """From ``tail`` seconds before ``seconds``, or the first of ``times``, to it: by those in
    between, thinned out where many.
    """
    start = max(seconds - tail, float(times[0]))
    own = times[(times > start) & (times < seconds)]
    if len(own) > MAX_STEPS - 1:
        own = own[torch.linspace(0, len(own) - 1, MAX_STEPS - 1).round().long()]
    ends = [[start] if start < seconds else [], [seconds]]
    return torch.cat([times.new_tensor(ends[0]), own, times.new_tensor(ends[1])])


def turbo(values: ndarray) -> UInt8[ndarray, "... 3"]:
    """Colours of values in [0, 1], blue to red."""
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[
        :, 0, ::-1
    ]
    return table[(np.asarray(values) * 255).round().astype(np.uint8)]


def point_size(tracks: Tracks, centres: Float[Tensor, "v 3"]) -> float:
    """So that points are as large in the picture whatever the clip's unit."""
    points = tracks.points[tracks.points.isfinite().all(-1)].double()
    if len(points) == 0:
        return POINT
    distance = float((points - centres.double().mean(0)).norm(dim=-1).median())
    return POINT * distance if math.isfinite(distance) and distance > 0 else POINT


class TrackNodes:
    """What one browser has of the tracks: a point cloud and line segments."""

    def __init__(self, client: Any, size: float) -> None:
        """``size`` of a point in the clip's unit."""
        self._client, self._size = client, size
        self._nodes: dict[str, Any] = {}

    def draw(self, drawing: Drawing) -> None:
        """In place of what was there; a slow browser is sent the newest only, as nodes of one name
        replace each other.
        """
        scene = self._client.scene
        with self._client.atomic():
            if len(drawing.points):
                self._nodes["points"] = scene.add_point_cloud(
                    f"{NODE}/points",
                    drawing.points,
                    drawing.colours,
                    point_size=self._size,
                    point_shape="circle",
                    point_shading="flat",
                    precision="float32",
                )
            else:
                self._remove("points")
            if len(drawing.pieces):
                self._nodes["tails"] = scene.add_line_segments(
                    f"{NODE}/tails",
                    drawing.pieces,
                    drawing.piece_colours,
                    thickness=2.0,
                    thickness_units="screen",
                )
            else:
                self._remove("tails")

    def clear(self) -> None:
        """Take them away."""
        with self._client.atomic():
            for name in tuple(self._nodes):
                self._remove(name)

    def _remove(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            node.remove()
