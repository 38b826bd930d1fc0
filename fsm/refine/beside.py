"""Views between and beside the input cameras, as a model that looks at the input frames shows them:
refinement fits them, too, and so learns what no frame shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fsm.memory_scene import MemoryScene
from fsm.views import Views

# Standard deviation of the offset along the camera's axes, of the median depth of the inputs.
OFFSET = (0.05, 0.03, 0.03)


@dataclass(frozen=True)
class Beside:
    """What a model shows beside the inputs, in the clip's space, with rgb."""

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
    """``count`` views beside the inputs of ``memory`` at their moments, as it shows them. What is
    drawn depends on ``seed`` alone.
    """
    inputs, generator = memory.observed, torch.Generator().manual_seed(seed)
    n = torch.arange(count) % len(inputs)
    depth = memory.layers().depth.median()
    offset = torch.randn(count, 3, generator=generator) * torch.tensor(OFFSET)
    cameras = inputs[n].without_rgb()
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] += torch.einsum("nij,nj->ni", c2w[:, :3, :3], depth * offset.to(c2w))
    cameras = replace(cameras, c2w=c2w, frame_ids=None, mask=None)
    rgb = [memory.render(cameras[[i]]).rgb for i in range(count)]
    return replace(cameras, rgb=torch.cat(rgb))
