"""The plain rasteriser: every splat against every pixel, in torch. Slow and short; the others are
tested against it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.gaussians.constants import LAST_TRANSMITTANCE, LEAST_ALPHA, MOST_ALPHA
from fsm.renderers.gaussians.types import Splats

# pixels composited at once: bounds memory, changes nothing
BLOCK = 4096


def composite(
    splats: Splats, hw: tuple[int, int]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Colour over black, alpha, and depth weighted by alpha (not divided by it)."""
    h, w = hw
    order = torch.argsort(splats.depths.detach(), stable=True)
    features = torch.cat(
        [splats.colours, torch.ones_like(splats.depths)[:, None], splats.depths[:, None]], -1
    )[order]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([x, y], -1).view(-1, 2).to(splats.centres) + 0.5
    out = torch.cat([_block(splats, order, features, block) for block in pixels.split(BLOCK)])
    image = out.T.reshape(5, h, w)
    return image[:3], image[3:4], image[4:5]


def _block(splats: Splats, order: Tensor, features: Tensor, pixels: Tensor) -> Float[Tensor, "p 5"]:
    dx, dy = (pixels[:, None] - splats.centres[order]).unbind(-1)
    xx, xy, yy = splats.conics[order].unbind(-1)
    sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (splats.opacities[order] * torch.exp(-sigma)).clamp_max(MOST_ALPHA)
    alpha = torch.where((sigma >= 0) & (alpha >= LEAST_ALPHA), alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1.0 - alpha, dim=1)
    # once a pixel is finished it stays so
    open_ = (after > LAST_TRANSMITTANCE).detach()
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    return (alpha * before * open_) @ features
