"""What all heads that decode 4D Gaussians have in common: Gaussians once per scene, then drawing.

Copies of the input views read the finished memory; the tokens of each become Gaussians.
"""

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.encoder import ViewTokens
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.types import GSPLAT, Projection
from fsm.renderers.heads.base import Head, Read
from fsm.views import Rendering, SceneFrame, Views

# Pixels of input views decoded to Gaussians at once, but at least one view: bounds memory, changes
# nothing.
GAUSSIAN_PIXELS = 256 * 256


@dataclass(frozen=True)
class DecodedGaussians:
    """The Gaussians of every batch entry, in model space, and how they are drawn."""

    gaussians: list[Gaussians4D]
    background: Float[Tensor, "b 3"]
    """sRGB behind everything."""
    projection: Projection

    @cached_property
    def moving(self) -> list[MovingGaussians]:
        """The Gaussians conditioned on time."""
        return [g.condition() for g in self.gaussians]

    def render(self, moving: MovingGaussians, entry: int, view: Views) -> Rendering:
        """One view [1] of Gaussians conditioned on time, those of batch ``entry`` or a copy."""
        return rasterize(
            moving.at(view.time[0]),
            view.without_rgb(),
            background=self.background[entry],
            projection=self.projection,
        )


class GaussianHead(Head[DecodedGaussians]):
    """A head whose Gaussians are made once; any target is drawn from them."""

    decoder = "lrm"
    projection: ClassVar[Projection] = GSPLAT
    """How the Gaussians are meant to be drawn."""

    @abstractmethod
    def gaussians(self, tokens: ViewTokens, views: Views, inputs: Views) -> list[Gaussians4D]:
        """Gaussians of every batch entry; ``tokens`` are those of ``views`` [b v], some or all of
        ``inputs`` [b n].
        """

    def parts(self, groups: list[Views], inputs: Views, read: Read) -> list[list[Gaussians4D]]:
        """Gaussians of every batch entry of every group of ``inputs``."""
        return [self.gaussians(read(group), group, inputs) for group in groups]

    @abstractmethod
    def background(self, inputs: Views) -> Float[Tensor, "b 3"]:
        """sRGB behind the Gaussians."""

    def kept(self, inputs: Views) -> Views:
        """All of the inputs: Gaussians start from their pixels."""
        return inputs

    def prepare(self, inputs: Views, read: Read) -> DecodedGaussians:
        """Gaussians of all inputs; without gradients a few views at a time."""
        size = max(1, GAUSSIAN_PIXELS // (inputs.hw[0] * inputs.hw[1]))
        size = len(inputs) if torch.is_grad_enabled() else size
        groups = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        of_entries = [list(parts) for parts in zip(*self.parts(groups, inputs, read), strict=True)]
        gaussians = [_joined(parts) for parts in of_entries]
        return DecodedGaussians(gaussians, self.background(inputs), self.projection)

    def decode(self, targets: Views, prepared: DecodedGaussians, read: Read) -> Rendering:
        """Draw every target at its own time."""
        rows = [
            [prepared.render(moving, entry, view[i]) for i in range(len(view))]
            for entry, (moving, view) in enumerate(
                zip(prepared.moving, targets.samples(), strict=True)
            )
        ]
        rgb, alpha, depth = (
            torch.stack([torch.cat([getattr(r, name) for r in row]) for row in rows])
            for name in ("rgb", "alpha", "depth")
        )
        return Rendering(rgb, alpha, depth)

    def scene(self, inputs: Views, frame: SceneFrame, read: Read) -> GaussianScene:
        """The Gaussians are the scene."""
        prepared = self.prepare(frame.to_model(inputs), read)
        return GaussianScene(
            prepared.gaussians[0],
            SceneFrame(*(getattr(frame, f.name)[0] for f in dataclasses.fields(frame))),
            inputs.unbatched(),
            background=prepared.background[0],
            projection=prepared.projection,
        )


def _joined(parts: list[Gaussians4D]) -> Gaussians4D:
    """All of ``parts``, which is emptied: no more than one field is held twice."""
    columns = [list(fields) for fields in zip(*(p.tensors() for p in parts), strict=True)]
    parts.clear()
    fields = []
    for column in columns:
        fields.append(torch.cat(column))
        column.clear()
    return Gaussians4D(*fields)


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
