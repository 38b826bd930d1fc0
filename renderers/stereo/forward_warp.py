"""Forward warp: depth and motion of a target from those of other views.

Every pixel of a source view is projected to where the target sees it, moved to the target's moment
by its velocity if it moves, unless the other source views contradict its depth
(``fsm.renderers.stereo.consistency``). The nearest one wins, of those with a sure depth where there
are any; those on the same surface are averaged. Holes take the farthest of their surroundings,
because they are mostly background that something hid. Nothing is learnt here.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import ConsistencyConfig, WarpConfig
from fsm.renderers.stereo.consistency import contradicted, other_sources
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.occlusion import splat_places
from fsm.renderers.stereo.sources import Projected, SourceViews, compiles


@full_precision
def forward_warped(
    targets: SourceViews,
    layers: Layers,
    config: WarpConfig,
    consistency: ConsistencyConfig,
) -> Layers:
    """Layers [b v] of the reference views of ``targets`` from those of all its views [b n].

    Gradients reach inverse depth through the values carried over, not through where they land.
    """
    b, v, _ = targets.index.shape
    full = targets.reference.hw
    # a target of more pixels than a source view would be mostly holes
    steps = -(-full[0] // targets.views.hw[0])
    if steps > 1:
        targets = targets.resized((full[0] // steps, full[1] // steps), targets.views.hw)
    h, w = targets.reference.hw
    layers = layers.gathered(targets.index)
    values = layers.inverse_depth
    # with a gradient beyond infinity, too: it would be stuck there
    values = values + (values.clamp_min(0.0) - values).detach()
    back = targets.reversed()
    motion = dataclasses.replace(layers, inverse_depth=values.detach()).motion(back.reference)
    seen = back.project(values, motion)
    with torch.no_grad():
        places, others = other_sources(targets.index)
        among = SourceViews.of(back.reference, back.reference, places)
        used = ~contradicted(among, others, values, motion, consistency)
        sure = used & (layers.confidence >= config.confidence)
    rest = torch.cat([layers.moving, layers.velocity, layers.confidence], 2).detach()
    given = (seen, used, sure, rest, (b, v), (h, w), config)
    if compiles((h, w), seen.pixels, seen.inverse_depth, rest):
        from fsm.renderers.stereo.warp_cpu import carried_on_cpu

        warped = carried_on_cpu(*given)
    else:
        warped = plain_carried(*given)
    if (h, w) != full:
        warped = F.interpolate(warped, size=full, mode="bilinear", align_corners=False)
    rho, moving, velocity, sureness = warped.unflatten(0, (b, v)).split([1, 1, 3, 1], dim=2)
    return Layers(rho, moving, velocity, sureness)


def plain_carried(
    seen: Projected,
    used: Bool[Tensor, "b vk 1 hn wn"],
    sure: Bool[Tensor, "b vk 1 hn wn"],
    rest: Float[Tensor, "b vk c hn wn"],
    shape: tuple[int, int],
    hw: tuple[int, int],
    config: WarpConfig,
) -> Float[Tensor, "n d h w"]:
    """Inverse depth of targets, ``shape`` = (b, v), and the means of ``rest`` behind it, from the
    points ``seen`` [b vk 1 hn wn] of all their source views that are ``used``, in torch.

    Points that are not ``sure`` count where no other lands. Holes of inverse depth are filled, the
    rest is zero there.
    """
    n, (h, w) = shape[0] * shape[1], hw
    there = seen.inverse_depth.reshape(n, -1)
    with torch.no_grad():
        inside = (seen.inside[:, :, 0] & used[:, :, 0]).reshape(n, -1)
        firm = inside & sure.reshape(n, -1)
        x, y = (t.reshape(n, -1) for t in seen.pixels.unbind(-1))
        places = torch.cat(splat_places(x, y, h, w), dim=1)
    copies = places.shape[1] // there.shape[1]
    there, inside, firm = (t.repeat(1, copies) for t in (there, inside, firm))
    with torch.no_grad():
        fronts = [
            there.new_full((n, h * w), -1.0).scatter_reduce_(
                1, places, torch.where(of, there, -1.0), "amax"
            )
            for of in (firm, inside)
        ]
        lacking = fronts[0] < 0
        front = torch.where(lacking, fronts[1], fronts[0])
        limit = config.same_surface * (front.gather(1, places) + config.slack)
        shown = firm | (inside & lacking.gather(1, places))
        counted = (shown & (there + config.slack > limit)).to(there.dtype)
        count = there.new_zeros(n, h * w).scatter_add_(1, places, counted)

    def mean(values: Float[Tensor, "n m"]) -> Float[Tensor, "n 1 h w"]:
        total = there.new_zeros(n, h * w).scatter_add(1, places, values * counted)
        return (total / count.clamp_min(1.0)).view(n, 1, h, w)

    rho = fill_holes(mean(there), (count > 0).view(n, 1, h, w))
    return torch.cat([rho, *(mean(c.reshape(n, -1).repeat(1, copies)) for c in rest.unbind(2))], 1)


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
