"""A clip filmed in one world: what ``world:SEED`` opens."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.world.world import World
from fsm.errors import InputError
from fsm.views import Rendering, Views


class WorldScene:
    """One world as a scene: pictures and depth for any views at any moments."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.world = World.sample([seed], device)

    def render(self, views: Views) -> Rendering:
        """Ground truth for unbatched ``views`` [v]."""
        seen = self.world.render(views.without_rgb().batched())
        assert seen.alpha is not None, "worlds are opaque"
        assert seen.depth is not None, "worlds know their depth"
        return Rendering(seen.rgb[0], seen.alpha[0], seen.depth[0])


class WorldClip(Clip):
    """A clip filmed in one world along its own camera path; ``scene`` is the ground truth for everything else."""

    def __init__(self, seed: int = 0, frames: int = 60, hw: tuple[int, int] = (128, 128), fps: float = 12.0) -> None:
        if frames < 1 or fps <= 0:
            raise InputError(f"WorldClip got frames={frames} and fps={fps}; both must be positive.")
        self.scene = WorldScene(seed)
        time = torch.arange(frames, dtype=torch.float64)[None] / fps
        cameras = self.scene.world.camera_path(time.float(), hw).unbatched()
        super().__init__(f"world-{seed}", f"world:{seed}", cameras, fps)

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """All asked frames, drawn at native size."""
        cameras = self.cameras[indices]
        yield dataclasses.replace(cameras, rgb=self.scene.render(cameras).rgb)

    def depth(self, indices: Sequence[int]) -> Float[Tensor, "v 1 h w"]:
        """Exact z-depth in metres of the frames ``indices``; the sky is 1,000 m away."""
        depth = self.scene.render(self.cameras[list(indices)]).depth
        assert depth is not None, "worlds know their depth"
        return depth
