"""Which views serve as source views of a reference view."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.sources import SourceViews, gather
from fsm.views import Views

# Entries of poses and times up to which two views are one: distances between equal cameras carry
# rounding.
SAME = 1e-6
# Model units below which two views are from one place: one unit is the spread of the inputs.
LEAST_BASELINE = 0.01
# Of source views for wide baselines: cosine of the angle between forward axes, and overlap, from
# which on two views show much of the same.
ALIKE, SHARED = 0.4, 0.1
# Added to the distances of views of other moments than those which come first.
LATER = 100.0
# Inverse depths in model units, and rays along the longer side, at which overlap is measured.
PROBED, PROBES = (0.1, 0.5, 1.0), 6


@full_precision
def nearest_views(
    reference: Views, views: Views, count: int, *, others: bool = False
) -> tuple[Int[Tensor, "b v k"], Float[Tensor, "b v k"]]:
    """Indices of the ``count`` views nearest to each reference view, in time order, and their
    distances.

    Distance in model units: |Δt| + |Δcentre| + (1 - cos of the angle between forward axes),
    divided by its mean over the chosen. Where there are fewer views than ``count`` the nearest are
    taken more than once. ``others`` leaves out the reference view itself where it is one of
    several. Where several cameras that look the same way share the moment nearest to the reference
    view's, these come first: they show what moves where it is.
    """
    with torch.no_grad():
        dt = (reference.time[:, :, None] - views.time[:, None]).abs()
        dc = torch.cdist(reference.c2w[..., :3, 3], views.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", reference.c2w[..., :3, 2], views.c2w[..., :3, 2])
        distances = dt + dc + 1.0 - cos
        if others:
            distances = torch.where(_same(reference, views), torch.inf, distances)
        together = _at_one_moment(dt, views) & (cos > ALIKE) & distances.isfinite()
        later = (together.sum(-1, keepdim=True) > 1) & ~together & (not views.one_moment)
        order = (distances + LATER * later).sort(dim=-1, stable=True).indices
        left = distances.isfinite().sum(-1, keepdim=True).clamp_min(1)
        index = order.gather(-1, torch.arange(count, device=dt.device) % left)
        # infinite where the reference view is the only view
        score = distances.gather(-1, index).nan_to_num(posinf=0.0)
        by_time = gather(views.time, index).argsort(dim=-1, stable=True)
        index, score = index.gather(-1, by_time), score.gather(-1, by_time)
        return index, score / score.mean(-1, keepdim=True).clamp_min(1e-6)


def _same(reference: Views, views: Views) -> Bool[Tensor, "b v n"]:
    """Which views are the reference view: one place, one direction, one time."""
    moved = (reference.c2w[:, :, None] - views.c2w[:, None]).abs().amax((-1, -2))
    return (moved < SAME) & ((reference.time[:, :, None] - views.time[:, None]).abs() < SAME)


def _at_one_moment(gaps: Float[Tensor, "b v n"], views: Views) -> Bool[Tensor, "b v n"]:
    """Which views are of the moment nearest to a reference view's, given the ``gaps`` to all."""
    nearest = gaps.argmin(-1)
    moment = views.time.gather(-1, nearest)
    return (views.time[:, None] - moment[..., None]).abs() < SAME


def spread_views(reference: Views, views: Views, count: int) -> Int[Tensor, "b v k"]:
    """Indices of ``count`` other views near each reference view but apart from one another, for
    parallax however dense the views are.

    Of at most 3 ``count`` views, evenly spread over all, the 2 ``count`` nearest, and of these
    every other in time.
    """
    n = views.time.shape[-1]
    sparse = torch.linspace(0, n - 1, min(n, 3 * count), device=views.time.device).round().long()
    index = stereo_views(reference, views.without_rgb()[sparse], 2 * count)
    return sparse[index[..., ::2]]


@full_precision
def stereo_views(reference: Views, views: Views, count: int) -> Int[Tensor, "b v k"]:
    """Indices of the ``count`` other views that say most about the depth of each reference view, in
    time order.

    Those of least |Δt| + |Δcentre| + (1 - cos of the angle) + (1 - overlap). A view from the same
    place has no parallax and counts as a unit farther. Where there are fewer views the nearest are
    taken more than once.
    """
    with torch.no_grad():
        dt = (reference.time[:, :, None] - views.time[:, None]).abs()
        dc = torch.cdist(reference.c2w[..., :3, 3], views.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", reference.c2w[..., :3, 2], views.c2w[..., :3, 2])
        unlike = (1.0 - cos) + (1.0 - overlap(reference, views))
        distances = dt + dc + unlike + (dc < LEAST_BASELINE).float()
        distances = torch.where(_same(reference, views), torch.inf, distances)
        order = distances.sort(dim=-1, stable=True)
        left = distances.isfinite().sum(-1, keepdim=True).clamp_min(1)
        index = order.indices.gather(-1, torch.arange(count, device=dt.device) % left)
        return index.gather(-1, gather(views.time, index).argsort(dim=-1, stable=True))


@full_precision
def overlap(reference: Views, views: Views) -> Float[Tensor, "b v n"]:
    """Share of what each reference view sees that each view sees, too, from 0 to 1: of points on a
    grid of rays at the inverse depths ``PROBED``.
    """
    small = Views(
        reference.c2w,
        reference.intrinsics * (PROBES / max(reference.hw)),
        reference.time,
        (
            max(1, PROBES * reference.hw[0] // max(reference.hw)),
            max(1, PROBES * reference.hw[1] // max(reference.hw)),
        ),
    )
    b, v, n = *reference.time.shape, views.time.shape[-1]
    everyone = torch.arange(n, device=views.time.device).expand(b, v, n)
    planes = views.time.new_tensor(PROBED)[:, None, None]
    seen = SourceViews.of(small, views.without_rgb(), everyone).project_planes(planes)
    return seen.inside.float().mean((3, 4, 5))


def stereo_sources(reference: Views, views: Views, near: int) -> SourceViews:
    """Source views for depth: the ``near`` nearest, in which moving things hardly differ, and half
    as many that stand apart, never the reference view itself.

    Where several other cameras see much of the same at the same moment, only these: nothing moves
    between them, and however far apart they stand they say more than another moment. A static
    capture has no other moment.
    """
    apart = max(1, near // 2)
    nearest, spread = stereo_views(reference, views, near), spread_views(reference, views, apart)
    index = torch.cat([nearest, spread], dim=-1)
    if not views.one_moment:
        beside, usable = views_beside(reference, views, near, apart)
        index = torch.where(usable.sum(-1, keepdim=True) > 1, beside, index)
    return SourceViews.of(reference, views, index).compacted()


@full_precision
def views_beside(
    reference: Views, views: Views, near: int, apart: int
) -> tuple[Int[Tensor, "b v k"], Bool[Tensor, "b v n"]]:
    """Indices of other cameras at the moment of each reference view that see much of the same: the
    ``near`` nearest, and ``apart`` ones spread over the rest; and which views are such cameras.

    Where there are fewer the nearest are taken more than once.
    """
    with torch.no_grad():
        dt = (reference.time[:, :, None] - views.time[:, None]).abs()
        dc = torch.cdist(reference.c2w[..., :3, 3], views.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", reference.c2w[..., :3, 2], views.c2w[..., :3, 2])
        shared = overlap(reference, views)
        usable = (dt < SAME) & (dc > LEAST_BASELINE) & (cos > ALIKE) & (shared > SHARED)
        distances = torch.where(usable, dc + (1.0 - cos) + (1.0 - shared), torch.inf)
        order, number = distances.argsort(dim=-1, stable=True), usable.sum(-1, keepdim=True)
        place = torch.arange(apart, device=dt.device)
        farther = (number - near) * (place + 1) // (apart + 1)
        farther = near + torch.where(number > near + apart, farther, place)
        first = torch.arange(near, device=dt.device).expand(*farther.shape[:-1], -1)
        rank = torch.cat([first, farther], dim=-1) % number.clamp_min(1)
        return order.gather(-1, rank), usable
