"""The Gaussian decoder as published (FSM-LRM, arXiv 2604.07350; 4D-LRM, arXiv 2506.18890): one 4D
Gaussian per input pixel.

Copies of the input views (rays, time *and* pixels) read the finished memory as apply-only tokens; a
linear layer makes 20 channels per pixel of them. Variants differ in how channels become numbers:

| | fsm | 4d-lrm |
|---|---|---|
| depth along the unit ray | near + σ(mean xyz) (far - near), 0 to 100 | 0.1 to 4.5 |
| centre | as it is | held to [-1, 1]³ |
| opacity | σ(g) | σ(g - 2) |
| spatial scale | exp(min(g, 10)) | min(exp(g - 2.3), 0.3) |
| temporal scale | exp(min(g, 0)) | min(exp(g - 2.3), 1) |

``pixel`` is ours (``fsm.renderers.heads.pixel_gaussians``).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import unpatchify
from fsm.errors import InputError
from fsm.rays import pixel_rays
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.types import GSPLAT, Projection
from fsm.views import Views

# xyz, time, colour, spatial scale, temporal scale, left, right, opacity
CHANNELS = (3, 1, 3, 3, 1, 4, 4, 1)


@dataclass(frozen=True)
class GaussianHeadConfig:
    """Shape and rules of the Gaussian decoder."""

    variant: Literal["fsm", "4d-lrm", "pixel"] = "pixel"
    """Published rules, or ours: start on the input pixel, at the depth where the frames agree."""
    near: float | None = None
    """Nearest depth along the ray in model units (fsm, 4d-lrm); null is the variant's own."""
    far: float | None = None
    """Farthest depth along the ray in model units (fsm, 4d-lrm); null is the variant's own."""
    hidden: int = 256
    """Width of the hidden layer (pixel)."""
    references: int = 4
    """Input frames that each frame is compared with (pixel)."""
    planes: int = 32
    """Inverse depths the plane sweep tries (pixel)."""
    fine_planes: int = 8
    """Inverse depths a second sweep tries about the first one's answer, at half the resolution
    (pixel).
    """
    detail_width: int = 32
    """Channels of the convolutions that look at the comparison (pixel)."""

    def __post_init__(self) -> None:
        for name, least in (
            ("hidden", 1),
            ("references", 2),
            ("planes", 2),
            ("fine_planes", 2),
            ("detail_width", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least {least}."
                )
        near, far = self.depth_range
        if not 0 <= near < far:
            raise InputError(f"model config: near is {near} and far {far}; give 0 <= near < far.")

    @property
    def depth_range(self) -> tuple[float, float]:
        """Nearest and farthest depth along the ray of a published variant."""
        near, far = (0.1, 4.5) if self.variant == "4d-lrm" else (0.0, 100.0)
        return near if self.near is None else self.near, far if self.far is None else self.far

    @property
    def projection(self) -> Projection:
        """How the Gaussians are meant to be drawn: pixel-sized ones blur under the usual pixel
        filter of 0.3 px².
        """
        return Projection(blur=0.1) if self.variant == "pixel" else GSPLAT


class GaussianHead(nn.Module):
    """LayerNorm, linear to 20 channels per pixel, activations of a published variant."""

    uses_references = True

    def __init__(self, dim: int, patch: int, config: GaussianHeadConfig) -> None:
        super().__init__()
        self.config, self.patch = config, patch
        self.norm = nn.LayerNorm(dim, bias=False)
        self.linear = nn.Linear(dim, sum(CHANNELS) * patch**2, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "b v t d"], views: Views, inputs: Views
    ) -> list[Gaussians4D]:
        """Gaussians of every batch entry, model space; ``tokens`` are those of ``views`` [b v],
        some or all of ``inputs`` [b n].
        """
        channels = unpatchify(self.linear(self.norm(tokens)).float(), views.hw, self.patch)
        xyz, time, colour, scale, time_scale, left, right, opacity = channels.split(CHANNELS, dim=2)
        near, far = self.config.depth_range
        depth = near + torch.sigmoid(xyz.mean(2, keepdim=True)) * (far - near)
        origin, direction = pixel_rays(views)
        means = origin + depth * direction
        if self.config.variant == "4d-lrm":
            means = means.clamp(-1.0, 1.0)
            scale = torch.exp(scale - 2.3).clamp_max(0.3)
            time_scale, opacity = (
                torch.exp(time_scale - 2.3).clamp_max(1.0),
                torch.sigmoid(opacity - 2.0),
            )
        else:
            scale, time_scale = (
                torch.exp(scale.clamp_max(10.0)),
                torch.exp(time_scale.clamp_max(0.0)),
            )
            opacity = torch.sigmoid(opacity)
        return gaussians_of_pixels(means, time, scale, time_scale, left, right, opacity, colour)

    def background(self, inputs: Views) -> Float[Tensor, "b 3"]:
        """White, as published."""
        return inputs.c2w.new_ones(inputs.c2w.shape[0], 3)


def gaussians_of_pixels(*maps: Float[Tensor, "b v _ h w"]) -> list[Gaussians4D]:
    """One set per batch entry from maps of means, times, scales, time scales, left, right,
    opacities, degree-0 harmonics.
    """
    flat = [m.permute(0, 1, 3, 4, 2).flatten(1, 3) for m in maps]  # [b n c]
    means, time, scale, time_scale, left, right, opacity, sh = flat
    return [
        Gaussians4D(
            means[i],
            time[i, :, 0],
            scale[i],
            time_scale[i, :, 0],
            left[i],
            right[i],
            opacity[i, :, 0],
            sh[i][:, None],
        )
        for i in range(means.shape[0])
    ]
