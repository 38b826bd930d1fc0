"""A first guess of depth from the reference frames themselves: sweep planes, see where the frames agree.

At a quarter of the resolution every target pixel tries a fixed set of inverse depths; for each the chosen references are
sampled and compared. Where they agree the surface probably is. A few convolutions, which also see what the memory has to
say, turn agreement into weights over the hypotheses. A second sweep may then try a few inverse depths about the first
one's answer at half the resolution. Classic multi-view stereo (Collins 1996; MVSNet 2018; coarse to fine as in CasMVSNet 2020).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsm.renderers.reference_sampling import averaged, plane_pixels, sample_frames
from fsm.views import Views, resize_images

COLOURS, FEATURES, MOST_CHANNELS = 3, 8, 16  # of the maps that are compared; how many compiled code knows
UNSEEN = 0.2  # disagreement where fewer than two references see a point
# Inverse depths in model units: from one to the other in equal ratios, and infinity.
NEAREST, FARTHEST = 2.5, 2.5 / 1.4**14
REACH = 0.3  # share of the first answer by which a second sweep may correct it
WINDOWS = (
    5,
    13,
)  # sides of the squares over which agreement is averaged: one keeps outlines, the other bridges plain walls
SHARPNESS = 1000.0  # of agreement, in colours from 0 to 1
FAR_BIAS = (
    0.2  # logit by which a plane is less likely than the next farther one: where nothing tells, far does less harm
)


class PlaneSweep(nn.Module):
    """Expected inverse depth of every target pixel over ``planes`` hypotheses, model units.

    A sweep with ``about`` tries inverse depths around an answer it is given, others the whole range.
    """

    hypotheses: Tensor

    def __init__(self, planes: int, context: int, *, stride: int = 4, about: bool = False, width: int = 48) -> None:
        super().__init__()
        self.stride = stride
        ratio = (NEAREST / FARTHEST) ** (1.0 / max(1, planes - 2))
        everywhere = [0.0] + [NEAREST * ratio**-i for i in reversed(range(planes - 1))]
        tried = torch.linspace(-REACH, REACH, planes) if about else torch.tensor(everywhere)
        self.register_buffer("hypotheses", tried, persistent=False)
        self.features = nn.Conv2d(3, FEATURES, kernel_size=2 * stride, stride=stride, padding=stride // 2)
        self.enter = nn.Conv2d(2 * planes + context, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.leave = nn.Conv2d(width, planes, 3, padding=1)
        self.sharpness = nn.Parameter(torch.tensor(1.0))
        # Untrained, it is plain stereo: weights from colour agreement alone.
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        with torch.no_grad():
            self.leave.bias.copy_(0.0 * tried if about else -FAR_BIAS * torch.arange(planes))

    def forward(
        self,
        requests: Views,
        references: Views,
        chosen: Int[Tensor, "b v k"],
        context: Float[Tensor, "b v c h w"],
        about: Float[Tensor, "b v 1 h w"] | None = None,
    ) -> Float[Tensor, "b v 1 h w"]:
        """Inverse depth at full resolution; ``context`` is what the tokens pass on, ``about`` the answer to correct."""
        coarse = (requests.hw[0] // self.stride, requests.hw[1] // self.stride)
        small = requests.without_rgb().resized(coarse)
        used, chosen = chosen.unique(return_inverse=True)  # the cost must not grow with the length of the clip
        references = references[used]
        size = (references.hw[0] // self.stride, references.hw[1] // self.stride)
        tried = self.hypotheses[:, None, None]
        if about is not None:
            about = resize_images(about, coarse)
            tried = tried * (about.detach() + FARTHEST)  # beyond infinity, too: it costs nothing
        maps = self._maps(references, size)
        at = tried if about is None else tried + about
        colours, features = disagreement(small, references.without_rgb().resized(size), maps, chosen, at).unbind(3)
        with torch.no_grad():
            agreement = -SHARPNESS * torch.stack([averaged(colours, side) for side in WINDOWS]).mean(0)
        agreement = self.sharpness * agreement
        seen = torch.cat([torch.softmax(agreement, 2), 10.0 * features, resize_images(context, coarse)], dim=2)
        x = F.gelu(self.enter(seen.flatten(0, 1)))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        weights = torch.softmax(self.leave(x).float().unflatten(0, seen.shape[:2]) + agreement, dim=2)
        if about is None:  # averaged by ratio, or one near plane would outweigh all far ones
            rho = (weights * (tried + FARTHEST).log()).sum(2, keepdim=True).exp() - FARTHEST
        else:
            rho = about + (weights * tried).sum(2, keepdim=True)
        full = F.interpolate(rho.flatten(0, 1), size=requests.hw, mode="bilinear", align_corners=False)
        return full.unflatten(0, seen.shape[:2])

    def _maps(self, references: Views, hw: tuple[int, int]) -> Float[Tensor, "b n c h w"]:
        """The references at low resolution: colours, then learnt features."""
        assert references.rgb is not None
        frames = references.rgb.flatten(0, 1)
        learnt = torch.tanh(self.features(frames - 0.5).float())
        learnt = F.interpolate(learnt, size=hw, mode="bilinear", align_corners=False)
        return torch.cat([resize_images(frames, hw), learnt], dim=1).unflatten(0, references.c2w.shape[:2])


def disagreement(
    requests: Views,
    cameras: Views,
    maps: Float[Tensor, "b n c hn wn"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v d 2 h w"]:
    """Spread of colours and of features over the references that see the point, at each of the inverse depths.

    ``rho`` is [d 1 1], whole planes, or each pixel's [b v d h w], and a constant for autograd. The first three channels of
    ``maps`` are colours. Float32 on the CPU is computed by compiled code, all else by ``plain_disagreement``.
    """
    given = (maps, rho, cameras.c2w, cameras.intrinsics, requests.c2w, requests.intrinsics)
    fits = maps.device.type == "cpu" and maps.shape[2] <= MOST_CHANNELS and all(t.dtype == torch.float32 for t in given)
    if fits and not (torch.is_grad_enabled() and any(t.requires_grad for t in given[2:])):
        from fsm.renderers.sweep_cpu import disagreement_on_cpu

        return disagreement_on_cpu(requests, cameras, maps, chosen, rho)
    return plain_disagreement(requests, cameras, maps, chosen, rho)


def plain_disagreement(
    requests: Views,
    cameras: Views,
    maps: Float[Tensor, "b n c hn wn"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v d 2 h w"]:
    """``disagreement`` in torch, on any device and in any precision."""
    pixels = plane_pixels(requests, cameras, chosen, rho.detach())
    d, h = pixels.shape[3:5]
    samples, inside = sample_frames(maps, chosen, pixels.flatten(3, 4))  # the planes below one another
    count = inside.sum(2)
    mean = (samples * inside).sum(2) / count.clamp_min(1.0)
    spread = ((samples - mean[:, :, None]).abs() * inside).sum(2) / count.clamp_min(1.0)
    unseen = UNSEEN * (count < 2.0).float()  # one witness proves nothing
    groups = [spread[:, :, :COLOURS].mean(2, keepdim=True), spread[:, :, COLOURS:].mean(2, keepdim=True)]
    return (torch.cat(groups, dim=2) + unseen).unflatten(3, (d, h)).transpose(2, 3)
