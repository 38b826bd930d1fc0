"""A clip filmed in one world: what ``world:SEED`` opens."""

import dataclasses

import torch

from fsm.datasets.base import RenderedClip
from fsm.datasets.world.trace import FAR
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


class WorldClip(RenderedClip):
    """A clip filmed in one world along its own camera path."""

    def __init__(
        self, seed: int = 0, frames: int = 60, hw: tuple[int, int] = (128, 128), fps: float = 12.0
    ) -> None:
        if frames < 1 or fps <= 0:
            raise InputError(f"WorldClip got frames={frames} and fps={fps}; both must be positive.")
        self.scene = WorldScene(seed)
        time = torch.arange(frames, dtype=torch.float64)[None] / fps
        cameras = self.scene.world.camera_path(time.float(), hw).unbatched()
        super().__init__(f"world-{seed}", f"world:{seed}", cameras, fps)

    def truth(self, requests: Views) -> Rendering:
        """Pictures and exact depth of any cameras at any moments; the depth of the sky is
        infinite.
        """
        seen = self.scene.render(requests)
        assert seen.depth is not None, "worlds know their depth"
        return dataclasses.replace(seen, depth=seen.depth.masked_fill(seen.depth >= FAR, torch.inf))
