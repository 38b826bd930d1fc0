"""Networks that turn matching costs into depth: context, depth edges and learnt upsampling."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.renderers.convolution import ConvTrunk, zeroed

# Channels of picture features at half the resolution, alone and joined with those of a sweep.
EDGES, JOINED = 24, 32


class Hourglass(nn.Module):
    """Adds what is seen from farther away: one level of half the size for each of the widths
    ``wider``, and up again.
    """

    def __init__(self, width: int, wider: Sequence[int]) -> None:
        super().__init__()
        widths = [width, *wider]
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.bend = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in wider)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Of the size of ``x``, whatever it is."""
        levels = [x]
        for down, bend in zip(self.down, self.bend, strict=True):
            y = F.gelu(down(levels[-1]))
            levels.append(y + F.gelu(bend(y)))
        for up in reversed(self.up):
            below = up(levels.pop())
            levels[-1] = levels[-1] + resampled(below, levels[-1].shape[-2:])
        return levels[0] + F.gelu(self.last(levels[0]))


class EdgeRefinement(nn.Module):
    """Picture features at half the resolution: they enter a sweep at a quarter of it, and sharpen
    its answer at depth edges.
    """

    def __init__(self, width: int, planes: int) -> None:
        super().__init__()
        self.draw = nn.ModuleList(
            [nn.Conv2d(3, EDGES, 4, stride=2, padding=1), nn.Conv2d(EDGES, EDGES, 3, padding=1)]
        )
        self.enter = nn.Conv2d(EDGES, width, 4, stride=2, padding=1)
        self.join = nn.Conv2d(width + EDGES, JOINED, 1)
        self.body = ConvTrunk(JOINED, 2)
        self.leave = zeroed(nn.Conv2d(JOINED, planes, 3, padding=1))

    def edges(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c _h _w"]:
        """Features of pictures at half their size."""
        x = (pictures - 0.5).contiguous(memory_format=torch.channels_last)
        for layer in self.draw:
            x = F.gelu(layer(x))
        return x

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        logits: Float[Tensor, "n d h w"],
        edges: Float[Tensor, "n k _h _w"],
    ) -> tuple[Float[Tensor, "n j _h _w"], Float[Tensor, "n d _h _w"]]:
        """Features and logits at the size of ``edges``."""
        x, logits = (resampled(t, edges.shape[-2:]) for t in (x, logits))
        x = self.body(F.gelu(self.join(torch.cat([x, edges], dim=1))))
        return x, logits + self.leave(x).float()


class ConvexUpsampling(nn.Module):
    """Every fine pixel is a mean of the nine coarse ones about it, by learnt weights (RAFT 2020):
    depth edges stay sharp. Untrained it is bilinear.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weights = zeroed(nn.Conv2d(width, 9 * stride**2, 3, padding=1))
        assert self.weights.bias is not None
        offset = (torch.arange(stride) + 0.5) / stride - 0.5
        # [neighbour, pixel]
        axis = torch.stack([(-offset).clamp_min(0.0), 1.0 - offset.abs(), offset.clamp_min(0.0)])
        bilinear = torch.einsum("ny,mx->nmyx", axis, axis)
        with torch.no_grad():
            self.weights.bias.copy_((bilinear + 1e-4).log().flatten())

    def forward(
        self, coarse: Float[Tensor, "n 1 h w"], x: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n 1 _h _w"]:
        """``coarse`` at ``stride`` times the size, by weights read from ``x``."""
        h, w = coarse.shape[-2:]
        weights = torch.softmax(self.weights(x).float().unflatten(1, (9, -1)), dim=1)
        around = F.unfold(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), 3)
        around = around.view(len(coarse), 9, 1, h, w)
        return F.pixel_shuffle((weights * around).sum(1), self.stride)


def resampled(x: Float[Tensor, "n c h w"], hw: Sequence[int]) -> Float[Tensor, "n c _h _w"]:
    """Bilinear, with half-pixel centres."""
    if tuple(x.shape[-2:]) == tuple(hw):
        return x
    return F.interpolate(x, size=tuple(hw), mode="bilinear", align_corners=False)
