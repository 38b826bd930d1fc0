"""Depth by plane sweeps: cost volume, matching weights, regularisation, expected depth.

Every pixel tries a set of inverse depths (Collins 1996; MVSNet 2018). Costs alone give matching
weights. Convolutions at several resolutions correct them; these also see the picture (SimpleRecon
2022) and what the source views show at the depth found so far. The first sweep covers the whole
range at a quarter of the resolution, the second one the neighbourhood of its answer at half
(CasMVSNet 2020).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.renderers.convolution import ConvTrunk, zeroed
from fsm.renderers.stereo.config import SweepConfig
from fsm.renderers.stereo.constants import COLOURS, COSTS, FEATURES
from fsm.renderers.stereo.cost_volume import cost_volume
from fsm.renderers.stereo.regularise import (
    JOINED,
    ConvexUpsampling,
    EdgeRefinement,
    Hourglass,
    resampled,
)
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.windows import shrunk, window_mean
from fsm.views import Views

# Channels of what source views show: mean colour, how far they differ, the own picture.
SHOWN = 2 * COLOURS + 1
# Logit of motion before anything is learnt: most of what is seen stands.
MOVING_PRIOR = -2.0


class Swept(NamedTuple):
    """The answer of a sweep."""

    rho: Float[Tensor, "b v 1 h w"]
    """Inverse depth at full resolution, model units."""
    logits: Float[Tensor, "b v d _h _w"]
    """Of the tried inverse depths, at the resolution at which they were weighed."""
    tried: Float[Tensor, "*bv d hd wd"]
    """Inverse depths, rising: planes [d 1 1], or those of each pixel."""
    moving: Float[Tensor, "b v 1 h w"] | None = None
    """Logit that what a pixel shows moves, at full resolution; of the first sweep."""

    def confidence(self) -> Float[Tensor, "b v 1 h w"]:
        """Largest probability of two neighbouring hypotheses, at full resolution."""
        weights = torch.softmax(self.logits.float(), 2)
        both = (weights[:, :, 1:] + weights[:, :, :-1]).amax(2)
        return resampled(both, self.rho.shape[-2:])[:, :, None].clamp(0.0, 1.0)


class PlaneSweep(nn.Module):
    """What both sweeps do; they differ in the inverse depths they try and how these are averaged.

    Untrained it is plain stereo: weights from colour agreement alone.
    """

    hypotheses: Tensor
    upsampling: ConvexUpsampling

    def __init__(
        self, config: SweepConfig, tried: Tensor, stride: int, detail: int, widths: tuple[int, ...]
    ) -> None:
        super().__init__()
        planes, (width, *wider) = len(tried), widths
        # ``detail``: how much finer than the cost volume the source views' colours are sampled
        self.config, self.stride, self.detail = config, stride, detail
        self.register_buffer("hypotheses", tried, persistent=False)
        self.features = nn.Sequential(
            nn.Conv2d(3, 2 * FEATURES, kernel_size=2 * stride, stride=stride, padding=stride // 2),
            nn.GELU(),
            nn.Conv2d(2 * FEATURES, 2 * FEATURES, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * FEATURES, FEATURES, 3, padding=1),
        )
        self.enter = nn.Conv2d((1 + COSTS) * planes + SHOWN * detail**2, width, 3, padding=1)
        self.body = ConvTrunk(width, 3)
        self.wide = Hourglass(width, wider)
        self.leave = zeroed(nn.Conv2d(width, planes, 3, padding=1))
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(
        self, sources: SourceViews, prior: Float[Tensor, "b v 1 h w"] | None = None
    ) -> Swept:
        """Depth of the reference views, which have pictures; ``prior`` is an answer to correct."""
        coarse = sources.resized(
            self._smaller(sources.reference, self.stride), self._smaller(sources.views, self.stride)
        )
        tried = self._tried(None if prior is None else shrunk(prior, coarse.reference.hw))
        maps, own = (
            self._maps(views.rgb, small.hw)
            for views, small in (
                (sources.views, coarse.views),
                (sources.reference, coarse.reference),
            )
        )
        costs = cost_volume(coarse, maps, own, tried, self.config.unseen_cost)
        matching = torch.softmax(self.sharpness * self._agreement(costs), 2)
        shown = self._shown(sources, self._expected(matching, tried))
        evidence = torch.cat([matching, *(10.0 * costs).unbind(3), shown], dim=2).flatten(0, 1)
        before = (matching + self.config.floor).log().flatten(0, 1)
        x, logits = self._regularised(evidence, before, sources.pictures.flatten(0, 1))
        several = matching.shape[:2]
        rho = self._expected(torch.softmax(logits, 1).unflatten(0, several), tried)
        full = self._enlarged(rho.flatten(0, 1), x, sources).unflatten(0, several)
        moving = self._moving(x, sources)
        moving = None if moving is None else moving.unflatten(0, several)
        return Swept(full, logits.unflatten(0, several), tried.detach(), moving)

    def _enlarged(
        self, maps: Float[Tensor, "n 1 _h _w"], x: Float[Tensor, "n f _h _w"], sources: SourceViews
    ) -> Float[Tensor, "n 1 h w"]:
        """Maps at full resolution, by weights read from the features ``x``."""
        return resampled(self.upsampling(maps, x), sources.reference.hw)

    def _moving(
        self, x: Float[Tensor, "n f _h _w"], sources: SourceViews
    ) -> Float[Tensor, "n 1 h w"] | None:
        """Logit of motion from the features ``x``, where a sweep gives one."""
        return None

    def _tried(self, prior: Tensor | None) -> Float[Tensor, "*bv d h w"]:
        """Inverse depths, rising."""
        raise NotImplementedError

    def _expected(
        self, weights: Float[Tensor, "b v d h w"], tried: Float[Tensor, "*bv d _h _w"]
    ) -> Float[Tensor, "b v 1 h w"]:
        """Weighted mean of the inverse depths."""
        raise NotImplementedError

    def _regularised(
        self,
        evidence: Float[Tensor, "n c h w"],
        before: Float[Tensor, "n d h w"],
        pictures: Float[Tensor, "n 3 ph pw"],
    ) -> tuple[Float[Tensor, "n f _h _w"], Float[Tensor, "n d _h _w"]]:
        """Features, and logits of the inverse depths from those ``before`` anything is learnt."""
        x = self.body(F.gelu(self._entered(evidence)))
        x = self.wide(x)
        return x, self.leave(x).float() + before

    def _entered(self, evidence: Tensor) -> Tensor:
        # in this order of memory a CPU convolves half again as fast
        return self.enter(evidence.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def _agreement(self, costs: Float[Tensor, "b v d 4 h w"]) -> Float[Tensor, "b v d h w"]:
        """Logits from the colours of the better half of the source views, over windows."""
        colours = costs[:, :, :, 0]
        means = torch.stack([window_mean(colours, side) for side in self.config.windows])
        return -self.config.sharpness * means.mean(0)

    @torch.no_grad()
    def _shown(
        self, sources: SourceViews, rho: Float[Tensor, "b v 1 h w"]
    ) -> Float[Tensor, "b v c h w"]:
        """Colours that the source views show at ``rho``: their mean, how far they differ, and
        beside them the reference view's own picture.
        """
        h, w = rho.shape[-2:]
        fine, scale = (self.detail * h, self.detail * w), self.stride // self.detail
        full = resampled(rho.flatten(0, 1), fine).unflatten(0, rho.shape[:2])
        small = self._smaller(sources.views, scale)
        pixels = sources.resized(fine, small).project(full).pixels
        samples, inside = sources.sample(shrunk(sources.frames, small), pixels)
        count = inside.sum(2).clamp_min(1.0)
        mean = (samples * inside).sum(2) / count
        apart = ((samples - mean[:, :, None]).abs() * inside).sum(2) / count
        own = shrunk(sources.pictures, fine)
        found = torch.cat([mean - 0.5, 5.0 * apart.mean(2, keepdim=True), own - 0.5], dim=2)
        return F.pixel_unshuffle(found.flatten(0, 1), self.detail).unflatten(0, rho.shape[:2])

    def _maps(
        self, frames: Float[Tensor, "b n 3 h w"] | None, hw: tuple[int, int]
    ) -> Float[Tensor, "b n c _h _w"]:
        """Pictures at low resolution: colours, then learnt features."""
        assert frames is not None
        flat = frames.flatten(0, 1)
        centred = (flat - 0.5).contiguous(memory_format=torch.channels_last)
        learnt = resampled(torch.tanh(self.features(centred).float()), hw)
        return torch.cat([shrunk(flat, hw), learnt], dim=1).unflatten(0, frames.shape[:2])

    @staticmethod
    def _smaller(views: Views, scale: int) -> tuple[int, int]:
        return views.hw[0] // scale, views.hw[1] // scale


class CoarseSweep(PlaneSweep):
    """Depth planes over the whole range, at a quarter of the resolution.

    Means are taken of logarithms, or one near plane would outweigh all far ones.
    """

    def __init__(self, config: SweepConfig) -> None:
        steps = config.planes - 2
        ratio = (config.nearest / config.farthest) ** (1.0 / steps)
        planes = [0.0, *(config.nearest * ratio**-i for i in reversed(range(steps + 1)))]
        widths = (64, 96, 128, 128)
        super().__init__(config, torch.tensor(planes), stride=4, detail=1, widths=widths)
        self.outlines = EdgeRefinement(widths[0], config.planes)
        self.upsampling = ConvexUpsampling(JOINED, 2)
        self.motion = zeroed(nn.Conv2d(JOINED, 1, 3, padding=1))
        assert self.motion.bias is not None
        nn.init.constant_(self.motion.bias, MOVING_PRIOR)

    def _moving(self, x: Tensor, sources: SourceViews) -> Float[Tensor, "n 1 h w"]:
        return self._enlarged(self.motion(x).float(), x, sources)

    def _tried(self, prior: Tensor | None) -> Float[Tensor, "d 1 1"]:
        return self.hypotheses[:, None, None]

    def _expected(self, weights: Tensor, tried: Tensor) -> Tensor:
        farthest = self.config.farthest
        return (weights * (tried + farthest).log()).sum(2, keepdim=True).exp() - farthest

    def _agreement(self, costs: Tensor) -> Tensor:
        rank = torch.arange(costs.shape[2], device=costs.device)[:, None, None]
        return super()._agreement(costs) - self.config.far_bias * rank

    def _regularised(
        self, evidence: Tensor, before: Tensor, pictures: Tensor
    ) -> tuple[Tensor, Tensor]:
        edges = self.outlines.edges(pictures)
        x = self._entered(evidence) + self.outlines.enter(edges)
        x = self.wide(self.body(F.gelu(x)))
        return self.outlines(x, self.leave(x).float() + before, edges)


class FineSweep(PlaneSweep):
    """Inverse depths around an answer, at half the resolution."""

    def __init__(self, config: SweepConfig) -> None:
        offsets, widths = (
            torch.linspace(-config.reach, config.reach, config.fine_planes),
            (48, 64, 64),
        )
        super().__init__(config, offsets, stride=2, detail=2, widths=widths)
        self.upsampling = ConvexUpsampling(widths[0], 2)

    def _tried(self, prior: Tensor | None) -> Float[Tensor, "b v d h w"]:
        assert prior is not None
        # beyond infinity, too, where it costs nothing
        unit = prior.detach() + self.config.farthest
        return prior + self.hypotheses[:, None, None] * unit

    def _expected(self, weights: Tensor, tried: Tensor) -> Tensor:
        return (weights * tried).sum(2, keepdim=True)
