"""The reference head: an extension of ours to the direct decoder that copies pixels of the input
frames.

It is image-based rendering: every target pixel is a softmax blend of one sample from each of the K
nearest input frames and of a colour predicted from the tokens. Released weights do not have it. The
stages of ``ReferenceHead.decode``, in order:

1. **Sources.** The K input frames nearest in time and pose.
2. **Prediction.** Linear layers make maps of the target's tokens: a colour with its blending logit,
   one of each per pixel, and a shift of every position. Shifts are smooth, so their maps have
   ``cells`` values per patch side and are upsampled.
3. **Depth.** Inverse depths of the input frames (``fsm.renderers.stereo.pipeline``), found once per
   scene, are warped forward to the target (``fsm.renderers.stereo.forward_warp``).
4. **Positions.** The ray r of a target pixel (z-depth one), at inverse depth ρ, is seen from a
   source with centre c_k along  r + ρ (o - c_k). At ρ = 0 this is the exact homography of a
   turning camera.
5. **Occlusion.** Where the target's depth says that a source sees something nearer
   (``fsm.renderers.stereo.occlusion``), its sample counts less.
6. **Motion.** Samples are aligned along straight paths through time where that makes the sources
   agree better (``fsm.renderers.stereo.motion``).
7. **Refinement.** Convolutions compare the samples and correct positions and logits, coarse to
   fine.
8. **Blend.** Softmax over samples and predicted colour; a last correction of the colours
   (``Synthesis``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import ViewTokens, unpatchify
from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.convolution import ConvTrunk, zeroed
from fsm.renderers.heads.base import Head, Read
from fsm.renderers.stereo.config import StereoConfig
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.pipeline import Stereo
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Rendering, Views

# Numbers that describe a source view beside its target: time 1, centre 3, forward axis 3, rank
# distance 1.
META = 8
# Model units beyond which a source view is just far away. One unit is the inputs' spread, so beside
# the path of a camera that hardly moved a target may stand many of them off, and a number never
# seen in training has no learnt meaning.
REMOTE = 1.0
FLOW_SCALE = 0.1  # shift, in sides of the picture, per unit of the flow layer's output
NEAREST_TO_INFINITY = 1e-3  # inverse depths below this are reported as this far away
OUTSIDE = -8.0  # logit of a sample that falls outside its frame or behind its camera
PREDICTED = -2.0  # first logit of the predicted colour


@dataclass(frozen=True)
class ReferenceHeadConfig:
    """Shape of the reference head."""

    kind: Literal["reference"] = "reference"
    """Which head this is."""
    references: int = 4
    """K, input frames looked at per target."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    cells: int = 2
    """Grid points of the predicted shifts per patch side."""
    stereo: StereoConfig = StereoConfig()
    """Depth and motion from frames."""
    refinements: tuple[int, ...] = (4, 2)
    """Pixel strides at which the samples are compared and corrected, in this order."""
    refinement_width: int = 48
    """Channels of the refinement's convolutions."""
    synthesis_width: int = 48
    """Channels of the convolutions that correct the blended colours."""

    def __post_init__(self) -> None:
        least = {"references": 1, "hidden": 1, "cells": 1}
        for name, value in (least | {"refinement_width": 1, "synthesis_width": 1}).items():
            if getattr(self, name) < value:
                raise InputError(
                    f"model config: {name} is {getattr(self, name)}, must be at least {value}."
                )
        if min(self.refinements, default=0) < 1:
            raise InputError(
                f"model config: refinements is {list(self.refinements)}; give at least one "
                "stride, each at least 1."
            )


@dataclass(frozen=True)
class InputFrames:
    """The input frames of a scene, and their layers as far as somebody has looked at them."""

    views: Views
    """Observed inputs [b n], model space."""
    small: Views
    """The same at the size at which depth is found."""
    estimate: Callable[[Views, Views], Layers]
    """Layers of some frames, found among all of them."""
    _found: dict[int, Layers] = field(default_factory=dict, repr=False, compare=False)

    def layers(self, which: list[int]) -> Layers:
        """Layers of the frames of these numbers, each found once."""
        missing = [i for i in which if i not in self._found]
        # One frame at a time: a batch of other frames would change the last bits of its depth, and
        # they must not depend on what was rendered before. Training keeps nothing, so there they
        # are found together, which is faster.
        size = max(1, len(missing)) if torch.is_grad_enabled() else 1
        for start in range(0, len(missing), size):
            some = missing[start : start + size]
            found = self.estimate(self.small[some], self.small)
            self._found.update(zip(some, found.split(), strict=True))
        return Layers.cat([self._found[i] for i in which]).resized(self.views.hw)


@dataclass(frozen=True)
class _Predicted:
    """Maps that the tokens of the targets predict."""

    rgb: Float[Tensor, "b v 3 h w"]
    rgb_logit: Float[Tensor, "b v 1 h w"]
    flow: Float[Tensor, "b v k h w 2"]
    """Shift of the positions in pixels."""


class ReferenceHead(Head[InputFrames]):
    """Softmax blend of K sampled input pixels and a predicted colour, per target pixel."""

    decoder = "lvsm"
    learns_alone = ("stereo",)
    finds_layers = True
    config: ReferenceHeadConfig

    def __init__(self, dim: int, patch: int, config: ReferenceHeadConfig) -> None:
        super().__init__(dim, patch, config)
        cells = config.cells**2
        self.norm = nn.LayerNorm(dim, bias=False)
        self.shared = nn.Linear(dim, config.hidden)
        self.colour = nn.Linear(config.hidden, 4 * patch**2)  # rgb and its blending logit
        self.slot_token = nn.Linear(dim, config.hidden)
        self.slot_meta = nn.Linear(META, config.hidden)
        self.slot_flow = nn.Linear(config.hidden, 2 * cells)
        self.refinements: list[SampleRefinement] = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            SampleRefinement(config.references, config.refinement_width, stride)
            for stride in config.refinements
        )
        self.stereo = Stereo(config.stereo)
        self.synthesis = Synthesis(config.references, config.synthesis_width)
        self.nearness = nn.Parameter(torch.tensor(2.0))
        self.occluded = nn.Parameter(torch.tensor(4.0))
        # Start as a rotation-compensated blend of the nearest frames: every predicted correction is
        # zero.
        zeroed(self.slot_flow)

    def kept(self, inputs: Views) -> Views:
        """All of the inputs: pixels are copied from them."""
        return inputs

    def prepare(self, inputs: Views, read: Read) -> InputFrames:
        """The input frames; their depth is found when they are first looked at."""
        if inputs.rgb is None:
            raise InputError(
                "the reference head needs the input frames; they are missing from this scene."
            )
        # Without gradients: colours are a poor teacher of depth, which learns in stages of its own.
        return InputFrames(inputs, self.stereo.reduced(inputs), self.stereo.layers)

    def layers(self, prepared: InputFrames, index: list[int]) -> Layers:
        """Those of the input frames, each found once."""
        return prepared.layers(index)

    def decode(self, targets: Views, prepared: InputFrames, read: Read) -> Rendering:
        """Blend samples of the nearest input frames."""
        index, distance = nearest_views(targets, prepared.views, self.config.references)
        # From here on only the frames that any target looks at count.
        used, index = index.unique(return_inverse=True)
        sources = SourceViews.of(targets, prepared.views[used], index)
        predicted = self._predict(read(targets), sources, distance)
        layers = self.stereo.warped(sources, prepared.layers(used.tolist()))
        rho = layers.inverse_depth
        pixels = sources.project(rho, layers.motion(targets)).pixels + predicted.flow
        visibility = self.stereo.visible(sources, pixels, rho)
        pixels = self.stereo.followed(sources, pixels, visibility)
        logits = (-self.nearness * distance[..., None, None, None]).expand_as(visibility)
        pixels, logits = self._refined(predicted.rgb, sources, pixels, logits, visibility)
        rgb = self._blended(predicted, sources, pixels, logits, visibility)
        return Rendering(rgb, depth=1.0 / rho.clamp_min(NEAREST_TO_INFINITY))

    def _predict(
        self,
        tokens: ViewTokens,
        sources: SourceViews,
        distance: Float[Tensor, "b v k"],
    ) -> _Predicted:
        """All that the tokens say; per source with the place of its camera beside the target's."""
        hw, several = sources.reference.hw, sources.index.shape[1:]
        x = self.norm(tokens)
        hidden = F.gelu(self.shared(x))
        meta = self.slot_meta(source_description(sources, distance))
        slot = F.gelu(self.slot_token(x)[:, :, None] + meta[:, :, :, None])
        colour = unpatchify(self.colour(hidden).float(), hw, self.patch)
        flow = self._upsampled(self.slot_flow(slot).float().flatten(1, 2), hw)
        flow = flow.unflatten(1, several).movedim(3, -1)
        return _Predicted(
            rgb=torch.sigmoid(colour[:, :, :3]),
            rgb_logit=colour[:, :, 3:] + PREDICTED,
            flow=flow * max(hw) * FLOW_SCALE,
        )

    def _upsampled(
        self, values: Float[Tensor, "b v t ccn"], hw: tuple[int, int]
    ) -> Float[Tensor, "b v n h w"]:
        cells = self.config.cells
        coarse = unpatchify(
            values, (hw[0] // self.patch * cells, hw[1] // self.patch * cells), cells
        )
        fine = F.interpolate(coarse.flatten(0, 1), size=hw, mode="bilinear", align_corners=False)
        return fine.unflatten(0, coarse.shape[:2])

    def _refined(
        self,
        rgb: Float[Tensor, "b v 3 h w"],
        sources: SourceViews,
        pixels: Float[Tensor, "b v k h w 2"],
        logits: Float[Tensor, "b v k 1 h w"],
        visibility: Float[Tensor, "b v k 1 h w"],
    ) -> tuple[Float[Tensor, "b v k h w 2"], Float[Tensor, "b v k 1 h w"]]:
        """Positions and blending logits of the samples, corrected by every refinement in turn."""
        gaps = sources.relative_gaps
        for refinement in self.refinements:
            samples, inside = sources.sample(sources.frames, pixels)
            shift, more = refinement(samples, inside, visibility, gaps, rgb)
            pixels, logits = pixels + shift, logits + more
        return pixels, logits

    def _blended(
        self,
        predicted: _Predicted,
        sources: SourceViews,
        pixels: Float[Tensor, "b v k h w 2"],
        logits: Float[Tensor, "b v k 1 h w"],
        visibility: Float[Tensor, "b v k 1 h w"],
    ) -> Float[Tensor, "b v 3 h w"]:
        """Softmax blend of the samples and the predicted colour, corrected, in [0, 1]."""
        # These samples are seen: bicubic ones stay sharp.
        samples, inside = sources.sample(sources.frames, pixels, mode="bicubic")
        logits = logits + OUTSIDE * (1.0 - inside) - self.occluded * (1.0 - visibility)
        weights = torch.softmax(torch.cat([logits[:, :, :, 0], predicted.rgb_logit], dim=2), dim=2)
        blended = (weights[:, :, :-1, None] * samples).sum(2) + weights[:, :, -1:] * predicted.rgb
        blended = blended + self.synthesis(blended, samples, weights, predicted.rgb)
        return blended.clamp(0.0, 1.0)


@full_precision
def source_description(
    sources: SourceViews, distance: Float[Tensor, "b v k"]
) -> Float[Tensor, "b v k 8"]:
    """Numbers by which the head tells its source views apart, relative to the target camera.

    Centres are held within REMOTE model units of the target's.
    """
    rotation, translation = sources.cameras.rotation, sources.cameras.translation
    centre = -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]
    centre = centre / (centre.norm(dim=-1, keepdim=True) / REMOTE).clamp_min(1.0)
    gaps = sources.gaps[..., None]
    return torch.cat([4.0 * gaps, 4.0 * centre, rotation[..., 2, :], distance[..., None]], dim=-1)


class SampleRefinement(nn.Module):
    """Looks at the fetched samples side by side and corrects where they came from and how much they
    count.

    The correction of positions is a velocity shared by all references, times each one's time gap,
    plus a small shift of its own; both are smooth (predicted at 1/stride), the weights are per
    pixel.
    """

    def __init__(self, references: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.references = stride, references
        channels = references * 6 + 3
        self.enter = nn.Conv2d(
            channels, width, kernel_size=stride + 1, stride=stride, padding=stride // 2
        )
        self.body = ConvTrunk(width, 4)
        self.shift = zeroed(nn.Conv2d(width, 2 + 2 * references, 3, padding=1))
        self.logit = zeroed(nn.Conv2d(width, references * stride**2, 3, padding=1))

    def forward(
        self,
        samples: Float[Tensor, "b v k 3 h w"],
        inside: Float[Tensor, "b v k 1 h w"],
        seen: Float[Tensor, "b v k 1 h w"],
        gaps: Float[Tensor, "b v k"],
        rgb: Float[Tensor, "b v 3 h w"],
    ) -> tuple[Float[Tensor, "b v k h w 2"], Float[Tensor, "b v k 1 h w"]]:
        """Shift of the sample positions in pixels, and what to add to the blending logits."""
        b, v, k, _, h, w = samples.shape
        gap_maps = gaps[..., None, None, None].expand_as(inside)
        slots = torch.cat([samples - 0.5, inside, gap_maps, seen - 1.0], dim=3).flatten(2, 3)
        x = torch.cat([slots, rgb - 0.5], dim=2).flatten(0, 1)
        x = self.body(F.gelu(self.enter(x.contiguous(memory_format=torch.channels_last))))
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
        self.body = ConvTrunk(width, 3)
        self.leave = zeroed(nn.Conv2d(width, 3 * cell, 3, padding=1))

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
        seen = F.pixel_unshuffle(seen, self.STRIDE).contiguous(memory_format=torch.channels_last)
        x = self.body(F.gelu(self.enter(seen)))
        return F.pixel_shuffle(self.leave(x).float(), self.STRIDE).unflatten(0, blended.shape[:2])
