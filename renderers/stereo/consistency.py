"""Which depths the frames themselves contradict: what would hide something that another frame sees.

Every pixel of a frame is carried into other frames and compared with the depth found there (Merrell
et al. 2007). A surface that is there is found from several frames, unless something hides it; depth
that is wrong mostly hangs in the air before a surface, and other frames look through it. So they do
where something has moved away by its own size, which loses the vote, too: its depth was measured as
parallax together with its motion, and is wrong as a rule. A yes or no, as the z-buffers that follow
are. Nothing is learnt here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.occlusion import BEHIND
from fsm.renderers.stereo.sources import camera_rays, cameras_from
from fsm.views import Views

# side of the square whose depths a point is compared with: outlines are found to a pixel
AROUND = 3
# The farther of two inverse depths over the nearer: down to the first they are one surface, below
# the second one is seen through.
SUPPORTED, SEEN_THROUGH = 0.95, 0.8
# of inverse depth in model units, added before ratios are taken: what is far away hides nothing
SLACK = 0.005


@torch.no_grad()
@full_precision
def contradicted(
    frames: Views,
    witnesses: Int[Tensor, "b m j"],
    counted: Bool[Tensor, "b m j"],
    rho: Float[Tensor, "b m 1 h w"],
) -> Bool[Tensor, "b m 1 h w"]:
    """Where the inverse depth ``rho`` of a frame is seen through by one of its witnesses and
    supported by none.

    ``witnesses`` are places among the frames themselves [b m], all of one size; those not
    ``counted`` say nothing. Model units.
    """
    b, m, _, h, w = rho.shape
    ray = camera_rays(frames)
    cameras = cameras_from(frames, frames, witnesses)[..., None, None]
    nearest, farthest = (
        sign * F.max_pool2d(sign * rho[:, :, 0], AROUND, 1, AROUND // 2) for sign in (1, -1)
    )
    supported = seen_through = torch.zeros_like(rho[:, :, 0], dtype=torch.bool)
    for i in range(witnesses.shape[2]):
        turn, offset = cameras[:, :, i, :9].unflatten(2, (3, 3)), cameras[:, :, i, 9:12]
        focal, centre = cameras[:, :, i, 12:14], cameras[:, :, i, 14:16]
        point = (turn * ray[:, :, None]).sum(3) + offset * rho
        ahead = point[:, :, 2] > BEHIND
        x, y = (point[:, :, :2] / point[:, :, 2:].clamp_min(BEHIND) * focal + centre).unbind(2)
        inside = counted[:, :, i, None, None] & ahead & (x > 0) & (x < w) & (y > 0) & (y < h)
        place = (y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()).flatten(2)
        there = rho[:, :, 0] / point[:, :, 2].clamp_min(BEHIND) + SLACK
        index = witnesses[:, :, i, None].expand(-1, -1, h * w)
        near, far = (
            t.flatten(2).gather(1, index).gather(2, place).view(b, m, h, w) + SLACK
            for t in (nearest, farthest)
        )
        supported = supported | (inside & (there > SUPPORTED * far) & (near > SUPPORTED * there))
        seen_through = seen_through | (inside & (SEEN_THROUGH * there > near))
    return (seen_through & ~supported)[:, :, None]


def fellows(chosen: Int[Tensor, "b v k"]) -> tuple[Int[Tensor, "b vk j"], Bool[Tensor, "b vk j"]]:
    """Witnesses of every chosen frame of a target, the others chosen for it, as places in [b vk];
    and which are other frames.
    """
    b, v, k = chosen.shape
    # [k j]
    slots = (
        torch.arange(k, device=chosen.device)[:, None] + torch.arange(1, k, device=chosen.device)
    ) % k
    own = torch.arange(v, device=chosen.device)[:, None, None] * k
    places = (own + slots).flatten(0, 1).expand(b, -1, -1)
    flat = chosen.flatten(1)
    others = flat.gather(1, places.flatten(1)).view(places.shape)
    return places, others != flat[..., None]
