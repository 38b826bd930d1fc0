"""Forward warp: depth of a target from the depth of other views.

Every pixel of a source view is projected to where the target sees it, unless the other source views
contradict its depth (``fsm.renderers.stereo.consistency``). The nearest one wins; those on the same
surface are averaged. Holes take the farthest of their surroundings, because they are
mostly background that something hid. Nothing is learnt here.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import ConsistencyConfig, LayerConfig
from fsm.renderers.stereo.consistency import contradicted, other_sources
from fsm.renderers.stereo.occlusion import splat_places
from fsm.renderers.stereo.sources import Projected, SourceViews, compiles, gather


@full_precision
def forward_warped(
    targets: SourceViews,
    rho: Float[Tensor, "b n 1 hn wn"],
    config: LayerConfig,
    consistency: ConsistencyConfig,
) -> Float[Tensor, "b v 1 h w"]:
    """Inverse depth of the reference views of ``targets`` from that of all its views, ``rho``;
    model units.

    Gradients reach ``rho`` through the values carried over, not through where they land.
    """
    b, v, _ = targets.index.shape
    full = targets.reference.hw
    # a target of more pixels than a source view would be mostly holes
    steps = -(-full[0] // targets.views.hw[0])
    if steps > 1:
        targets = targets.resized((full[0] // steps, full[1] // steps), targets.views.hw)
    h, w = targets.reference.hw
    values = gather(rho, targets.index).flatten(1, 2)  # [b vk 1 hn wn]
    # with a gradient beyond infinity, too: it would be stuck there
    values = values + (values.clamp_min(0.0) - values).detach()
    back = targets.reversed()
    seen = back.project(values)
    with torch.no_grad():
        places, others = other_sources(targets.index)
        among = SourceViews.of(back.reference, back.reference, places)
        lost = contradicted(among, others, values, consistency)
    if compiles((h, w), seen.pixels, seen.inverse_depth):
        from fsm.renderers.stereo.warp_cpu import carried_on_cpu

        warped = carried_on_cpu(seen, lost, (b, v), (h, w), config)
    else:
        warped = plain_carried(seen, lost, (b, v), (h, w), config)
    if (h, w) != full:
        warped = F.interpolate(warped, size=full, mode="bilinear", align_corners=False)
    return warped.view(b, v, 1, *full)


def plain_carried(
    seen: Projected,
    lost: Bool[Tensor, "b vk 1 hn wn"],
    shape: tuple[int, int],
    hw: tuple[int, int],
    config: LayerConfig,
) -> Float[Tensor, "n 1 h w"]:
    """Inverse depth of targets, ``shape`` = (b, v), from the points ``seen`` [b vk 1 hn wn] of all
    their source views that are not ``lost``, in torch; holes are filled.
    """
    n, (h, w) = shape[0] * shape[1], hw
    there = seen.inverse_depth.reshape(n, -1)
    with torch.no_grad():
        inside = (seen.inside[:, :, 0] & ~lost[:, :, 0]).reshape(n, -1)
        x, y = (t.reshape(n, -1) for t in seen.pixels.unbind(-1))
        places = torch.cat(splat_places(x, y, h, w), dim=1)
    copies = places.shape[1] // there.shape[1]
    there, inside = there.repeat(1, copies), inside.repeat(1, copies)
    with torch.no_grad():
        shown = torch.where(inside, there, -torch.ones_like(there))
        front = shown.new_full((n, h * w), -1.0).scatter_reduce_(1, places, shown, "amax")
        limit = config.same_surface * (front.gather(1, places) + config.slack)
        counted = (inside & (there + config.slack > limit)).to(there.dtype)
        count = there.new_zeros(n, h * w).scatter_add_(1, places, counted)
    total = there.new_zeros(n, h * w).scatter_add(1, places, there * counted)
    warped = (total / count.clamp_min(1.0)).view(n, 1, h, w)
    return fill_holes(warped, (count > 0).view(n, 1, h, w))


def fill_holes(
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
