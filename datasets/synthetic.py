"""A procedural moving world: ground truth for any view at any moment, from a seed.

A textured room holds three to seven textured solids, most of them moving; the camera walks past,
held by a hand. Poses, z-depth and motion are exact. It is the demo clip, the test clip and a
training world without end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import DrawnClip
from fsm.datasets.synthetic_draws import draw_world
from fsm.datasets.synthetic_render import GAMMA, Hits, Stage, outlines, set_stage, shade, trace
from fsm.datasets.synthetic_world import CameraPath, Light, Solids, Surfaces, mapped
from fsm.errors import InputError
from fsm.views import Rendering, Views

DEMO_SEED = 0
"""Seed of the built-in clip."""
# what a CPU's cache and a GPU's memory hold of a hundred planes
RAYS_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 21}


@dataclass(frozen=True)
class SyntheticWorld:
    """A batch of b worlds as parameters; nothing is stored per pixel."""

    room: Float[Tensor, "b 3"]
    """Half extents of the room in metres."""
    solids: Solids
    surfaces: Surfaces
    light: Light
    camera: CameraPath

    @staticmethod
    def sample(seeds: Sequence[int], device: torch.device | str = "cpu") -> "SyntheticWorld":
        """One world per seed; a seed gives the same world in any batch and on any device."""
        if len(seeds) == 0:
            raise InputError("SyntheticWorld.sample got no seeds; name at least one.")
        return SyntheticWorld(*draw_world(seeds)).to(device)

    def __len__(self) -> int:
        """Number of worlds b."""
        return len(self.room)

    def __getitem__(self, index: int | slice) -> "SyntheticWorld":
        """Some of the worlds; an integer keeps the axis."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        return mapped(self, lambda t: t[index])

    def to(self, device: torch.device | str) -> "SyntheticWorld":
        """All tensors on ``device``."""
        return mapped(self, lambda t: t.to(device))

    def camera_path(self, time: Float[Tensor, "b v"], hw: tuple[int, int]) -> Views:
        """Each world's own camera at ``time`` (seconds): 45 to 75 degrees wide, square pixels, no
        rgb.
        """
        focal = 0.5 * hw[1] / torch.tan(0.5 * self.camera.hfov)
        centre = focal.new_tensor([0.5 * hw[1], 0.5 * hw[0]]).expand(len(self), 2)
        intrinsics = torch.cat([focal[:, None], focal[:, None], centre], -1)
        return Views(self.camera.pose(time), intrinsics[:, None].expand(*time.shape, 4), time, hw)

    def render(self, views: Views, samples_per_pixel: int = 1) -> Rendering:
        """Pictures and exact depth at pixel centres for ``views`` [b v], each at its own time.

        One ray filters textures and shadows to its pixel; ``samples_per_pixel`` (a square number)
        is how many rays, on a regular grid and averaged in linear light, pixels on an outline or an
        edge get.
        """
        side = math.isqrt(max(samples_per_pixel, 0))
        if side * side != samples_per_pixel or side < 1:
            raise InputError(
                f"samples_per_pixel is {samples_per_pixel}; use a square number: 1, 4, 9, 16."
            )
        if views.c2w.ndim != 4 or len(views.c2w) != len(self):
            found = tuple(views.c2w.shape)
            raise InputError(
                f"views have poses of shape {found}, expected ({len(self)}, v, 4, 4): one "
                "row a world."
            )
        budget = RAYS_AT_ONCE["cpu" if self.room.device.type == "cpu" else "cuda"]
        frames = max(1, budget // math.prod(views.hw))
        with torch.no_grad():
            stage = set_stage(self.room, self.solids, views)
            parts = [stage.part(slice(i, i + frames)) for i in range(0, len(stage.eye), frames)]
            done = torch.cat(
                [self._frames(at, views.hw, side, max(1, budget // len(at.eye))) for at in parts]
            )
        rgb, depth = done.unflatten(0, views.time.shape).split([3, 1], dim=-3)
        return Rendering(rgb, torch.ones_like(depth), depth)

    def _frames(
        self, at: Stage, hw: tuple[int, int], side: int, tile: int
    ) -> Float[Tensor, "f 4 h w"]:
        """sRGB and depth of all frames of a stage, ``tile`` pixels of each at a time."""
        ys, xs = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
        corners = torch.stack([xs, ys]).flatten(1).to(at.eye)  # [2, h w]

        def light(hits: Hits, side: int) -> Tensor:
            return shade(at, hits, self.room, self.surfaces, self.light, side)

        centred = [trace(at, part + 0.5) for part in corners.split(tile, dim=1)]
        picture = torch.cat([light(hits, 1) for hits in centred], -1)
        if side > 1:
            pixels, valid = outlines(centred, hw)
            steps = (torch.arange(side) + 0.5) / side
            grid = torch.cartesian_prod(steps, steps).to(corners)[..., None]  # [side², 2, 1]
            for index, real in zip(
                pixels.split(tile, dim=1), valid.split(tile, dim=1), strict=True
            ):
                corner = corners[:, index].transpose(0, 1)
                fine = torch.stack(
                    [light(trace(at, corner + offset), side) for offset in grid]
                ).mean(0)
                target = index[:, None].expand_as(fine)
                picture = picture.scatter(
                    2, target, torch.where(real[:, None], fine, picture.gather(2, target))
                )
        depth = torch.cat([hits.depth for hits in centred], -1)
        return torch.cat([picture.clamp_min(0.0).pow(GAMMA), depth[:, None]], 1).unflatten(-1, hw)


class SyntheticScene:
    """One world as a scene: pictures and depth for any views at any moments."""

    def __init__(
        self, seed: int, samples_per_pixel: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.world = SyntheticWorld.sample([seed], device)
        self.samples_per_pixel = samples_per_pixel

    def render(self, views: Views) -> Rendering:
        """Ground truth for unbatched ``views`` [v]."""
        seen = self.world.render(views.without_rgb().batched(), self.samples_per_pixel)
        assert seen.alpha is not None, "worlds are opaque"
        assert seen.depth is not None, "worlds know their depth"
        return Rendering(seen.rgb[0], seen.alpha[0], seen.depth[0])


class SyntheticClip(DrawnClip):
    """A clip filmed in one world along its own camera path."""

    def __init__(
        self,
        seed: int = 0,
        frames: int = 48,
        hw: tuple[int, int] = (128, 128),
        fps: float = 12.0,
        samples_per_pixel: int = 4,
    ) -> None:
        if frames < 1 or fps <= 0:
            raise InputError(
                f"SyntheticClip got frames={frames} and fps={fps}; both must be positive."
            )
        self.scene = SyntheticScene(seed, samples_per_pixel)
        time = torch.arange(frames, dtype=torch.float64)[None] / fps
        cameras = self.scene.world.camera_path(time.float(), hw).unbatched()
        super().__init__(f"synthetic-{seed}", f"synthetic:{seed}", cameras, fps)

    def truth(self, requests: Views) -> Rendering:
        """Pictures and exact depth of any cameras at any moments."""
        return self.scene.render(requests)


def demo_clip(hw: tuple[int, int] = (128, 128)) -> SyntheticClip:
    """The built-in clip: four seconds at twelve frames per second."""
    return SyntheticClip(DEMO_SEED, hw=hw)
