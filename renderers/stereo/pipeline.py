"""Depth and motion from frames, from top to bottom.

Of every frame, once:

1. **Cost volume** over depth planes, at a quarter of the resolution
   (``fsm.renderers.stereo.cost_volume``);
2. **regularisation** by convolutions, and expected depth (``fsm.renderers.stereo.plane_sweep``);
3. **refinement**: a second cost volume around that depth, at half the resolution;
4. **sub-pixel alignment** along the rays (``fsm.renderers.stereo.subpixel``); where depth is
   unsure, its **median** over small squares (``fsm.renderers.stereo.median``).

Of every view to be rendered, from the depth of its source views:

5. **geometric consistency** of the source views (``fsm.renderers.stereo.consistency``);
6. **forward warp** to the target (``fsm.renderers.stereo.forward_warp``);
7. **occlusion** in every source view (``fsm.renderers.stereo.occlusion``);
8. **motion** between the source views (``fsm.renderers.stereo.motion``).

Steps 2 and 3 are learnt. The reference view is the one whose depth is sought.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.renderers.stereo import forward_warp, motion, occlusion
from fsm.renderers.stereo.config import StereoConfig
from fsm.renderers.stereo.fusion import Surfaces, fused
from fsm.renderers.stereo.key_frames import take_turns
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.median import median
from fsm.renderers.stereo.plane_sweep import CoarseSweep, FineSweep, Swept
from fsm.renderers.stereo.scene_flow import scene_flow
from fsm.renderers.stereo.selection import stereo_sources
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.subpixel import aligned_depth
from fsm.views import Views


class Stereo(nn.Module):
    """The stages with their weights; inverse depths in model units."""

    def __init__(self, config: StereoConfig) -> None:
        super().__init__()
        self.config = config
        self.sweeps = nn.ModuleList([CoarseSweep(config.sweep), FineSweep(config.sweep)])

    def forward(self, views: Views, frames: Views) -> list[Swept]:
        """Answers of both sweeps for ``views`` [b v], which have pictures, from the ``frames``
        [b n], among which they may be; the last answer is the best.
        """
        sources = stereo_sources(views, frames, self.config.sources)
        coarse, fine = self.sweeps
        first = coarse(sources)
        return [first, fine(sources, prior=first.rho)]

    @torch.no_grad()
    def layers(self, views: Views, frames: Views, *, velocity: bool = True) -> Layers:
        """Depth to a fraction of a pixel, what moves, and how fast; constants for autograd. Views
        and frames are ``reduced`` ones. Without ``velocity`` that is zero.
        """
        coarse, fine = self(views, frames)
        swept, moving = fine.rho.float(), coarse.moving
        assert moving is not None
        sources = stereo_sources(views, frames, self.config.sources)
        aligned = aligned_depth(sources, swept, self.config)
        sure = coarse.confidence()
        still = torch.zeros_like(swept).expand(-1, -1, 3, -1, -1)
        if frames.one_moment:
            return Layers(self._smoothed(aligned, sure), torch.zeros_like(swept), still, sure)
        moving = torch.sigmoid(moving.float())
        # alignment takes what moves for something at another depth
        rho = self._smoothed(torch.lerp(aligned, swept, moving), sure)
        if not velocity:
            return Layers(rho, moving, still, sure)
        return Layers(rho, moving, scene_flow(views, frames, rho, self.config.scene_flow), sure)

    def _smoothed(self, rho: Tensor, confidence: Tensor) -> Tensor:
        """``rho``, and its median where depth is unsure."""
        unsure = confidence < self.config.warp.confidence
        return torch.where(unsure, median(rho, self.config.median), rho)

    def reduced(self, views: Views) -> Views:
        """``views`` no larger than depth needs: what a sweep sees of the scene around a pixel
        shrinks as pictures grow.
        """
        h, w = views.hw
        factor = max(1, math.isqrt(h * w) // self.config.size)
        return views.resized((h // factor, w // factor))

    def surfaces(self, views: Views, group: int) -> Surfaces:
        """The surfaces of ``views``, at the size at which depth is found, ``group`` views at a
        time: fused where they are a static capture, else by turns.
        """
        small = self.reduced(views)
        parts = [
            self.layers(small[i : i + group], small, velocity=False)
            for i in range(0, len(views), group)
        ]
        layers = Layers.cat(parts)
        if views.one_moment:
            return fused(small, layers, self.config.fusion)
        nothing = torch.zeros_like(layers.moving, dtype=torch.bool)
        turns = take_turns(small, layers.inverse_depth, self.config.key_frames)
        return Surfaces(layers.inverse_depth, nothing, turns)

    def warped(self, targets: SourceViews, layers: Layers) -> Layers:
        """Layers of targets from those of all ``targets.views``."""
        rules = self.config
        return forward_warp.forward_warped(targets, layers, rules.warp, rules.consistency)

    def visible(
        self,
        targets: SourceViews,
        pixels: Float[Tensor, "b v k h w 2"],
        rho: Float[Tensor, "b v 1 h w"],
    ) -> Float[Tensor, "b v k 1 h w"]:
        """Which source views see the targets' points, at ``pixels`` of theirs: 1 or 0."""
        return occlusion.visible(targets, pixels, rho, self.config.occlusion)

    def velocity(
        self, targets: SourceViews, pixels: Float[Tensor, "b v k h w 2"]
    ) -> Float[Tensor, "b v 1 h w 2"]:
        """Motion in pixels per unit of ``targets.relative_gaps`` that aligns the source views."""
        return motion.image_velocity(targets, pixels, self.config.motion)

    def followed(
        self,
        targets: SourceViews,
        pixels: Float[Tensor, "b v k h w 2"],
        seen: Float[Tensor, "b v k 1 h w"],
    ) -> Float[Tensor, "b v k h w 2"]:
        """``pixels`` moved along with what moves, where that makes the source views agree."""
        way = self.velocity(targets, pixels) * targets.relative_gaps[..., None, None, None]
        moved = pixels + way
        return pixels + way * motion.acceptance(targets, pixels, moved, seen, self.config.motion)
