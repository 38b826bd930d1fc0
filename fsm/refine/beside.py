"""Views between and beside the input cameras, as a model that looks at the input frames shows them:
refinement fits them, too, and so learns what no frame shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.memory_scene import MemoryScene
from fsm.renderers.stereo.config import LayerConfig
from fsm.renderers.stereo.occlusion import visible
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Views

# Standard deviation of the offset along the camera's axes, of the median depth of the inputs.
OFFSET = (0.05, 0.03, 0.03)
CHECKED = 4  # nearest inputs that a pixel is compared with
AGREES = 0.1  # mean difference of colours, from 0 to 1, above which an input shows something else
OCCLUSION = LayerConfig(slack=0.02)


@dataclass(frozen=True)
class Beside:
    """What a model shows beside the inputs, in the clip's space, with rgb and mask."""

    views: Views
    """Made without the frames held back."""
    all_views: Views
    """Made from all inputs, for the steps after these have chosen."""
    score: float
    """PSNR at which the model shows the frames held back without having seen them, in dB."""

    def helps(self, curve: Sequence[tuple[int, float]], step: int, margin: float) -> bool:
        """Whether the model shows the frames held back well enough, at ``step``: the scene has been
        less than ``margin`` dB ahead of it. ``curve`` holds the scene's PSNR of them by step.
        """
        return all(value < self.score + margin for at, value in curve if at <= step)


def views_beside(memory: MemoryScene, count: int, seed: int) -> Views:
    """``count`` views beside the inputs of ``memory`` at their moments, as it shows them.

    The mask leaves out pixels that no input near them confirms. What is drawn depends on ``seed``
    alone.
    """
    inputs, generator = memory.observed, torch.Generator().manual_seed(seed)
    n = torch.arange(count) % len(inputs)
    depth = memory.layers().depth.median()
    offset = torch.randn(count, 3, generator=generator) * torch.tensor(OFFSET)
    cameras = inputs[n].without_rgb()
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] += torch.einsum("nij,nj->ni", c2w[:, :3, :3], depth * offset.to(c2w))
    cameras = replace(cameras, c2w=c2w, frame_ids=None, mask=None)
    frame = memory.unbatched_frame
    seen = frame.to_model(inputs).batched()
    rgb, mask = [], []
    for i in range(count):
        shown = memory.render(cameras[[i]])
        assert shown.depth is not None
        rho = 1.0 / (shown.depth * frame.scale)[None]
        target = replace(frame.to_model(cameras[[i]]), rgb=shown.rgb).batched()
        rgb.append(shown.rgb)
        mask.append(confirmed(target, rho, seen)[0])
    return replace(cameras, rgb=torch.cat(rgb), mask=torch.cat(mask))


@torch.no_grad()
def confirmed(
    targets: Views, rho: Float[Tensor, "b v 1 h w"], inputs: Views
) -> Bool[Tensor, "b v 1 h w"]:
    """Which pixels of ``targets`` (with rgb, at inverse depths ``rho``) one of the nearest
    ``inputs`` shows in the same colour and unhidden; model space.
    """
    index, _ = nearest_views(targets, inputs, min(CHECKED, len(inputs)))
    sources = SourceViews.of(targets, inputs, index)
    pixels = sources.project(rho).pixels
    found, inside = sources.sample(sources.frames, pixels)
    off = (found - sources.pictures[:, :, None]).abs().mean(3, keepdim=True)
    seen = (inside > 0) & (visible(sources, pixels, rho, OCCLUSION) > 0)
    return (seen & (off < AGREES)).any(2)
