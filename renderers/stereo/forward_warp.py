"""Depth of a target from the depth of the frames: every pixel of a frame is carried to where the
target sees it.

Pixels whose depth the other frames contradict stay behind
(``fsm.renderers.stereo.consistency``). Of the rest the nearest one wins; those within a tenth of
it are averaged. What no frame's pixel reaches takes after the farthest of its surroundings,
because it is mostly background that something hid. Nothing is learnt here.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.consistency import contradicted, fellows
from fsm.renderers.stereo.occlusion import SAME_SURFACE, inverse_depth_there, near_places
from fsm.renderers.stereo.sources import gather, warped_pixels
from fsm.views import Views

SLACK = 0.01  # of inverse depth in model units, added before ratios are taken


@full_precision
def reprojected(
    requests: Views,
    references: Views,
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "b n 1 hn wn"],
) -> Float[Tensor, "b v 1 h w"]:
    """Inverse depth of the targets from that of the chosen references ``rho``, model units.

    Gradients reach ``rho`` through the values carried over, not through where they land.
    """
    b, v, k = chosen.shape
    # a target of more pixels than a frame would be mostly holes
    steps = -(-requests.hw[0] // references.hw[0])
    working = (
        requests
        if steps <= 1
        else requests.resized((requests.hw[0] // steps, requests.hw[1] // steps))
    )
    h, w = working.hw
    frames = _flat(
        references, gather(references.c2w, chosen), gather(references.intrinsics, chosen)
    )
    asked = _flat(
        working,
        *(t[:, :, None].expand(b, v, k, *t.shape[2:]) for t in (working.c2w, working.intrinsics)),
    )
    own = torch.arange(v * k, device=rho.device)[None, :, None].expand(b, -1, -1)
    values = gather(rho, chosen).flatten(1, 2)  # [b vk 1 hn wn]
    values = (
        values + (values.clamp_min(0.0) - values).detach()
    )  # with a gradient beyond infinity, too: it would be stuck there
    still = values.new_zeros(1).expand(b, v * k, 3, *references.hw)
    there = inverse_depth_there(frames, asked, own, values)[:, :, 0].reshape(b * v, -1)
    with torch.no_grad():
        pixels = warped_pixels(frames, asked, own, values, still)[:, :, 0]
        x, y = (pixels[..., i].reshape(b * v, -1) - 0.5 for i in (0, 1))
        inside = (x > -0.5) & (x < w - 0.5) & (y > -0.5) & (y < h - 0.5)
        inside = inside & ~contradicted(frames, *fellows(chosen), values).reshape(b * v, -1)
        places = torch.cat(near_places(x, y, w, h), dim=1)
    copies = places.shape[1] // there.shape[1]
    there, inside = there.repeat(1, copies), inside.repeat(1, copies)
    with torch.no_grad():
        shown = torch.where(inside, there, -torch.ones_like(there))
        front = shown.new_full((b * v, h * w), -1.0).scatter_reduce_(1, places, shown, "amax")
        counted = (inside & (there + SLACK > SAME_SURFACE * (front.gather(1, places) + SLACK))).to(
            there.dtype
        )
        count = there.new_zeros(b * v, h * w).scatter_add_(1, places, counted)
    total = there.new_zeros(b * v, h * w).scatter_add(1, places, there * counted)
    carried = (total / count.clamp_min(1.0)).view(b * v, 1, h, w)
    full = filled(carried, (count > 0).view(b * v, 1, h, w))
    if working.hw != requests.hw:
        full = F.interpolate(full, size=requests.hw, mode="bilinear", align_corners=False)
    return full.view(b, v, 1, *requests.hw)


def filled(
    rho: Float[Tensor, "n 1 h w"], known: Bool[Tensor, "n 1 h w"]
) -> Float[Tensor, "n 1 h w"]:
    """``rho`` where it is known; elsewhere the least of the nearest known to the left, right, above
    and below, zero if none is.
    """
    if bool(known.all()):
        return rho
    for _ in range(2):  # the first leaves only pixels whose row and column know nothing
        reached = [
            _nearest(rho, known, dim, backwards) for dim in (-1, -2) for backwards in (False, True)
        ]
        least = torch.stack(reached).amin(0)
        found = torch.isfinite(least)
        rho = torch.where(known, rho, torch.where(found, least, torch.zeros_like(rho)))
        known = known | found
    return rho


def _nearest(rho: Tensor, known: Tensor, dim: int, backwards: bool) -> Tensor:
    """Value of the last known pixel before each one, along ``dim``; infinite where there is
    none.
    """
    if backwards:
        return _nearest(rho.flip(dim), known.flip(dim), dim, False).flip(dim)
    place = torch.arange(rho.shape[dim], device=rho.device)
    place = (place[:, None] if dim == -2 else place).expand_as(rho)
    last = torch.where(known, place, -1).cummax(dim).values
    return torch.where(last < 0, torch.inf, rho.gather(dim, last.clamp_min(0)))


def _flat(
    like: Views, c2w: Float[Tensor, "b v k 4 4"], intrinsics: Float[Tensor, "b v k 4"]
) -> Views:
    """Cameras [b vk] of the size of ``like``."""
    time = c2w.new_zeros(c2w.shape[0], c2w.shape[1] * c2w.shape[2])
    return dataclasses.replace(
        like.without_rgb(),
        c2w=c2w.flatten(1, 2),
        frame_ids=None,
        intrinsics=intrinsics.flatten(1, 2),
        time=time,
        mask=None,
    )
