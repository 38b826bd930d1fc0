"""Our Gaussian decoder: input pixels become Gaussians that already look right, and are then
corrected.

The published head invents depth, colour and motion of every Gaussian; with little training that is
fog. Here a Gaussian starts

* with the colour of its pixel and the pixel's footprint as its size;
* at the depth where other frames agree with it (``fsm.renderers.stereo.pipeline``);
* with the velocity that aligns what is left (``fsm.renderers.stereo.motion``);
* halfway between the moments where neighbouring frames take over, lasting about that long.

Tokens and a few convolutions, which see how well other frames agree at that place, correct all of
it. Every correction but those of agreement starts at zero. Gaussians are made only of pixels that
add something to other frames, and one of a square of pixels where a large picture has no texture.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import ViewTokens, unpatchify
from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.convolution import ConvTrunk, zeroed
from fsm.renderers.gaussians.balls import Balls, merged
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import Projection
from fsm.renderers.heads.base import Read
from fsm.renderers.heads.gaussian_head import GaussianHead
from fsm.renderers.stereo.config import StereoConfig
from fsm.renderers.stereo.fusion import Surfaces
from fsm.renderers.stereo.pipeline import Stereo
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews, camera_rays
from fsm.views import Views

CONTEXT = 8  # channels the tokens pass on to the detail
CELLS = 2  # grid points of smooth corrections per patch side
RHO_SCALE = 0.2  # inverse depth per unit of correction
RHO_LIMITS = (1e-3, 20.0)  # inverse depth in model units: never at infinity, never in the camera
# standard deviation in pixels of a new Gaussian; the rasteriser adds its own pixel filter
FOOTPRINT = 0.35
# Size of a Gaussian that shows its surface alone, over that of one among those of other frames.
ALONE = 1.4
LASTS = 1.0  # temporal standard deviation, in geometric means of the gaps to both next frames
OPAQUE = 3.0  # logit of opacity where frames agree
DETAIL = 4  # inverse depth, log size, log duration, opacity logit
PER_PIXEL = 7  # colour 3, log size, log duration, time, opacity logit


@dataclass(frozen=True)
class PixelGaussianHeadConfig:
    """Shape of our Gaussian decoder."""

    kind: Literal["pixel-gaussians"] = "pixel-gaussians"
    """Which head this is."""
    hidden: int = 256
    """Width of the hidden layer."""
    references: int = 4
    """Input frames that each frame is compared with."""
    stereo: StereoConfig = StereoConfig()
    """Depth and motion from frames."""
    detail_width: int = 32
    """Channels of the convolutions that look at the comparison."""

    def __post_init__(self) -> None:
        least = {"hidden": 1, "references": 2, "detail_width": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least {value}."
                )


class PixelGaussianHead(GaussianHead):
    """Gaussians of input pixels: pixel, stereo and motion first, learnt corrections on top."""

    config: PixelGaussianHeadConfig
    learns_alone = ("stereo",)
    # Gaussians of the size of a pixel blur under the usual pixel filter of 0.3 px².
    projection = Projection(blur=0.1)

    def __init__(self, dim: int, patch: int, config: PixelGaussianHeadConfig) -> None:
        super().__init__(dim, patch, config)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.shared = nn.Linear(dim, config.hidden)
        self.smooth = nn.Linear(config.hidden, 4 * CELLS**2)  # inverse depth, angular velocity
        self.pixels = nn.Linear(config.hidden, PER_PIXEL * patch**2)
        self.context = nn.Linear(config.hidden, CONTEXT * CELLS**2)
        self.stereo = Stereo(config.stereo)
        self.detail = Detail(config.references, config.detail_width)
        for layer in (self.smooth, self.pixels):
            zeroed(layer)

    def parts(self, groups: list[Views], inputs: Views, read: Read) -> list[list[Gaussians4D]]:
        """Those of every group, from surfaces that all inputs agree on."""
        size = len(groups[0])
        surfaces = self.stereo.surfaces(inputs, size)
        starts = range(0, len(inputs), size)
        return [
            self.gaussians(read(group), group, inputs, surfaces[i : i + size])
            for i, group in zip(starts, groups, strict=True)
        ]

    def gaussians(
        self, tokens: ViewTokens, views: Views, inputs: Views, surfaces: Surfaces | None = None
    ) -> list[Gaussians4D]:
        """What the pixels of ``views`` become, compared with the nearest ``inputs``."""
        if surfaces is None:
            surfaces = self.stereo.surfaces(views, len(views))
        surfaces = surfaces.resized(views.hw)
        assert views.rgb is not None
        assert inputs.rgb is not None
        hidden = F.gelu(self.shared(self.norm(tokens)))
        smooth = self._upsampled(self.smooth(hidden).float(), views.hw)
        context = self._upsampled(self.context(hidden).float(), views.hw)
        # no gradients: learnt in stages of its own (``learn: stereo``)
        swept = surfaces.inverse_depth
        unit = swept + self.config.stereo.sweep.farthest
        rho = swept + RHO_SCALE * smooth[:, :, :1] * unit
        chosen, _ = nearest_views(views, inputs, self.config.references)
        sources = SourceViews.of(views, inputs, chosen)
        at, flow = self._motion(sources, rho.detach())
        samples, inside = sources.sample(sources.frames, at)
        gaps = sources.relative_gaps
        detail = self.detail(views.rgb, samples, inside, gaps, rho.detach(), context)
        depth = 1.0 / (rho + RHO_SCALE * detail[:, :, :1] * unit).clamp(*RHO_LIMITS)
        pixels = unpatchify(self.pixels(hidden).float(), views.hw, self.patch)
        flow = flow + 0.1 * smooth[:, :, 1:]
        balls = self._assemble(views, surfaces, depth, flow, pixels, detail[:, :, 1:])
        return [of_sample.gaussians() for of_sample in balls]

    def background(self, inputs: Views) -> Float[Tensor, "b 3"]:
        """Mean colour of the inputs: the best guess where nothing is known."""
        assert inputs.rgb is not None
        return inputs.rgb.mean((1, 3, 4))

    @full_precision
    def _motion(self, sources: SourceViews, rho: Float[Tensor, "b v 1 h w"]):
        """Where the source views show each pixel [b v k h w 2], and its angular velocity in camera
        axes [b v 3 h w].
        """
        pixels, gaps = sources.project(rho).pixels, sources.relative_gaps
        # [b v 1 h w 2], pixels per unit of gaps
        moved = self.stereo.velocity(sources, pixels)
        focal = sources.reference.intrinsics[:, :, None, None, :2]
        mean_gap = sources.mean_gap[..., None, None]
        angular = (moved[:, :, 0] / focal / mean_gap).movedim(-1, 2)
        flow = torch.cat([angular, torch.zeros_like(angular[:, :, :1])], dim=2)
        return pixels + moved * gaps[..., None, None, None], flow

    @full_precision
    def _assemble(
        self, views: Views, surfaces: Surfaces, depth, flow, pixels, detail
    ) -> list[Balls]:
        """All maps [b v c h w] to balls."""
        assert views.rgb is not None
        ray, turns, standing = camera_rays(views), surfaces.turns, surfaces.standing
        rotation = views.c2w[..., :3, :3]
        means = views.c2w[..., :3, 3, None, None] + depth * torch.einsum(
            "bvij,bvjhw->bvihw", rotation, ray
        )
        velocity = depth * torch.einsum("bvij,bvjhw->bvihw", rotation, flow)
        pixel = depth / views.intrinsics[..., :2].abs().prod(-1).sqrt()[..., None, None, None]
        size = FOOTPRINT * pixel
        size = size * torch.exp((pixels[:, :, 3:4] + detail[:, :, :1]).clamp(-4.0, 4.0))
        lasts = (turns.before * turns.after).sqrt()
        longer = torch.exp((pixels[:, :, 4:5] + detail[:, :, 1:2]).clamp(-3.0, 5.0))
        middle = views.time[..., None, None, None] + (turns.after - turns.before) / 4.0
        maps = (
            means,
            torch.where(standing, 0.0, velocity),
            torch.where(standing, 0.0, middle + 0.1 * lasts * pixels[:, :, 5:6]),
            torch.where(standing, torch.inf, LASTS * lasts * longer),
            torch.where(standing, ALONE * size, size),
            torch.sigmoid(OPAQUE + pixels[:, :, 6:7] + detail[:, :, 2:3]),
            (views.rgb + 0.1 * pixels[:, :, :3] - 0.5) / SH_C0,
        )
        pixel_filter = math.sqrt(self.projection.blur) * pixel
        kept = turns.kept[:, :, 0]
        return [
            merged(_of_maps(*of), kept[i], depth[i, :, 0], pixel_filter[i, :, 0], surfaces.side)
            for i, of in enumerate(zip(*maps, strict=True))
        ]

    def _upsampled(
        self, values: Float[Tensor, "b v t ccn"], hw: tuple[int, int]
    ) -> Float[Tensor, "b v n h w"]:
        coarse = unpatchify(
            values, (hw[0] // self.patch * CELLS, hw[1] // self.patch * CELLS), CELLS
        )
        fine = F.interpolate(coarse.flatten(0, 1), size=hw, mode="bilinear", align_corners=False)
        return fine.unflatten(0, coarse.shape[:2])


def _of_maps(means, velocities, times, durations, sizes, opacities, sh) -> Balls:
    """Maps [v c h w] of one sample as balls [v h w]."""
    times, durations, sizes, opacities = (t[:, 0] for t in (times, durations, sizes, opacities))
    means, velocities, sh = (t.movedim(1, -1) for t in (means, velocities, sh))
    return Balls(means, velocities, times, durations, sizes, opacities, sh[..., None, :])


class Detail(nn.Module):
    """Convolutions over a frame and what other frames show at the same places: per-pixel
    corrections and trust.
    """

    STRIDE = 2

    def __init__(self, references: int, width: int) -> None:
        super().__init__()
        channels = 3 + 5 * references + 1 + CONTEXT
        self.enter = nn.Conv2d(channels, width, kernel_size=3, stride=self.STRIDE, padding=1)
        self.body = ConvTrunk(width, 4)
        self.leave = zeroed(nn.Conv2d(width, DETAIL * self.STRIDE**2, 3, padding=1))

    def forward(self, rgb, samples, inside, gaps, rho, context) -> Float[Tensor, "b v 4 h w"]:
        """Corrections of inverse depth, log size, log duration and opacity logit; every input is a
        map [b v (k) c h w].
        """
        b, v, _, _, h, w = samples.shape
        off = (samples - rgb[:, :, None]) * inside
        slots = torch.cat(
            [off, inside, gaps[..., None, None, None].expand_as(inside)], dim=3
        ).flatten(2, 3)
        x = torch.cat(
            [rgb - 0.5, slots, torch.log(rho.clamp(*RHO_LIMITS)), context], dim=2
        ).flatten(0, 1)
        x = self.body(F.gelu(self.enter(x.contiguous(memory_format=torch.channels_last))))
        out = F.pixel_shuffle(self.leave(x).float(), self.STRIDE)
        return F.interpolate(out, size=(h, w), mode="nearest").view(b, v, DETAIL, h, w)
