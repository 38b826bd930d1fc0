"""The truth beside a clip's path: cameras that stand where no input frame was taken, so that no
neighbour can be copied.

Only clips that can be rendered from any camera know it (``RenderedClip``: the procedural worlds).
"""

import dataclasses

import torch

from fsm.datasets.base import Clip
from fsm.datasets.free_space import view_is_free, way_is_free
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.views import Views

SIDEWAYS = 0.25
"""Metres to the side; half as much up, so cameras stand 0.28 m off the path. Half of training's own
are off by 0.25 m (standard deviation, at most half of the path's extent) along each axis, the
others not at all."""
_TRIES = ((1.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (-1.0, 0.5))  # which side, how much of the way


def rendered(clip: Clip) -> RenderedClip:
    """The same clip, if it can be rendered from any camera; else an ``InputError``."""
    if isinstance(clip, RenderedClip):
        return clip
    raise InputError(
        f"{clip.source} was filmed by a camera, which nobody can put beside its path; the "
        "protocol novel needs a "
        "procedural clip: demo or world:SEED."
    )


def orbit_at(
    clip: RenderedClip, frame: int, degrees: float, count: int
) -> tuple[Views, list[float]]:
    """``count`` cameras on an arc of ``degrees`` about the vertical axis through what ``frame``
    looks at, all at its moment, and their angles.

    The axis lies in the middle of the picture, at the median depth of what it shows. Without rgb
    and ids, of the clip's size. Where cameras would stand in a body or a wall the arc is halved;
    raises ``InputError`` where that fails three times.
    """
    camera = clip.cameras[[frame]]
    depth = clip.truth(camera).depth
    assert depth is not None, "the truth knows its depth"
    pose = camera.c2w[0].double()
    away = float(depth[depth.isfinite()].median())
    focus = pose[:3, 3] + away * pose[:3, 2]
    for _ in range(3):
        angles = torch.linspace(-0.5 * degrees, 0.5 * degrees, count).double()
        s, c = torch.deg2rad(angles).sin(), torch.deg2rad(angles).cos()
        turn = torch.eye(4).double().repeat(count, 1, 1)
        # worlds are upright: their y axis points down
        turn[:, 0, 0], turn[:, 0, 2], turn[:, 2, 0], turn[:, 2, 2] = c, s, -s, c
        turn[:, :3, 3] = focus - (turn[:, :3, :3] @ focus[:, None])[..., 0]
        placed = (turn @ pose).float()
        ways = placed[:, :3, 3] - camera.c2w[0, :3, 3]
        moved = ways.norm(dim=-1) > 1e-4
        starts = camera[[0] * int(moved.sum())]
        orbit = dataclasses.replace(camera[[0] * count], c2w=placed, frame_ids=None)
        free = way_is_free(clip.truth, starts, ways[moved]).all()
        if bool(free) and bool(view_is_free(clip.truth, orbit).all()):
            return orbit, angles.tolist()
        degrees = 0.5 * degrees
    raise InputError(
        f"{clip.source}: around frame {frame} there is no free place for cameras; take another "
        "frame or a smaller arc."
    )


def cameras_beside(
    clip: RenderedClip, frames: list[int], hw: tuple[int, int], sideways: float = SIDEWAYS
) -> Views:
    """The cameras of ``frames`` moved ``sideways`` metres along their own x axis, left and right in
    turn, and half as far up.

    Without rgb and ids, of size ``hw``, at the moments of the frames. Where a body or a wall is in
    the way, or within 0.1 m before the new camera, the other side is tried, then both at half the
    distance; raises ``InputError`` where all four fail.
    """
    cameras = clip.cameras[frames].covering(hw)
    sign = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(len(frames))])
    c2w, free = cameras.c2w.clone(), torch.zeros(len(frames), dtype=torch.bool)
    for side, share in _TRIES:
        left = (~free).nonzero()[:, 0]
        if len(left) == 0:
            break
        some = cameras[left]
        x, y = some.c2w[:, :3, 0], some.c2w[:, :3, 1]
        offset = share * sideways * (side * sign[left, None] * x - 0.5 * y)
        moved = some.c2w.clone()
        moved[:, :3, 3] += offset
        c2w[left] = moved
        there = dataclasses.replace(some, c2w=moved)
        free[left] = way_is_free(clip.truth, some, offset) & view_is_free(clip.truth, there)
    if not bool(free.all()):
        raise InputError(
            f"{clip.source}: beside frame {frames[int((~free).nonzero()[0])]} there is no "
            "free place for a camera; "
            "take another seed or a smaller distance."
        )
    return dataclasses.replace(cameras, c2w=c2w, frame_ids=None)
