"""Gaussians as viser's own splats: the rows that its client draws, and which row a Gaussian has
from moment to moment.
"""

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt32
from numpy import ndarray
from torch import Tensor

from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.gaussians4d import MovingGaussians
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import Gaussians3D

FAINTEST = 0.01
"""Opacity below which viser draws nothing."""
LARGEST = 2.0**14
"""The largest variance in a node's own unit: float16 holds those of Gaussians down to a 16,000th of
its size.
"""
MOST_AT_ONCE = 200_000
"""Gaussians that a browser is sent for one moment."""
MOST_IN_ALL = 2_000_000
"""Gaussians that are looked through for each moment."""
PROBES = 8
"""Moments at which they are counted."""


def present(world: MovingGaussians, time: float, min_opacity: float) -> Bool[Tensor, " n"]:
    """Which are there at ``time``, and opaque enough. For each one this is an interval of time."""
    weights = world.weights(time)
    return (weights >= MIN_WEIGHT) & (weights * world.opacities >= min_opacity)


def unit_for(covariances: Float[Tensor, "n 6"]) -> float:
    """The unit of length in which rows hold Gaussians of these covariances."""
    widest = float(covariances[:, [0, 3, 5]].amax()) if len(covariances) else 1.0
    return math.sqrt(max(widest, 1e-30) / LARGEST)


def pack(gaussians: Gaussians3D, unit: float) -> UInt32[ndarray, "n 8"]:
    """Rows as viser has them: centre (3 x float32), 4 bytes of its own, covariance (6 x float16),
    colour and opacity.

    Centres and covariances are in ``unit`` and its square.
    """
    rows = np.zeros((len(gaussians), 8), np.uint32)
    rows[:, 0:3] = (gaussians.means / unit).numpy().astype(np.float32).view(np.uint32)
    covariances = (gaussians.covariances.double() / unit**2).numpy().astype(np.float16)
    rows[:, 4:7] = np.ascontiguousarray(covariances).view(np.uint32)
    rgba = torch.cat([0.5 + SH_C0 * gaussians.sh[:, 0], gaussians.opacities[:, None]], dim=-1)
    rows[:, 7:8] = np.ascontiguousarray(_bytes(rgba)).view(np.uint32)
    return rows


def _bytes(values: Float[Tensor, "n c"]) -> UInt8[ndarray, "n c"]:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def add_rows(server: Any, name: str, rows: UInt32[ndarray, "n 8"], unit: float) -> Any:
    """A node ``name`` of ``server`` or of one client that shows ``rows``; its field ``buffer``
    takes others of that number.
    """
    n = len(rows)
    handle = server.scene.add_gaussian_splats(
        name, np.zeros((n, 3)), np.zeros((n, 3, 3)), np.zeros((n, 3)), np.zeros((n, 1)), scale=unit
    )
    # a message of its own, because later ones write into the array of the node's first message
    handle.buffer = rows
    return handle


class Native:
    """A scene that a browser can draw itself, moment by moment. Shared by all browsers; worked out
    when first asked for.
    """

    def __init__(self, scene: GaussianScene) -> None:
        self.scene = scene

    @staticmethod
    def of(scene: Any) -> "Native | None":
        """None where that is no scene of Gaussians, or has more of them, in all or at one moment,
        than a browser bears.
        """
        if not isinstance(scene, GaussianScene) or not 0 < len(scene.gaussians) <= MOST_IN_ALL:
            return None
        few = (
            len(scene.gaussians) <= MOST_AT_ONCE
            or _most_at_once(scene.moving, _probes(scene)) <= MOST_AT_ONCE
        )
        return Native(scene) if few else None

    @cached_property
    def world(self) -> MovingGaussians:
        """In the clip's space; times are the model's, colour is of degree 0."""
        return self.scene.in_clip_space(max_sh_degree=0).to("cpu")

    @cached_property
    def unit(self) -> float:
        """Length that rows are in, in the clip's unit."""
        return unit_for(self.world.covariances)

    @cached_property
    def rows(self) -> int:
        """The most at one of the inputs' moments."""
        return _most_at_once(self.world, _probes(self.scene))


def _probes(scene: GaussianScene) -> list[float]:
    """Some of the inputs' moments, in the model's time."""
    times = scene.inputs.time
    some = times[torch.linspace(0, len(times) - 1, min(len(times), PROBES)).round().long().unique()]
    return scene.frame.model_time(some.to(scene.frame.time_start)).tolist()


def _most_at_once(moving: MovingGaussians, moments: list[float]) -> int:
    return max(int(present(moving, time, FAINTEST).sum()) for time in moments)


class Rows:
    """The rows of one moment after another; a Gaussian keeps its row while it is there.

    Their number stays, because viser's client shows nothing until it has sorted a node of another
    size, and the order of a moment ago is nearly right for rows that stay.
    """

    def __init__(self, native: Native) -> None:
        self._native = native
        self._row = np.full(len(native.world), -1)
        # there may be more between inputs
        self._rows = np.zeros((native.rows + native.rows // 8, 8), np.uint32)

    def at(self, seconds: float) -> tuple[UInt32[ndarray, "m 8"], int]:
        """All rows at ``seconds`` of the clip, and how many of them are Gaussians; the others are
        transparent.
        """
        frame, world = self._native.scene.frame, self._native.world
        time = float(frame.at(seconds))
        there = present(world, time, FAINTEST).numpy()
        row, index = self._row, np.flatnonzero(there)
        row[~there] = -1
        coming = index[row[index] < 0]
        free = np.ones(len(self._rows), dtype=bool)
        free[row[index[row[index] >= 0]]] = False
        rows = self._rows.copy()
        if len(index) > len(rows):
            more = len(index) + len(index) // 4 - len(rows)
            rows, free = (
                np.concatenate([rows, np.zeros((more, 8), np.uint32)]),
                np.append(free, np.ones(more, dtype=bool)),
            )
        row[coming] = np.flatnonzero(free)[: len(coming)]
        rows[:, 7] &= 0x00FFFFFF
        rows[row[index]] = pack(world[torch.from_numpy(index)].at(time, 0.0), self._native.unit)
        self._rows = rows
        return rows, len(index)
