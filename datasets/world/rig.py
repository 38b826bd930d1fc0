"""Cameras that stand still around one world and film it together: what ``world:SEED:rig=8x12`` and
``world:SEED:ring=12`` open.
"""

import itertools
import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.free_space import view_is_free, way_is_free
from fsm.datasets.world.clip import FPS, FilmedWorld, WorldScene
from fsm.datasets.world.description import looking
from fsm.errors import InputError
from fsm.views import Views

SPACINGS = (0.3, 0.25, 0.2)
"""Metres between the cameras of a row; the widest that fits is taken."""
MOST_CAMERAS = 100
MOST_MOMENTS = 1000
_RADII = (1.0, 2.0 / 3.0, 1.0 / 3.0, 0.0)  # of a ring, between the closest and the widest
_TURN = 0.4  # radians of a circle that a straight way may cut off
_PROBED = (32, 32)  # pixels of the pictures that show whether something is before a camera


@dataclass(frozen=True)
class RigLayout:
    """Where the cameras of a rig stand, how many they are and how many moments they film."""

    kind: str
    """``rig``: a row, on an arc about the point that the world's own camera looks at. ``ring``: all
    around the middle of the world.
    """
    cameras: int
    moments: int

    @staticmethod
    def parse(text: str, name: str) -> "RigLayout":
        """Layout of ``rig=8x12``, ``ring=12x6`` or ``ring=12`` (one moment); ``InputError`` naming
        ``name`` for anything else.
        """
        match = re.fullmatch(r"(rig|ring)=([0-9]{1,4})(?:x([0-9]{1,4}))?", text, re.ASCII)
        layout = None if match is None else RigLayout(match[1], int(match[2]), int(match[3] or 1))
        if (
            layout is None
            or not 2 <= layout.cameras <= MOST_CAMERAS
            or not 1 <= layout.moments <= MOST_MOMENTS
        ):
            raise InputError(
                f"{name!r} has cameras {text!r}; write rig=8x12 (8 cameras in a row, 12 moments) "
                f"or ring=12 (12 all around, one moment), of 2 to {MOST_CAMERAS} cameras and at "
                f"most {MOST_MOMENTS} moments."
            )
        return layout

    @property
    def id(self) -> str:
        """How clip ids end."""
        return f"{self.kind}-{self.cameras}x{self.moments}"

    def __str__(self) -> str:
        return f"{self.kind}={self.cameras}x{self.moments}"


class WorldRig(FilmedWorld):
    """A world filmed by cameras that stand still; frames are ordered moment by moment.

    Moments are 1/12 s apart, from 0 on. Cameras stand at the height of the world's own camera, with
    its lens, and keep clear of bodies and walls at every moment. ``InputError`` for a world without
    room for them.
    """

    def __init__(self, seed: int, layout: RigLayout, hw: tuple[int, int] = (128, 128)) -> None:
        scene, source = WorldScene(seed), f"world:{seed}:{layout}"
        moments = (torch.arange(layout.moments, dtype=torch.float64) / FPS).float()
        poses = _placed(scene, layout, moments)
        if poses is None:
            raise InputError(
                f"{source}: this world has no free place for {layout.cameras} such cameras; take "
                "another seed or fewer cameras."
            )
        count, v = layout.cameras, layout.cameras * layout.moments
        lens = scene.world.camera_path(moments[None, :1], hw).intrinsics[0]
        cameras = Views(
            poses.repeat(layout.moments, 1, 1),
            lens.expand(v, 4),
            moments.repeat_interleave(count),
            hw,
        )
        names = [f"camera-{i}" for i in range(count)] * layout.moments
        super().__init__(scene, f"world-{seed}-{layout.id}", source, cameras, FPS, names)


def _placed(
    scene: WorldScene, layout: RigLayout, moments: Float[Tensor, "m"]
) -> Float[Tensor, "c 4 4"] | None:
    """Poses of the first placement that keeps clear of everything; None where there is none."""
    world, middle = scene.world, moments[len(moments) // 2].reshape(1, 1)
    own = world.camera_path(middle, _PROBED).unbatched()
    eye, ahead = own.c2w[0, :3, 3], own.c2w[0, :3, 2].clone()
    reach = float(eye[[0, 2]].norm())
    candidates: list[tuple[Tensor, float, Tensor]] = []
    if layout.kind == "rig":
        focus = eye + reach * ahead / ahead[[0, 2]].norm()
        steps = torch.arange(layout.cameras) - 0.5 * (layout.cameras - 1)
        candidates = [
            (focus, reach, steps * spacing / reach)
            for spacing in SPACINGS
            if (layout.cameras - 1) * spacing / reach < math.pi
        ]
    else:
        focus = torch.stack([eye.new_zeros(()), world.camera.aim[0, 1], eye.new_zeros(())])
        nearest = float(world.camera.keep_out[0])
        widest = max(min(reach, float(world.camera.limit[0, [0, 2]].min())), nearest)
        angles = torch.arange(layout.cameras) * (2.0 * math.pi / layout.cameras)
        candidates = [(focus, nearest + r * (widest - nearest), angles) for r in _RADII]
    for focus, radius, angles in candidates:
        eyes = _on_circle(focus, eye, radius, angles)
        poses = looking(eyes, focus - eyes)
        if _free(scene, own, poses, _walk(focus, eye, radius, angles), moments):
            return poses
    return None


def _on_circle(focus: Tensor, eye: Tensor, radius: float, angles: Tensor) -> Tensor:
    """Places [n 3] at the height of ``eye``, on the circle about the vertical through ``focus``;
    angle 0 is the direction of ``eye``.
    """
    away = eye - focus
    start = torch.atan2(away[0], away[2])
    x, z = radius * torch.sin(start + angles), radius * torch.cos(start + angles)
    return torch.stack([focus[0] + x, eye[1].expand_as(x), focus[2] + z], -1)


def _walk(focus: Tensor, eye: Tensor, radius: float, angles: Tensor) -> Tensor:
    """Places [n 3] on a way from ``eye``, which is free, past all cameras on the circle."""
    whole = torch.tensor([0.0, *angles.tolist()]).unique()
    fine = [whole[:1]]
    for a, b in itertools.pairwise(whole.tolist()):
        fine.append(torch.linspace(a, b, 2 + int((b - a) / _TURN))[1:])
    places = _on_circle(focus, eye, radius, torch.cat(fine))
    onto = _on_circle(focus, eye, radius, torch.zeros(1))
    return torch.cat([eye[None], onto, places]) if float(whole[0]) == 0.0 else places


def _free(scene: WorldScene, own: Views, poses: Tensor, walk: Tensor, moments: Tensor) -> bool:
    """Whether nothing is on the way or before a camera, at any moment."""
    way = walk[1:] - walk[:-1]
    starts, way = walk[:-1][way.norm(dim=-1) > 1e-4], way[way.norm(dim=-1) > 1e-4]
    # These look down, because the ways are level.
    level = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    downwards = torch.eye(4).repeat(len(way), 1, 1)
    downwards[:, :3, :3], downwards[:, :3, 3] = level, starts

    def at_all(c2w: Tensor) -> Views:
        v = len(c2w) * len(moments)
        time = moments.repeat_interleave(len(c2w))
        return Views(c2w.repeat(len(moments), 1, 1), own.intrinsics[:1].expand(v, 4), time, _PROBED)

    clear = way_is_free(scene.truth, at_all(downwards), way.repeat(len(moments), 1))
    return bool(clear.all()) and bool(view_is_free(scene.truth, at_all(poses)).all())
