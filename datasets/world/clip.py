"""Clips filmed in one world: what ``world:SEED`` opens, and what rigs share with it."""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.datasets.rendered import RenderedClip
from fsm.datasets.world.trace import FAR
from fsm.datasets.world.world import World
from fsm.errors import InputError
from fsm.views import Rendering, Views

FPS = 12.0


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

    def truth(self, views: Views) -> Rendering:
        """The same, but the depth of the sky is infinite."""
        seen = self.render(views)
        assert seen.depth is not None, "worlds know their depth"
        return dataclasses.replace(seen, depth=seen.depth.masked_fill(seen.depth >= FAR, torch.inf))


class FilmedWorld(RenderedClip):
    """A clip filmed in one world by any cameras: the truth of everything in it is known."""

    def __init__(
        self,
        scene: WorldScene,
        id: str,
        source: str,
        cameras: Views,
        fps: float,
        camera_ids: Sequence[str] | None = None,
    ) -> None:
        super().__init__(id, source, cameras, fps, camera_ids=camera_ids)
        self.scene = scene

    def truth(self, requests: Views) -> Rendering:
        """Pictures and exact depth of any cameras at any moments; the depth of the sky is
        infinite.
        """
        return self.scene.truth(requests)

    def moving(self, requests: Views) -> Bool[Tensor, "v 1 h w"]:
        """Pixels of bodies that are not the same at all moments of the clip; shadows stand."""
        moments = self.cameras.time.unique()[None]
        return self.scene.world.moving(requests.without_rgb().batched(), moments)[0]

    def scene_flow(self, requests: Views, later: Float[Tensor, "v"]) -> Float[Tensor, "v 3 h w"]:
        """Motion in metres, with its body, of the point under each pixel; 0 for what stands."""
        return self.scene.world.scene_flow(requests.without_rgb().batched(), later[None])[0]


class WorldClip(FilmedWorld):
    """A clip filmed in one world along its own camera path."""

    def __init__(
        self, seed: int = 0, frames: int = 60, hw: tuple[int, int] = (128, 128), fps: float = FPS
    ) -> None:
        if frames < 1 or fps <= 0:
            raise InputError(f"WorldClip got frames={frames} and fps={fps}; both must be positive.")
        scene = WorldScene(seed)
        time = torch.arange(frames, dtype=torch.float64)[None] / fps
        cameras = scene.world.camera_path(time.float(), hw).unbatched()
        super().__init__(scene, f"world-{seed}", f"world:{seed}", cameras, fps)
