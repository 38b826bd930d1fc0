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
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import ViewTokens, unpatchify
from fsm.errors import InputError
from fsm.rays import pixel_rays
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.heads.gaussian_head import GaussianHead, gaussians_of_pixels
from fsm.views import Views

# xyz, time, colour, spatial scale, temporal scale, left, right, opacity
CHANNELS = (3, 1, 3, 3, 1, 4, 4, 1)


@dataclass(frozen=True)
class LrmHeadConfig:
    """Rules of the published Gaussian decoder."""

    kind: Literal["lrm"] = "lrm"
    """Which head this is."""
    variant: Literal["fsm", "4d-lrm"] = "fsm"
    """Whose rules make numbers of channels."""
    near: float | None = None
    """Nearest depth along the ray in model units; null is the variant's own."""
    far: float | None = None
    """Farthest depth along the ray in model units; null is the variant's own."""

    def __post_init__(self) -> None:
        near, far = self.depth_range
        if not 0 <= near < far:
            raise InputError(f"model config: near is {near} and far {far}; give 0 <= near < far.")

    @property
    def depth_range(self) -> tuple[float, float]:
        """Nearest and farthest depth along the ray."""
        near, far = (0.1, 4.5) if self.variant == "4d-lrm" else (0.0, 100.0)
        return near if self.near is None else self.near, far if self.far is None else self.far


class LrmHead(GaussianHead):
    """LayerNorm, linear to 20 channels per pixel, activations of a published variant."""

    config: LrmHeadConfig

    def __init__(self, dim: int, patch: int, config: LrmHeadConfig) -> None:
        super().__init__(dim, patch, config)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.linear = nn.Linear(dim, sum(CHANNELS) * patch**2, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def gaussians(self, tokens: ViewTokens, views: Views, inputs: Views) -> list[Gaussians4D]:
        """One Gaussian per pixel of ``views``; no other input is looked at."""
        channels = unpatchify(self.linear(self.norm(tokens)).float(), views.hw, self.patch)
        xyz, time, colour, scale, time_scale, left, right, opacity = channels.split(CHANNELS, dim=2)
        near, far = self.config.depth_range
        depth = near + torch.sigmoid(xyz.mean(2, keepdim=True)) * (far - near)
        origin, direction = pixel_rays(views)
        means = origin + depth * direction
        if self.config.variant == "4d-lrm":
            means = means.clamp(-1.0, 1.0)
            scale = torch.exp(scale - 2.3).clamp_max(0.3)
            time_scale = torch.exp(time_scale - 2.3).clamp_max(1.0)
            opacity = torch.sigmoid(opacity - 2.0)
        else:
            scale = torch.exp(scale.clamp_max(10.0))
            time_scale = torch.exp(time_scale.clamp_max(0.0))
            opacity = torch.sigmoid(opacity)
        return gaussians_of_pixels(means, time, scale, time_scale, left, right, opacity, colour)

    def background(self, inputs: Views) -> Float[Tensor, "b 3"]:
        """White, as published."""
        return inputs.c2w.new_ones(inputs.c2w.shape[0], 3)
