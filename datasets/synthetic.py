"""A procedural moving world: ground truth for any view at any moment, from a seed.

A textured room holds three to seven textured solids, most of them moving; the camera walks past, held by a hand. Poses,
z-depth and motion are exact. It is the demo clip, the test clip and a training world without end.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.datasets.base import Clip
from fsm.datasets.synthetic_render import RAYS_AT_ONCE, moments, shade, trace
from fsm.datasets.synthetic_world import CameraPath, Light, Solids, Surfaces, draw_world, mapped
from fsm.errors import InputError
from fsm.views import Rendering, Views

DEMO_SEED = 0


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
        """The camera's own path through each world at ``time`` (seconds); 45 to 75 degrees wide, square pixels, no rgb."""
        focal = 0.5 * hw[1] / torch.tan(0.5 * self.camera.hfov)
        centre = focal.new_tensor([0.5 * hw[1], 0.5 * hw[0]]).expand(len(self), 2)
        intrinsics = torch.cat([focal[:, None], focal[:, None], centre], -1)
        return Views(self.camera.pose(time), intrinsics[:, None].expand(*time.shape, 4), time, hw)

    def render(self, views: Views, samples_per_pixel: int = 1) -> Rendering:
        """Pictures and exact depth at pixel centres for ``views`` [b v], each at its own time.

        ``samples_per_pixel`` is a square number of rays on a regular grid inside each pixel, averaged in linear light.
        Textures are filtered in any case; more samples smooth the outlines.
        """
        side = math.isqrt(max(samples_per_pixel, 0))
        if side * side != samples_per_pixel or side < 1:
            raise InputError(f"samples_per_pixel is {samples_per_pixel}; use a square number: 1, 4, 9, 16.")
        if views.c2w.ndim != 4 or len(views.c2w) != len(self):
            raise InputError(
                f"views have shape {tuple(views.c2w.shape)}, expected [{len(self)}, v, 4, 4]: one row a world."
            )
        with torch.no_grad():
            return self._render(views, side)

    def _render(self, views: Views, side: int) -> Rendering:
        (h, w), lead = views.hw, views.time.shape
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        corner = torch.stack([xs, ys]).flatten(1).to(views.time)
        offsets = [((i + 0.5) / side, (j + 0.5) / side) for j in range(side) for i in range(side)]
        stage = moments(self.room, self.solids, views)
        budget = RAYS_AT_ONCE["cpu" if self.room.device.type == "cpu" else "cuda"]
        frames, pixels = max(1, budget // (h * w)), min(h * w, budget)
        rgb, depth = [], []
        for first in range(0, len(stage.eye), frames):
            at = stage.part(slice(first, first + frames))
            colours, depths = [], []
            for part in corner.split(pixels, dim=1):
                colour, hits = torch.zeros(()).to(part), None
                for offset in offsets:
                    hits = trace(at, part + part.new_tensor(offset)[:, None])
                    colour = colour + shade(at, hits, self.room, self.solids, self.surfaces, self.light, side)
                centred = hits if side % 2 and len(offsets) == 1 else trace(at, part + 0.5)
                assert centred is not None
                colours.append((colour * (1.0 / len(offsets))).clamp(0.0, 1.0).pow(1.0 / 2.2))
                depths.append(centred.depth)
            rgb.append(torch.cat(colours, -1))
            depth.append(torch.cat(depths, -1))
        picture = torch.cat(rgb).reshape(*lead, 3, h, w)
        z = torch.cat(depth).reshape(*lead, 1, h, w)
        return Rendering(picture, torch.ones_like(z), z)


class SyntheticScene:
    """One world as a scene: pictures and depth for any views at any moments."""

    def __init__(self, seed: int, samples_per_pixel: int = 1, device: torch.device | str = "cpu") -> None:
        self.world = SyntheticWorld.sample([seed], device)
        self.samples_per_pixel = samples_per_pixel

    def render(self, views: Views) -> Rendering:
        """Ground truth for unbatched ``views`` [v]."""
        seen = self.world.render(views.without_rgb().batched(), self.samples_per_pixel)
        assert seen.alpha is not None, "worlds are opaque"
        assert seen.depth is not None, "worlds know their depth"
        return Rendering(seen.rgb[0], seen.alpha[0], seen.depth[0])


class SyntheticClip(Clip):
    """A clip filmed in one world along its own camera path; ``scene`` is the ground truth for everything else."""

    def __init__(
        self,
        seed: int = 0,
        frames: int = 48,
        hw: tuple[int, int] = (128, 128),
        fps: float = 12.0,
        samples_per_pixel: int = 4,
    ) -> None:
        if frames < 1 or fps <= 0:
            raise InputError(f"SyntheticClip got frames={frames} and fps={fps}; both must be positive.")
        self.scene = SyntheticScene(seed, samples_per_pixel)
        time = torch.arange(frames, dtype=torch.float64)[None] / fps
        cameras = self.scene.world.camera_path(time.float(), hw).unbatched()
        super().__init__(f"synthetic-{seed}", f"synthetic:{seed}", cameras, fps)

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """All asked frames, rendered at native size."""
        cameras = self.cameras[indices]
        yield dataclasses.replace(cameras, rgb=self.scene.render(cameras).rgb)

    def views(self, indices: Sequence[int] | Tensor | None = None, hw: tuple[int, int] | None = None) -> Views:
        """As ``Clip.views``, but another size is rendered, not resized: sharper, with the same intrinsics."""
        if hw is None or tuple(hw) == self.cameras.hw:
            return super().views(indices)
        resized = _Resized(self, hw)
        return resized.views(indices)

    def depth(self, indices: Sequence[int]) -> Float[Tensor, "v 1 h w"]:
        """Exact z-depth in metres of the frames ``indices`` at native size."""
        depth = self.scene.render(self.cameras[list(indices)]).depth
        assert depth is not None, "worlds know their depth"
        return depth


class _Resized(SyntheticClip):
    """The same clip filmed at another size."""

    def __init__(self, clip: SyntheticClip, hw: tuple[int, int]) -> None:
        Clip.__init__(self, clip.id, clip.source, clip.cameras.covering(hw), clip.fps)
        self.scene = clip.scene


def demo_clip(hw: tuple[int, int] = (128, 128)) -> SyntheticClip:
    """The built-in clip: four seconds at twelve frames per second."""
    return SyntheticClip(DEMO_SEED, hw=hw)
