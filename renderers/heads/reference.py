"""The reference head: an extension of ours to the direct decoder that copies pixels instead of
inventing them.

For every target pixel, and for each of the K input frames nearest in time and pose, the head
predicts where to look in that frame and how much to trust what it finds; the output is the softmax
blend of the sampled pixels and a directly predicted colour. Released weights do not have it.

Where to look (``sampling``):

* ``depth``: an inverse depth ρ, an angular motion m and a small residual flow. The target pixel's
  ray r (z-depth one) seen from a reference with centre c_k at time t_k is  r + ρ (o - c_k) + m (t_k
  - t),  projected into the reference; at ρ = 0 this is the exact homography of a turning camera.
* ``offset``: a free offset in pixels per reference.

Geometry is predicted on a grid of ``cells`` per patch side and upsampled, because depth and motion
are smooth; colours and blending weights are predicted per pixel, because occlusion edges are not.
The tokens correct a first guess of ρ: the depth that plane sweeps find for the frames
(``fsm.renderers.stereo.pipeline``), carried to the target
(``fsm.renderers.stereo.forward_warp``). Its own depth then says what is hidden from which frame
(``fsm.renderers.stereo.occlusion``), and what moves is followed through time where that makes
the frames agree better (``fsm.renderers.stereo.motion``). A few convolutions (``Refinement``)
then look at what was fetched and correct positions and weights, coarse to fine; a few more
(``Synthesis``) correct the colours of the blend.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsm.encoder import unpatchify
from fsm.errors import InputError
from fsm.renderers.stereo.cost_volume import FARTHEST
from fsm.renderers.stereo.forward_warp import reprojected
from fsm.renderers.stereo.motion import belief, motion_guess
from fsm.renderers.stereo.occlusion import visible
from fsm.renderers.stereo.pipeline import Stereo
from fsm.renderers.stereo.sources import (
    META,
    nearest_references,
    pixel_grid,
    reference_meta,
    sample_frames,
    time_gaps,
    warped_pixels,
)
from fsm.views import Rendering, Views

CONTEXT = 8  # channels the tokens pass on to the refinement
RHO_SCALE = 0.5  # share of the inverse depth per unit of the geometry layer's output
NEAREST_TO_INFINITY = 1e-3  # inverse depths below this are reported as this far away
OUTSIDE = -8.0  # logit of a sample that falls outside its frame or behind its camera


@dataclass(frozen=True)
class ReferenceHeadConfig:
    """Shape of the reference head."""

    references: int = 4
    """K, input frames looked at per target."""
    sampling: Literal["depth", "offset"] = "depth"
    """How sample positions are parametrised."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    cells: int = 2
    """Grid points of the geometry per patch side."""
    planes: int = 32
    """Inverse depths the plane sweep tries (sampling depth only); 0 turns it off."""
    fine_planes: int = 8
    """Inverse depths a second sweep tries about the first one's answer, at half the resolution; 0
    turns it off.
    """
    occlusion: bool = True
    """Count less what the target's own depth says to be hidden from a reference (sampling depth
    only).
    """
    motion_guess: bool = True
    """Align the samples along straight paths through time before anything learnt looks at them."""
    refinements: tuple[int, ...] = (4, 2)
    """Pixel strides at which the fetched samples are looked at and corrected, in this order; empty
    turns it off.
    """
    refinement_width: int = 48
    """Channels of the refinement's convolutions."""
    synthesis_width: int = 48
    """Channels of the convolutions that correct the blended colours; 0 turns them off."""

    def __post_init__(self) -> None:
        for name in ("references", "hidden", "cells", "refinement_width"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least 1."
                )
        if any(stride < 1 for stride in self.refinements):
            raise InputError(
                f"model config: refinements is {self.refinements}; strides must be at least 1."
            )
        if self.planes < 0 or self.planes == 1:
            raise InputError(
                f"model config: planes is {self.planes}; choose 0 (no sweep) or at least 2."
            )
        if self.fine_planes < 0 or self.fine_planes == 1 or (self.fine_planes and not self.planes):
            raise InputError(
                f"model config: fine_planes is {self.fine_planes}; choose 0 or at least 2, "
                "and 0 without planes."
            )
        if self.synthesis_width < 0:
            raise InputError(
                f"model config: synthesis_width is {self.synthesis_width}; choose 0 (none) or more."
            )


class ReferenceHead(nn.Module):
    """Softmax blend of K sampled input pixels and a predicted colour, per target pixel."""

    uses_references = True

    def __init__(self, dim: int, patch: int, config: ReferenceHeadConfig) -> None:
        super().__init__()
        self.config, self.patch = config, patch
        cells = config.cells**2
        self.norm = nn.LayerNorm(dim, bias=False)
        self.shared = nn.Linear(dim, config.hidden)
        self.colour = nn.Linear(config.hidden, 4 * patch**2)  # rgb and its blending logit
        self.geometry = nn.Linear(config.hidden, 4 * cells)  # ρ, m
        self.slot_token = nn.Linear(dim, config.hidden)
        self.slot_meta = nn.Linear(META, config.hidden)
        self.slot_flow = nn.Linear(config.hidden, 2 * cells)
        self.slot_logit = nn.Linear(config.hidden, patch**2)
        self.context = nn.Linear(config.hidden, CONTEXT * cells)
        self.refinements: list[Refinement] = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            Refinement(config.references, config.refinement_width, stride)
            for stride in config.refinements
        )
        swept = config.sampling == "depth" and config.planes > 0
        self.stereo = (
            Stereo(config.references, config.planes, config.fine_planes) if swept else None
        )
        width = config.synthesis_width
        self.synthesis = Synthesis(config.references, width) if width else None
        self.nearness = nn.Parameter(torch.tensor(2.0))
        self.occluded = nn.Parameter(torch.tensor(4.0))
        # Start as a rotation-compensated blend of the nearest frames: every predicted correction is
        # zero.
        for layer in (self.geometry, self.slot_flow, self.slot_logit):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def looked_at(self, requests: Views, references: Views) -> Int[Tensor, " m"]:
        """Which of the ``references`` any of the targets looks at, in order: all that ``forward``
        has to be given.
        """
        return nearest_references(requests, references, self.config.references)[0].unique()

    def inverse_depth(self, references: Views, which: int) -> Float[Tensor, "b 1 1 h w"]:
        """Inverse depth of one of the ``references`` [b n] (model space), the same for every
        target; zero without stereo.
        """
        if self.stereo is None:
            return references.c2w.new_zeros(references.c2w.shape[0], 1, 1, *references.hw)
        return self.stereo.inverse_depth(references[[which]], references)

    def forward(
        self,
        tokens: Float[Tensor, "b v t d"],
        requests: Views,
        references: Views | None,
        inverse_depths: Float[Tensor, "b n 1 h w"] | None = None,
    ) -> Rendering:
        """Blend samples of ``references`` (observed inputs [b n], model space); depth only where
        ``sampling`` is depth.

        ``inverse_depths`` are those of the references; without them they are found for those which
        are looked at.
        """
        if references is None or references.rgb is None:
            raise InputError(
                "the reference head needs the input frames; they are missing from this scene."
            )
        chosen, distance = nearest_references(requests, references, self.config.references)
        x = self.norm(tokens)
        hidden = F.gelu(self.shared(x))
        colour = unpatchify(self.colour(hidden).float(), requests.hw, self.patch)
        slot = F.gelu(
            self.slot_token(x)[:, :, None]
            + self.slot_meta(reference_meta(requests, references, chosen, distance))[:, :, :, None]
        )
        context = self._upsampled(self.context(hidden).float(), requests.hw)
        first_guess = self._first_guess(requests, references, chosen, inverse_depths)
        pixels, inverse_depth = self._positions(
            hidden, slot, requests, references, chosen, first_guess
        )
        gaps = time_gaps(requests, references, chosen)
        seen = torch.ones_like(pixels[..., 0])[:, :, :, None]
        if inverse_depth is not None and self.config.occlusion:
            seen = visible(requests, references, chosen, pixels, inverse_depth)
        if self.config.motion_guess:
            way = motion_guess(references.rgb, chosen, pixels, gaps) * gaps[..., None, None, None]
            pixels = pixels + way * belief(references.rgb, chosen, pixels, pixels + way, seen)
        logits = (
            self._pixel_logits(slot, requests.hw) - self.nearness * distance[..., None, None, None]
        )
        rgb = torch.sigmoid(colour[:, :, :3])
        for refinement in self.refinements:
            shift, more = refinement(
                *sample_frames(references.rgb, chosen, pixels), seen, gaps, rgb, context
            )
            pixels, logits = pixels + shift, logits + more
        samples, inside = sample_frames(
            references.rgb, chosen, pixels, mode="bicubic"
        )  # what is seen, so keep it sharp
        logits = logits + OUTSIDE * (1.0 - inside) - self.occluded * (1.0 - seen)
        logits = torch.cat([logits[:, :, :, 0], colour[:, :, 3:] - 2.0], dim=2)
        weights = torch.softmax(logits, dim=2)
        blended = (weights[:, :, :-1, None] * samples).sum(2) + weights[:, :, -1:] * rgb
        if self.synthesis is not None:
            blended = blended + self.synthesis(blended, samples, weights, rgb)
        blended = blended.clamp(0.0, 1.0)
        depth = None
        # with a gradient beyond infinity, too: it would be stuck there
        if inverse_depth is not None:
            depth = 1.0 / (
                inverse_depth
                + (inverse_depth.clamp_min(NEAREST_TO_INFINITY) - inverse_depth).detach()
            )
        return Rendering(blended, depth=depth)

    def _first_guess(
        self, requests: Views, references: Views, chosen: Int[Tensor, "b v k"], known: Tensor | None
    ) -> Tensor | float:
        """Inverse depth that the chosen references' own says the targets have."""
        if self.stereo is None:
            return 0.0
        if known is not None:
            return reprojected(requests, references.without_rgb(), chosen, known.float())
        used, chosen = chosen.unique(return_inverse=True)
        # Without gradients, for colours are a poor teacher of depth: stereo and the tokens'
        # corrections of it drifted apart.
        found = self.stereo.inverse_depth(references[used], references)
        return reprojected(requests, references[used].without_rgb(), chosen, found)

    def _pixel_logits(
        self, slot: Float[Tensor, "b v k t hidden"], hw: tuple[int, int]
    ) -> Float[Tensor, "b v k 1 h w"]:
        b, v, k = slot.shape[:3]
        return unpatchify(self.slot_logit(slot).float().flatten(1, 2), hw, self.patch).view(
            b, v, k, 1, *hw
        )

    def _positions(
        self, hidden, slot, requests: Views, references: Views, chosen, first_guess: Tensor | float
    ):
        """Where to sample every chosen reference: pixels [b v k h w 2], and inverse depth [b v 1 h
        w].
        """
        b, v, k = chosen.shape
        h, w = requests.hw
        flow = self._upsampled(self.slot_flow(slot).float().flatten(1, 2), requests.hw).view(
            b, v, k, 2, h, w
        )
        flow = flow.permute(0, 1, 2, 4, 5, 3) * max(h, w) * 0.1
        if self.config.sampling == "offset":
            return pixel_grid(requests) + flow, None
        geometry = self._upsampled(self.geometry(hidden).float(), requests.hw)
        # One model unit is the cameras' spread, which may be a centimetre or ten metres: no start
        # but zero is harmless, a logarithm has no gradient near it, and what stereo found far away
        # must not be moved by more than it is far.
        unit = 0.4 if self.stereo is None else first_guess + FARTHEST
        rho = first_guess + RHO_SCALE * geometry[:, :, :1] * unit
        return warped_pixels(
            requests, references, chosen, rho, geometry[:, :, 1:] * 0.1
        ) + flow, rho

    def _upsampled(
        self, values: Float[Tensor, "b v t ccn"], hw: tuple[int, int]
    ) -> Float[Tensor, "b v n h w"]:
        cells = self.config.cells
        coarse = unpatchify(
            values, (hw[0] // self.patch * cells, hw[1] // self.patch * cells), cells
        )
        fine = F.interpolate(coarse.flatten(0, 1), size=hw, mode="bilinear", align_corners=False)
        return fine.unflatten(0, coarse.shape[:2])


class Refinement(nn.Module):
    """Looks at the fetched samples side by side and corrects where they came from and how much they
    count.

    The correction of positions is a velocity shared by all references, times each one's time gap,
    plus a small shift of its own; both are smooth (predicted at 1/stride), the weights are per
    pixel.
    """

    def __init__(self, references: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.references = stride, references
        channels = references * 6 + 3 + CONTEXT
        self.enter = nn.Conv2d(
            channels, width, kernel_size=stride + 1, stride=stride, padding=stride // 2
        )
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.shift = nn.Conv2d(width, 2 + 2 * references, 3, padding=1)
        self.logit = nn.Conv2d(width, references * stride**2, 3, padding=1)
        for layer in (self.shift, self.logit):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        samples: Float[Tensor, "b v k 3 h w"],
        inside: Float[Tensor, "b v k 1 h w"],
        seen: Float[Tensor, "b v k 1 h w"],
        gaps: Float[Tensor, "b v k"],
        rgb: Float[Tensor, "b v 3 h w"],
        context: Float[Tensor, "b v c h w"],
    ) -> tuple[Float[Tensor, "b v k h w 2"], Float[Tensor, "b v k 1 h w"]]:
        """Shift of the sample positions in pixels, and what to add to the blending logits."""
        b, v, k, _, h, w = samples.shape
        gap_maps = gaps[..., None, None, None].expand_as(inside)
        slots = torch.cat([samples - 0.5, inside, gap_maps, seen - 1.0], dim=3).flatten(2, 3)
        x = torch.cat([slots, rgb - 0.5, context], dim=2).flatten(0, 1)
        x = F.gelu(self.enter(x.contiguous(memory_format=torch.channels_last)))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        shift = F.interpolate(
            self.shift(x).float(), size=(h, w), mode="bilinear", align_corners=False
        )
        shift = shift.view(b, v, 1 + k, 2, h, w).movedim(3, -1) * self.stride
        logit = F.interpolate(
            F.pixel_shuffle(self.logit(x).float(), self.stride), size=(h, w), mode="nearest"
        )
        return shift[:, :, :1] * gaps[..., None, None, None] + shift[:, :, 1:], logit.view(
            b, v, k, 1, h, w
        )


class Synthesis(nn.Module):
    """What no blend of samples shows: a correction of its colours, from the samples and their
    weights, at half resolution.
    """

    STRIDE = 2

    def __init__(self, references: int, width: int) -> None:
        super().__init__()
        cell = self.STRIDE**2
        self.enter = nn.Conv2d((6 + 4 * references + 1) * cell, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.leave = nn.Conv2d(width, 3 * cell, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(
        self,
        blended: Float[Tensor, "b v 3 h w"],
        samples: Float[Tensor, "b v k 3 h w"],
        weights: Float[Tensor, "b v kp1 h w"],
        rgb: Float[Tensor, "b v 3 h w"],
    ) -> Float[Tensor, "b v 3 h w"]:
        """What to add to ``blended``."""
        apart = (samples - blended[:, :, None]).flatten(2, 3)
        seen = torch.cat([blended - 0.5, rgb - blended, apart, weights], dim=2).flatten(0, 1)
        x = F.gelu(
            self.enter(
                F.pixel_unshuffle(seen, self.STRIDE).contiguous(memory_format=torch.channels_last)
            )
        )
        for layer in self.body:
            x = x + F.gelu(layer(x))
        return F.pixel_shuffle(self.leave(x).float(), self.STRIDE).unflatten(0, blended.shape[:2])
