"""Tracks of points through the moments of a clip: in pictures, and lifted to space.

Optical flow (DIS, see ``renderers.stereo.scene_flow``) leads from a view to that of the next
moment. Tracks follow it from pixel to pixel and end where flow back does not agree (Sundaram et al.
2010). New ones start at every moment where none passes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.stereo.config import SceneFlowConfig
from fsm.renderers.stereo.scene_flow import optical_flow
from fsm.views import Views


@dataclass(frozen=True)
class TrackConfig:
    """Which tracks there are."""

    stride: int = 4
    """Side in pixels of the squares that each have a track."""
    least_trust: float = 0.5
    """Trust of flow, from 0 to 1, below which a track ends."""
    flow: SceneFlowConfig = SceneFlowConfig()
    """How flow is checked."""

    def __post_init__(self) -> None:
        if self.stride < 1 or not 0.0 < self.least_trust <= 1.0:
            raise InputError(
                f"tracks: stride is {self.stride} and least_trust {self.least_trust}; choose at "
                "least 1 pixel and a trust above 0, at most 1."
            )


@dataclass(frozen=True)
class Tracks:
    """n tracks through k views, one per moment."""

    views: Int[Tensor, " k"]
    """Positions of the views in the clip, in the order of time."""
    times: Float[Tensor, " k"]
    """Their moments."""
    pixels: Float[Tensor, "k n 2"]
    """x and y; 0 where not seen."""
    seen: Bool[Tensor, "k n"]
    """Which are followed there: at consecutive moments, at least two."""


@dataclass(frozen=True)
class PointTracks:
    """n tracks of points in space through k moments."""

    times: Float[Tensor, " k"]
    """Increasing."""
    points: Float[Tensor, "k n 3"]
    """Finite; 0 where not seen."""
    seen: Bool[Tensor, "k n"]
    """Where a point is known."""
    distances: Float[Tensor, " n"]
    """Mean z-depth of each while it is seen: errors grow with it."""

    def __getitem__(self, index: Tensor) -> "PointTracks":
        """Those chosen by indices or a mask [n]."""
        return PointTracks(
            self.times, self.points[:, index], self.seen[:, index], self.distances[index]
        )


@torch.no_grad()
@full_precision
def track(views: Views, config: TrackConfig | None = None) -> Tracks:
    """Tracks through ``views`` [v] with rgb, in any order.

    Of several views at one moment the chain takes the one nearest to its last camera. A clip of one
    moment has no tracks.
    """
    config = TrackConfig() if config is None else config
    if views.rgb is None:
        raise InputError("tracks need pictures; give views with rgb.")
    batch = views.batched()
    flow = optical_flow(batch, batch, config.flow)
    chain, index = [int(views.time.argmin())], flow.index[0, :, 1].tolist()
    while views.time[index[chain[-1]]] > views.time[chain[-1]]:
        chain.append(index[chain[-1]])
    h, w = views.hw
    rows = torch.arange(config.stride // 2, h, config.stride, device=views.c2w.device)
    columns = torch.arange(config.stride // 2, w, config.stride, device=views.c2w.device)
    starts = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1) + 0.5
    # one column of pixels and seen per track, grown moment by moment
    pixels, seen = starts.new_zeros(len(chain), 0, 2), starts.new_zeros(len(chain), 0).bool()
    for j, view in enumerate(chain[:-1]):
        new = starts[_free(starts, pixels[j, seen[j]], config.stride)]
        pixels = torch.cat([pixels, pixels.new_zeros(len(chain), len(new), 2)], 1)
        seen = torch.cat([seen, seen.new_zeros(len(chain), len(new))], 1)
        if len(new):
            pixels[j, -len(new) :], seen[j, -len(new) :] = new, True
        live = seen[j].nonzero()[:, 0]
        x, y = pixels[j, live].floor().long().unbind(-1)
        there = pixels[j, live] + flow.shift[0, view, 1, y, x]
        inside = ((there >= 0) & (there < there.new_tensor([w, h]))).all(-1)
        goes_on = inside & (flow.trust[0, view, 1, y, x] >= config.least_trust)
        pixels[j + 1, live[goes_on]], seen[j + 1, live[goes_on]] = there[goes_on], True
    lasting = seen.sum(0) >= 2
    at = torch.tensor(chain, device=views.time.device)
    return Tracks(at, views.time[at], pixels[:, lasting], seen[:, lasting])


@torch.no_grad()
@full_precision
def lift(
    tracks: Tracks,
    views: Views,
    inverse_depth: Float[Tensor, "v 1 h w"],
    moving: Float[Tensor, "v 1 h w"] | None = None,
) -> PointTracks:
    """Points in the space of ``views`` [v], by their inverse z-depth at the nearest pixel.

    ``moving`` is the probability that a pixel's surface moves: tracks whose mean is below 0.5 are
    left out. A point without a positive, finite inverse depth is not seen.
    """
    at = tracks.views[:, None]
    x, y = tracks.pixels.floor().long().unbind(-1)
    rho = inverse_depth[at, 0, y, x]
    seen = tracks.seen & rho.isfinite() & (rho > 0)
    depth = 1.0 / torch.where(seen, rho, torch.ones_like(rho))
    focal, centre = views.intrinsics[at].split(2, dim=-1)
    ray = torch.cat([(tracks.pixels - centre) / focal, torch.ones_like(depth)[..., None]], -1)
    c2w = views.c2w[at]
    points = (c2w[..., :3, :3] @ (ray * depth[..., None])[..., None])[..., 0] + c2w[..., :3, 3]
    points = torch.where(seen[..., None], points, torch.zeros_like(points))
    kept = seen.sum(0) >= 2
    if moving is not None:
        share = (moving[at, 0, y, x] * seen).sum(0) / seen.sum(0).clamp_min(1)
        kept &= share >= 0.5
    distances = (depth * seen).sum(0) / seen.sum(0).clamp_min(1)
    return PointTracks(tracks.times, points, seen, distances)[kept]


def _free(
    starts: Float[Tensor, "s 2"], taken: Float[Tensor, "m 2"], stride: int
) -> Bool[Tensor, " s"]:
    """Which starts have no track in their square."""
    squares = {(int(x), int(y)) for x, y in (taken / stride).floor().tolist()}
    own = (starts / stride).floor().tolist()
    return torch.tensor([(int(x), int(y)) not in squares for x, y in own], device=starts.device)
