"""Where a camera may be put in a scene that can be rendered: nothing stands in its way or right
before it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.views import Rendering, Views

CLEARANCE = 0.1
"""Metres of free space that a camera needs around its way and before it."""
_PROBE = 8  # pixels a side of the picture that looks along the way

Truth = Callable[[Views], Rendering]
"""What any cameras at any moments see, with z-depth in metres."""


def way_is_free(truth: Truth, cameras: Views, way: Float[Tensor, "v 3"]) -> Bool[Tensor, "v"]:
    """Whether nothing is within ``CLEARANCE`` of the ``way`` (metres) that starts at each camera
    and lies across its axis.

    The camera itself has to stand in free space: from inside a body that body is not seen.
    """
    length = way.norm(dim=-1)
    forward = way / length[:, None]
    right = torch.linalg.cross(cameras.c2w[:, :3, 2], forward)
    right = right / right.norm(dim=-1, keepdim=True)
    c2w = cameras.c2w.clone()
    c2w[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], -1)
    # A picture just wide enough for the free space that is needed around the way's end.
    focal = 0.5 * _PROBE * length / CLEARANCE
    centre = torch.full_like(focal, 0.5 * _PROBE)
    intrinsics = torch.stack([focal, focal, centre, centre], -1)
    probe = Views(c2w, intrinsics, cameras.time, (_PROBE, _PROBE))
    return _nearest(truth, probe) > length + CLEARANCE


def view_is_free(truth: Truth, cameras: Views) -> Bool[Tensor, "v"]:
    """Whether each camera sees nothing nearer than ``CLEARANCE``."""
    return _nearest(truth, cameras) > CLEARANCE


def _nearest(truth: Truth, cameras: Views) -> Float[Tensor, "v"]:
    """z-depth of the nearest surface that each camera sees."""
    depth = truth(cameras).depth
    assert depth is not None, "the truth knows its depth"
    return depth.flatten(1).amin(1)
