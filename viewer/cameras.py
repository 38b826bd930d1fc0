"""Between the browser's camera and ``Views``. Both are OpenCV camera-to-world; the browser has a
vertical field of view.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import focus_point
from fsm.renderers.film.splines import quaternions, rotations
from fsm.views import Views

MAX_ASPECT = 8.0
"""Width to height, and height to width: a window reduced to a strip must not ask for a huge
picture.
"""
MIN_SIDE = 16
FIELDS_OF_VIEW = (math.radians(1.0), math.radians(170.0))


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels and its principal point in the middle: all that a browser
    window can be.
    """

    wxyz: tuple[float, float, float, float]
    """Camera-to-world rotation."""
    position: tuple[float, float, float]
    """In the clip's unit of length."""
    fov: float
    """Vertical field of view in radians."""
    aspect: float
    """Width to height."""

    @staticmethod
    def of_browser(handle: Any) -> "Camera":
        """From viser's camera handle; values that make no camera raise ``InputError``."""
        aspect = window_aspect(handle)
        wxyz, position = (tuple(float(x) for x in v) for v in (handle.wxyz, handle.position))
        fov = float(handle.fov)
        length = math.sqrt(sum(x * x for x in wxyz))
        if not all(map(math.isfinite, (*wxyz, *position, fov))) or length < 1e-6:
            raise InputError("the browser's camera is not a pose; choose Reset view.")
        held = min(max(fov, FIELDS_OF_VIEW[0]), FIELDS_OF_VIEW[1])
        unit = tuple(x / length for x in wxyz)
        return Camera(unit, position, held, aspect)  # pyright: ignore

    @staticmethod
    def of_view(view: Views, index: int = 0) -> "Camera":
        """Nearest to one of unbatched ``view``: its pose, vertical field of view and aspect (lens
        shift is lost).
        """
        h, w = view.hw
        fx, fy = (float(x) for x in view.intrinsics[index, :2])
        pose = view.c2w[index].double().cpu()
        wxyz = tuple(quaternions(pose[:3, :3]).tolist())
        return Camera(
            wxyz, tuple(pose[:3, 3].tolist()), 2 * math.atan(0.5 * h / fy), (w / fx) / (h / fy)
        )  # pyright: ignore

    def framed(self, aspect: float) -> "Camera":
        """What the largest rectangle of ``aspect`` in the middle of this camera's picture shows."""
        narrow = min(1.0, self.aspect / aspect)
        fov = 2 * math.atan(narrow * math.tan(self.fov / 2))
        return dataclasses.replace(self, fov=fov, aspect=aspect)

    def around(self, aspect: float) -> "Camera":
        """The camera of a window of ``aspect`` that holds the whole picture; ``framed`` leads
        back.
        """
        wide = max(1.0, self.aspect / aspect)
        fov = 2 * math.atan(wide * math.tan(self.fov / 2))
        return dataclasses.replace(self, fov=fov, aspect=aspect)

    @property
    def c2w(self) -> Float[Tensor, "4 4"]:
        """Camera-to-world, float64."""
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = rotations(torch.tensor(self.wxyz, dtype=torch.float64))
        pose[:3, 3] = torch.tensor(self.position, dtype=torch.float64)
        return pose

    def hw(self, height: int) -> tuple[int, int]:
        """Size of a picture ``height`` pixels high that fills the window."""
        return height, max(MIN_SIDE, round(height * self.aspect))

    def request(self, height: int, seconds: float) -> Views:
        """The view [1] from here at ``seconds``, ``height`` pixels high and as wide as the
        window.
        """
        h, w = self.hw(height)
        f = 0.5 * h / math.tan(self.fov / 2)
        intrinsics = torch.tensor([[f, f, w / 2, h / 2]], dtype=torch.float32)
        return Views(
            self.c2w[None].float(), intrinsics, torch.tensor([seconds], dtype=torch.float32), (h, w)
        )


def window_aspect(handle: Any) -> float:
    """Width to height of the browser's picture, from viser's camera handle."""
    w, h = float(handle.image_width), float(handle.image_height)
    aspect = w / h if w > 0 and h > 0 else 1.0
    return min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT) if math.isfinite(aspect) else 1.0


def up_direction(inputs: Views) -> tuple[float, float, float]:
    """Mean up of the input cameras, a unit vector; the first one's where they cancel out."""
    down = inputs.c2w[:, :3, 1].double().cpu()
    up = -down.mean(0)
    up = up if float(up.norm()) > 1e-3 else -down[0]
    return tuple((up / up.norm()).tolist())


def viewing_distance(inputs: Views) -> float:
    """How far in front of the cameras to orbit, in the clip's unit: the median distance to where
    they look.

    Where their axes say nothing about depth, four times how far the cameras are apart, at least one
    unit.
    """
    c2w = inputs.c2w.double().cpu()
    focus = focus_point(c2w)
    if focus is not None:
        depth = float(((focus - c2w[:, :3, 3]) * c2w[:, :3, 2]).sum(-1).median())
        if depth > 0:
            return depth
    apart = float((c2w[:, :3, 3] - c2w[:, :3, 3].mean(0)).norm(dim=-1).max())
    return max(4 * apart, 1.0)


def place(handle: Any, camera: Camera, distance: float, up: Sequence[float]) -> None:
    """Move the browser's camera; it then orbits a point ``distance`` in front of it, about ``up``.

    A camera that is rolled about its axis shows what it shows, and is turned about the direction
    nearest to ``up`` that lets it.
    """
    import numpy as np

    forward = camera.c2w[:3, 2].numpy()
    # before the rotation, which viser lets bend it: bends must not add up
    handle.up_direction = np.array(up)
    handle.position = np.array(camera.position)
    handle.wxyz = np.array(camera.wxyz)
    handle.look_at = np.array(camera.position) + distance * forward
    handle.fov = camera.fov
