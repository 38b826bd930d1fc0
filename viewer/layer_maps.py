"""Motion and flow of a scene as pictures, and the 3D tracks that a scene memory finds."""

import colorsys
import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.tracks import Tracks
from fsm.memory_scene import MemoryScene
from fsm.renderers.gaussians.constants import MIN_WEIGHT
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.views import Views

FASTEST = 0.2
"""Heights of the picture a second, at which the colours of flow are full."""
STEP = 0.01
"""Seconds over which the flow of Gaussians is measured."""
_HUES = 64


@dataclass(frozen=True)
class MotionMaps:
    """What one picture shows of motion."""

    moving: Float[Tensor, "1 h w"]
    """Probability that a pixel shows something that moves."""
    flow: Float[Tensor, "2 h w"]
    """In heights of the picture a second, right and down, of a camera that stands."""


@torch.no_grad()
def of_frame(scene: MemoryScene, index: int) -> MotionMaps:
    """Of an input frame; its layers are found when first asked for. ``InputError`` where the model
    finds none.
    """
    layers, frame = scene.layers([index]), scene.inputs[[index]]
    h, w = frame.hw
    depth = layers.depth[0, 0]
    velocity = torch.einsum("ji,jhw->ihw", frame.c2w[0, :3, :3], layers.velocity[0])
    fx, fy, cx, cy = frame.intrinsics[0].to(depth)
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=depth.dtype, device=depth.device) + 0.5 for n in (h, w)),
        indexing="ij",
    )
    # the derivative of f X / Z + c
    along = torch.stack(
        [
            fx * velocity[0] - (x - cx) * velocity[2],
            fy * velocity[1] - (y - cy) * velocity[2],
        ]
    )
    return MotionMaps((1.0 - layers.standing[0]).cpu(), (along / depth / h).cpu())


@torch.no_grad()
def of_gaussians(scene: GaussianScene, request: Views) -> MotionMaps:
    """Of what ``scene`` shows at ``request`` [1]: the share of its moving layer, and how its
    Gaussians move over the picture.
    """
    view = scene.frame.to_model(request.without_rgb().to(scene.device))
    now = view.time[0]
    there = scene.moving.weights(now) >= MIN_WEIGHT
    some, moves = scene.moving[there], ~scene.gaussians.stands[there]
    step = STEP / (0.5 * scene.frame.time_span)  # 0 for a static capture
    before, after = some.at(now, 0.0), some.at(now + step, 0.0)
    flow = _project(after.means, view) - _project(before.means, view)
    flow = (flow / (STEP * view.hw[0])).float()
    values = torch.cat([moves[:, None].to(flow), _coded(flow)], dim=-1)
    coded = dataclasses.replace(before, sh=((values - 0.5) / SH_C0)[:, None])
    nothing = values.new_tensor([0.0, 0.5, 0.5])
    drawn = rasterize(
        coded, view, background=nothing, backend=scene.backend, projection=scene.projection
    ).rgb[0]
    return MotionMaps(drawn[:1].clamp(0, 1).cpu(), ((drawn[1:] - 0.5) * 2 * FASTEST).cpu())


def grey(maps: MotionMaps) -> Float[Tensor, "3 h w"]:
    """Probability of motion: white where it is certain."""
    return maps.moving.expand(3, -1, -1)


def wheel(maps: MotionMaps) -> Float[Tensor, "3 h w"]:
    """Flow on the colour wheel: hue is its direction, saturation its speed up to ``FASTEST``, and
    white stands.
    """
    u, v = maps.flow
    speed = (torch.hypot(u, v) / FASTEST).clamp(0, 1)
    place = torch.atan2(v, u).div(2 * math.pi).remainder(1.0) * _HUES
    low, share = place.floor().long() % _HUES, place % 1.0
    table = u.new_tensor([colorsys.hsv_to_rgb(i / _HUES, 1.0, 1.0) for i in range(_HUES)])
    hue = torch.lerp(table[low], table[(low + 1) % _HUES], share[..., None]).movedim(-1, 0)
    return 1.0 - speed * (1.0 - hue)


def find_tracks(
    scene: MemoryScene,
    turn: AbstractContextManager[Any],
    cancelled: Callable[[], bool],
    told: Callable[[int], None],
) -> Tracks | None:
    """The scene's own 3D tracks of what moves; None where it is ``cancelled`` before.

    ``turn`` is held for one frame at a time, so that pictures go on meanwhile; ``told`` gets how
    many frames are done.
    """
    for index in range(len(scene.inputs)):
        if cancelled():
            return None
        told(index)
        with turn:
            scene.layers([index])
    points, _ = scene.tracks()
    unseen = torch.full_like(points.points, torch.nan)
    known = torch.where(points.seen[..., None], points.points, unseen)
    return Tracks(known.transpose(0, 1).cpu(), points.times.cpu())


def _project(points: Float[Tensor, "n 3"], view: Views) -> Float[Tensor, "n 2"]:
    """Pixels; behind the camera they mean nothing."""
    w2c = torch.linalg.inv(view.c2w[0].double())
    x, y, z = (points.double() @ w2c[:3, :3].T + w2c[:3, 3]).unbind(-1)
    fx, fy, cx, cy = view.intrinsics[0].double()
    z = z.clamp_min(1e-6)
    return torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)


def _coded(flow: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Flow as colours: 0.5 stands."""
    return (0.5 + flow / (2 * FASTEST)).clamp(0, 1)
