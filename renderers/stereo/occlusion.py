"""Which references see a target's points, judged by the target's own depth: a z-buffer in every
reference.

What hides a point from a reference is mostly in the target's picture, too. Every target pixel is
written into the reference at the place where it is fetched from; where a nearer one has been
written to the same place, the farther one is hidden. Nothing is learnt here.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.sources import camera_rays, gather
from fsm.views import Views

SAME_SURFACE = 0.9  # inverse depth of what hides nothing yet, over that of what stands before it
SLACK = 0.02  # of inverse depth in model units: what is far away hides nothing
BEHIND = 1e-3  # least depth in the reference over depth in the target


@torch.no_grad()
@full_precision
def visible(
    requests: Views,
    references: Views,
    chosen: Int[Tensor, "b v k"],
    pixels: Float[Tensor, "b v k h w 2"],
    rho: Float[Tensor, "b v 1 h w"],
) -> Float[Tensor, "b v k 1 h w"]:
    """1 where the target's point is what reference k shows at ``pixels``, 0 where a nearer point of
    the target stands there.

    ``rho`` is the targets' inverse z-depth, model units. Points outside a reference or behind it
    count as visible: what samples them says so itself. A constant for autograd.
    """
    b, v, k = chosen.shape
    seen = inverse_depth_there(requests, references, chosen, rho.clamp_min(0.0))
    hn, wn = references.hw
    x, y = pixels[..., 0] - 0.5, pixels[..., 1] - 0.5
    inside = (x > -0.5) & (x < wn - 0.5) & (y > -0.5) & (y < hn - 0.5)
    buffer = seen.new_zeros(b * v * k, hn * wn)
    value = torch.where(inside, seen, torch.zeros_like(seen)).flatten(0, 2).flatten(1)
    x, y = x.flatten(0, 2).flatten(1), y.flatten(0, 2).flatten(1)
    for place in near_places(x, y, wn, hn):
        buffer.scatter_reduce_(1, place, value, "amax")
    front = buffer.gather(1, _place(x, y, wn, hn)).view_as(seen)
    hidden = inside & (seen < SAME_SURFACE * front - SLACK)
    return (~hidden).float()[:, :, :, None]


def near_places(
    x: Float[Tensor, "m n"], y: Float[Tensor, "m n"], w: int, h: int
) -> list[Int[Tensor, "m n"]]:
    """Where positions are written: all pixels of a picture nearer than 0.75 along each axis, so
    that few holes are left.
    """
    return [_place(x + dx, y + dy, w, h) for dx in (-0.25, 0.25) for dy in (-0.25, 0.25)]


def _place(x: Float[Tensor, "m n"], y: Float[Tensor, "m n"], w: int, h: int) -> Int[Tensor, "m n"]:
    """Index into the pixels of a picture of the one nearest to each position, held inside."""
    column, row = x.nan_to_num().round().clamp(0, w - 1), y.nan_to_num().round().clamp(0, h - 1)
    return row.long() * w + column.long()


@full_precision
def inverse_depth_there(
    requests: Views,
    references: Views,
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
) -> Float[Tensor, "b v k h w"]:
    """Inverse z-depth of the targets' points as the chosen references measure it; large where a
    point is behind one.
    """
    ray = camera_rays(requests)
    pose = gather(references.c2w, chosen)
    forward = pose[..., :3, 2]  # [b v k 3]
    turned = torch.einsum("bvij,bvki->bvkj", requests.c2w[..., :3, :3], forward)
    ahead = ((requests.c2w[:, :, None, :3, 3] - pose[..., :3, 3]) * forward).sum(-1)
    stretch = torch.einsum("bvkj,bvjhw->bvkhw", turned, ray) + rho * ahead[..., None, None]
    return rho / stretch.clamp_min(BEHIND)
