"""The truth beside a clip's path: cameras that stand where no input frame was taken, so that no
neighbour can be copied.

Only clips that can be rendered from any camera know it (``RenderedClip``: the procedural worlds).
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import Clip, RenderedClip
from fsm.errors import InputError
from fsm.views import Views

SIDEWAYS = 0.25
"""Metres to the side; half as much up, so cameras stand 0.28 m off the path. Half of training's own
are off by 0.25 m (standard deviation, at most half of the path's extent) along each axis, the
others not at all."""
CLEARANCE = 0.1  # metres of free space that a camera needs around and before it
_TRIES = ((1.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (-1.0, 0.5))  # which side, how much of the way
_PROBE = 8  # pixels a side of the picture that looks along the way


def rendered(clip: Clip) -> RenderedClip:
    """The same clip, if it can be rendered from any camera; else an ``InputError``."""
    if isinstance(clip, RenderedClip):
        return clip
    raise InputError(
        f"{clip.source} was filmed by a camera, which nobody can put beside its path; the "
        "protocol novel needs a "
        "procedural clip: demo or world:SEED."
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
        free[left] = _free(clip, some, offset) & _free(clip, dataclasses.replace(some, c2w=moved))
    if not bool(free.all()):
        raise InputError(
            f"{clip.source}: beside frame {frames[int((~free).nonzero()[0])]} there is no "
            "free place for a camera; "
            "take another seed or a smaller distance."
        )
    return dataclasses.replace(cameras, c2w=c2w, frame_ids=None)


def _free(clip: RenderedClip, cameras: Views, way: Float[Tensor, "v 3"] | None = None) -> Tensor:
    """Whether nothing is within CLEARANCE of the ``way`` that starts at each camera, or before it
    where it stays.
    """
    if way is None:
        return _nearest(clip, cameras) > CLEARANCE
    length = way.norm(dim=-1)
    forward = way / length[:, None]
    # the way lies across the camera's axis
    right = torch.linalg.cross(cameras.c2w[:, :3, 2], forward)
    right = right / right.norm(dim=-1, keepdim=True)
    c2w = cameras.c2w.clone()
    c2w[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], -1)
    # A picture just wide enough for the free space that is needed around the way's end.
    focal = 0.5 * _PROBE * length / CLEARANCE
    centre = torch.full_like(focal, 0.5 * _PROBE)
    intrinsics = torch.stack([focal, focal, centre, centre], -1)
    probe = Views(c2w, intrinsics, cameras.time, (_PROBE, _PROBE))
    return _nearest(clip, probe) > length + CLEARANCE


def _nearest(clip: RenderedClip, cameras: Views) -> Float[Tensor, "v"]:
    """z-depth of the nearest surface that each camera sees."""
    depth = clip.truth(cameras).depth
    assert depth is not None, "the truth knows its depth"
    return depth.flatten(1).amin(1)
