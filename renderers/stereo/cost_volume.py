"""The depth of a frame from the frames themselves: sweep planes, see where they agree.

At a quarter of the resolution every pixel of a view tries a fixed set of inverse depths; for each
the chosen references are sampled and compared with the view's own picture. Where they agree the
surface probably is; what hides it from some frames, or moves, leaves the nearer half of them in
agreement (Kang et al. 2001). Convolutions at several resolutions, which also see the picture and
the colours found at the likeliest depth, turn agreement into weights over the hypotheses; the
picture at half the resolution says where one surface ends and another begins. A second sweep may
then try a few inverse depths about the first one's answer at half the resolution. Classic
multi-view stereo (Collins 1996; MVSNet 2018; coarse to fine as in CasMVSNet 2020; the picture's own
features beside the costs as in SimpleRecon 2022; learnt upsampling as in RAFT 2020).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsm.renderers.stereo.sources import averaged, plane_pixels, sample_frames
from fsm.views import Views, resize_images

# of the maps that are compared; how many compiled code knows
COLOURS, FEATURES, MOST_CHANNELS = 3, 12, 16
# of a hypothesis: colours and features, each by the nearer half of the references and by all of
# them
COSTS = 4
UNSEEN = 0.2  # cost where no reference sees a point
# Channels of a look: what stereo alone would render, how far frames differ there, the own picture.
LOOK = 2 * COLOURS + 1
# features of the picture at half the resolution, alone and with what a sweep found
LINES, OUTLINES = 24, 32
# Inverse depths in model units: from one to the other in equal ratios, and infinity.
NEAREST, FARTHEST = 2.5, 2.5 / 1.4**16
REACH = 0.3  # share of the first answer by which a second sweep may correct it
# Sides of the squares over which agreement is averaged: one keeps outlines, the other bridges plain
# walls.
WINDOWS = (3, 7)
SHARPNESS = 2000.0  # of agreement, in colours from 0 to 1
# share of every hypothesis that no disagreement can take away: convolutions may have seen what
# hides it
DOUBT = 1e-4
# Logit by which a plane is less likely than the next farther one: where nothing tells, far does
# less harm.
FAR_BIAS = 0.2


class Swept(NamedTuple):
    """What a sweep found out about its views."""

    rho: Float[Tensor, "b v 1 h w"]
    """Inverse depth at full resolution, model units."""
    logits: Float[Tensor, "b v d _h _w"]
    """Of the hypotheses, at the resolution at which they were weighed."""
    tried: Float[Tensor, "*bv d hd wd"]
    """Their inverse depths, rising: whole planes [d 1 1], or those of each pixel."""


class PlaneSweep(nn.Module):
    """Expected inverse depth of every pixel of a view over ``planes`` hypotheses, model units.

    A sweep with ``about`` tries inverse depths around an answer it is given, others the whole
    range.
    """

    hypotheses: Tensor

    def __init__(self, planes: int, *, stride: int = 4, about: bool = False) -> None:
        super().__init__()
        width, *wider = (48, 64, 64) if about else (64, 96, 128, 128)
        self.stride = stride
        ratio = (NEAREST / FARTHEST) ** (1.0 / max(1, planes - 2))
        everywhere = [0.0] + [NEAREST * ratio**-i for i in reversed(range(planes - 1))]
        tried = torch.linspace(-REACH, REACH, planes) if about else torch.tensor(everywhere)
        self.register_buffer("hypotheses", tried, persistent=False)
        self.features = nn.Sequential(
            nn.Conv2d(3, 2 * FEATURES, kernel_size=2 * stride, stride=stride, padding=stride // 2),
            nn.GELU(),
            nn.Conv2d(2 * FEATURES, 2 * FEATURES, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * FEATURES, FEATURES, 3, padding=1),
        )
        # how much finer than the planes the colours are looked at
        self.detail = stride if about else 1
        self.enter = nn.Conv2d((1 + COSTS) * planes + LOOK * self.detail**2, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.wide = Hourglass(width, wider)
        self.leave = nn.Conv2d(width, planes, 3, padding=1)
        self.outlines = None if about else Outlines(width, planes)
        self.upsampling = ConvexUpsampling(width if about else OUTLINES, 2)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        # Untrained, it is plain stereo: weights from colour agreement alone.
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        views: Views,
        references: Views,
        chosen: Int[Tensor, "b v k"],
        about: Float[Tensor, "b v 1 h w"] | None = None,
    ) -> Swept:
        """The depth of ``views``, which have pictures; ``about`` is the answer to correct."""
        coarse = (views.hw[0] // self.stride, views.hw[1] // self.stride)
        small = views.without_rgb().resized(coarse)
        # the cost must not grow with the length of the clip
        used, chosen = chosen.unique(return_inverse=True)
        references = references[used]
        size = (references.hw[0] // self.stride, references.hw[1] // self.stride)
        tried = self.hypotheses[:, None, None]
        if about is not None:
            about = resize_images(about, coarse)
            tried = tried * (about.detach() + FARTHEST)  # beyond infinity, too: it costs nothing
        maps, own = self._maps(references, size), self._maps(views, coarse)
        at = tried if about is None else tried + about
        costs = disagreement(small, references.without_rgb().resized(size), maps, own, chosen, at)
        with torch.no_grad():
            agreement = -SHARPNESS * torch.stack(
                [averaged(costs[:, :, :, 0], side) for side in WINDOWS]
            ).mean(0)
            if about is None:
                agreement = (
                    agreement
                    - FAR_BIAS * torch.arange(len(tried), device=tried.device)[:, None, None]
                )
        alone = torch.softmax(self.sharpness * agreement, 2)
        look = self._look(views, references, chosen, self._expected(alone, tried, about))
        seen = torch.cat([alone, *(10.0 * costs).unbind(3), look], dim=2)
        x, logits = self._weighed(seen.flatten(0, 1), (alone + DOUBT).log().flatten(0, 1), views)
        rho = self._expected(torch.softmax(logits, 1).unflatten(0, seen.shape[:2]), tried, about)
        full = self.upsampling(rho.flatten(0, 1), x)
        if full.shape[-2:] != views.hw:  # sides that the stride does not divide
            full = F.interpolate(full, size=views.hw, mode="bilinear", align_corners=False)
        return Swept(
            full.unflatten(0, seen.shape[:2]), logits.unflatten(0, seen.shape[:2]), at.detach()
        )

    def _weighed(
        self, seen: Float[Tensor, "n c h w"], before: Float[Tensor, "n d h w"], views: Views
    ):
        """Features and logits [n d _h _w] over the hypotheses, from those ``before`` anything is
        learnt; at half the resolution.
        """
        # a CPU convolves it half again as fast
        x = self.enter(seen.contiguous(memory_format=torch.channels_last))
        lines = None
        if self.outlines is not None:
            lines = self.outlines.lines(views)
            x = x + self.outlines.enter(lines)
        x = F.gelu(x)
        for layer in self.body:
            x = x + F.gelu(layer(x))
        x = self.wide(x)
        logits = self.leave(x).float() + before
        return (
            (x, logits)
            if self.outlines is None or lines is None
            else self.outlines(x, logits, lines)
        )

    @staticmethod
    def _expected(
        weights: Tensor, tried: Tensor, about: Tensor | None
    ) -> Float[Tensor, "b v 1 h w"]:
        """Mean over the hypotheses; over the whole range by ratio, or one near plane would outweigh
        all far ones.
        """
        if about is None:
            return (weights * (tried + FARTHEST).log()).sum(2, keepdim=True).exp() - FARTHEST
        return about + (weights * tried).sum(2, keepdim=True)

    @torch.no_grad()
    def _look(
        self, views: Views, references: Views, chosen: Tensor, rho: Tensor
    ) -> Float[Tensor, "b v c h w"]:
        """What the references show at ``rho``, which is the view as stereo alone knows it; how far
        they differ; its own picture.
        """
        h, w = rho.shape[-2:]
        fine = (self.detail * h, self.detail * w)
        full = F.interpolate(
            rho.flatten(0, 1), size=fine, mode="bilinear", align_corners=False
        ).view(*rho.shape[:3], *fine)
        scale = self.stride // self.detail
        references = references.resized((references.hw[0] // scale, references.hw[1] // scale))
        assert references.rgb is not None
        pixels = plane_pixels(views.without_rgb().resized(fine), references, chosen, full)[
            :, :, :, 0
        ]
        mean, spread = _common(*sample_frames(references.rgb, chosen, pixels))
        own = views.resized(fine).rgb
        assert own is not None
        found = torch.cat([mean - 0.5, 5.0 * spread.mean(2, keepdim=True), own - 0.5], dim=2)
        return F.pixel_unshuffle(found.flatten(0, 1), self.detail).unflatten(0, rho.shape[:2])

    def _maps(self, views: Views, hw: tuple[int, int]) -> Float[Tensor, "b n c h w"]:
        """Pictures at low resolution: colours, then learnt features."""
        assert views.rgb is not None
        frames = views.rgb.flatten(0, 1)
        learnt = torch.tanh(
            self.features((frames - 0.5).contiguous(memory_format=torch.channels_last)).float()
        )
        if learnt.shape[-2:] != hw:
            learnt = F.interpolate(learnt, size=hw, mode="bilinear", align_corners=False)
        return torch.cat([resize_images(frames, hw), learnt], dim=1).unflatten(
            0, views.c2w.shape[:2]
        )


class Outlines(nn.Module):
    """The lines of the picture at half the resolution: they enter a sweep at a quarter of it, and
    cut its answer to shape.
    """

    def __init__(self, width: int, planes: int) -> None:
        super().__init__()
        self.draw = nn.ModuleList(
            [nn.Conv2d(3, LINES, 4, stride=2, padding=1), nn.Conv2d(LINES, LINES, 3, padding=1)]
        )
        self.enter = nn.Conv2d(LINES, width, 4, stride=2, padding=1)
        self.join = nn.Conv2d(width + LINES, OUTLINES, 1)
        self.body = nn.ModuleList(nn.Conv2d(OUTLINES, OUTLINES, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(OUTLINES, planes, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def lines(self, views: Views) -> Float[Tensor, "n c _h _w"]:
        """Features of the pictures at half their size."""
        assert views.rgb is not None
        x = (views.rgb.flatten(0, 1) - 0.5).contiguous(memory_format=torch.channels_last)
        for layer in self.draw:
            x = F.gelu(layer(x))
        return x

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        logits: Float[Tensor, "n d h w"],
        lines: Float[Tensor, "n k _h _w"],
    ):
        """Features and logits at the size of ``lines``."""
        x, logits = (
            F.interpolate(t, lines.shape[-2:], mode="bilinear", align_corners=False)
            for t in (x, logits)
        )
        x = F.gelu(self.join(torch.cat([x, lines], dim=1)))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        return x, logits + self.leave(x).float()


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
            levels[-1] = levels[-1] + F.interpolate(
                below, size=levels[-1].shape[-2:], mode="bilinear", align_corners=False
            )
        return levels[0] + F.gelu(self.last(levels[0]))


class ConvexUpsampling(nn.Module):
    """Every fine pixel is a mean of the nine coarse ones about it, by learnt weights: outlines stay
    sharp; untrained, bilinear.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weights = nn.Conv2d(width, 9 * stride**2, 3, padding=1)
        nn.init.zeros_(self.weights.weight)
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
        around = F.unfold(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), 3).view(
            len(coarse), 9, 1, h, w
        )
        return F.pixel_shuffle((weights * around).sum(1), self.stride)


def _common(samples: Float[Tensor, "b v k c h w"], inside: Float[Tensor, "b v k 1 h w"]):
    """Mean over the references that see a point, and their mean distance from it: [b v c h w]
    each.
    """
    count = inside.sum(2)
    mean = (samples * inside).sum(2) / count.clamp_min(1.0)
    return mean, ((samples - mean[:, :, None]).abs() * inside).sum(2) / count.clamp_min(1.0)


def disagreement(
    requests: Views,
    cameras: Views,
    maps: Float[Tensor, "b n c hn wn"],
    own: Float[Tensor, "b v c h w"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v d 4 h w"]:
    """Mean distance of the references that see the point from the request's ``own`` map, at each of
    the inverse depths.

    In colours of the nearer half (rounded up) of those references, in colours of all, in features
    of the nearer half, of all. ``rho`` is [d 1 1], whole planes, or each pixel's [b v d h w], and a
    constant for autograd. The first three channels of the maps are colours. Float32 on the CPU is
    computed by compiled code, all else by ``plain_disagreement``.
    """
    given = (maps, own, rho, cameras.c2w, cameras.intrinsics, requests.c2w, requests.intrinsics)
    fits = (
        maps.device.type == "cpu"
        and maps.shape[2] <= MOST_CHANNELS
        and all(t.dtype == torch.float32 for t in given)
    )
    if fits and not (torch.is_grad_enabled() and any(t.requires_grad for t in given[3:])):
        from fsm.renderers.stereo.cost_volume_cpu import disagreement_on_cpu

        return disagreement_on_cpu(requests, cameras, maps, own, chosen, rho)
    return plain_disagreement(requests, cameras, maps, own, chosen, rho)


def plain_disagreement(
    requests: Views,
    cameras: Views,
    maps: Float[Tensor, "b n c hn wn"],
    own: Float[Tensor, "b v c h w"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v d 4 h w"]:
    """``disagreement`` in torch, on any device and in any precision."""
    pixels = plane_pixels(requests, cameras, chosen, rho.detach())
    d, h = pixels.shape[3:5]
    # the planes below one another
    samples, inside = sample_frames(maps, chosen, pixels.flatten(3, 4))
    far = (samples.unflatten(-2, (d, h)) - own[:, :, None, :, None]).abs()
    seen = inside.unflatten(-2, (d, h))[:, :, :, 0] > 0.0
    count, costs = seen.sum(2), []
    for group in (far[:, :, :, :COLOURS], far[:, :, :, COLOURS:]):
        ranked = torch.where(seen, group.mean(3), torch.inf).sort(dim=2, stable=True).values
        place = torch.arange(ranked.shape[2], device=ranked.device)[:, None, None, None]
        for number in ((count + 1) // 2, count):
            mean = torch.where(place < number[:, :, None], ranked, 0.0).sum(2) / number.clamp_min(1)
            costs.append(torch.where(count > 0, mean, UNSEEN))
    return torch.stack(costs, 3)
