"""The world rendered: ground truth for any view at any moment, from a seed, hundreds of views a
second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.datasets.world import trace
from fsm.datasets.world.description import Bodies, CameraMotion, Surfaces, Surroundings, mapped
from fsm.datasets.world.sampling import sample_worlds
from fsm.datasets.world.surfaces import PARTS
from fsm.datasets.world.tables import TraceTables, trace_tables
from fsm.errors import InputError
from fsm.kernels.compiled import on_threads, workers
from fsm.rays import project, unproject
from fsm.views import Rendering, Views

# Rays that the plain tracer follows at once: a cache or a memory holds some hundred planes of them.
RAYS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 21}
# What counts as moving: a shift as a share of the distance, a change of shape as one of the size.
MOVED, TURNED = 0.005, 0.05


@dataclass(frozen=True)
class World:
    """A batch of b worlds as parameters; nothing is stored per pixel."""

    bodies: Bodies
    surfaces: Surfaces
    around: Surroundings
    camera: CameraMotion

    @staticmethod
    def sample(seeds: Sequence[int], device: torch.device | str = "cpu") -> "World":
        """One world per seed; a seed gives the same world in any batch and on any device."""
        if len(seeds) == 0:
            raise InputError("World.sample got no seeds; name at least one.")
        return World(*sample_worlds(seeds)).to(device)

    def __len__(self) -> int:
        """Number of worlds b."""
        return len(self.around.room)

    def __getitem__(self, index: int | slice) -> "World":
        """Some of the worlds; an integer keeps the axis."""
        index = slice(index, index + 1) if isinstance(index, int) else index
        return mapped(self, lambda t: t[index])

    def to(self, device: torch.device | str) -> "World":
        """All tensors on ``device``."""
        return mapped(self, lambda t: t.to(device))

    def camera_path(self, time: Float[Tensor, "b v"], hw: tuple[int, int]) -> Views:
        """Each world's own camera at ``time`` (seconds): 38 to 80 degrees wide, square pixels, no
        rgb.
        """
        focal = 0.5 * hw[1] / torch.tan(0.5 * self.camera.hfov)
        centre = focal.new_tensor([0.5 * hw[1], 0.5 * hw[0]]).expand(len(self), 2)
        intrinsics = torch.cat([focal[:, None], focal[:, None], centre], -1)
        return Views(self.camera.pose(time), intrinsics[:, None].expand(*time.shape, 4), time, hw)

    def render(self, views: Views, plain: bool = False) -> Rendering:
        """Pictures and exact depth at pixel centres for ``views`` [b v], each at its own time; the
        sky is 1,000 m away.

        Pixels of 4 x 4 blocks that show more than one surface are averaged over four rays, others
        filter their pattern to the pixel. On a CPU the compiled tracer renders; ``plain`` asks for
        its torch twin, which other devices use anyway.
        """
        rgb, depth, _ = self._traced(views, plain)
        return Rendering(rgb, torch.ones_like(depth), depth)

    def surfaces_seen(self, views: Views, plain: bool = False) -> Int[Tensor, "b v 1 h w"]:
        """Number of the surface at every pixel centre: body times 8 plus its face; from 128 on the
        surroundings, 134 the sky.
        """
        return self._traced(views, plain)[2].int()

    def moving(
        self, views: Views, times: Float[Tensor, "b n"], plain: bool = False
    ) -> Bool[Tensor, "b v 1 h w"]:
        """Whether what each pixel of ``views`` shows is elsewhere at one of ``times`` (seconds).

        A body counts as moving that is gone then, turns or is stretched by more than ``TURNED``, or
        is off by more than ``MOVED`` of its distance. Shadows and changing light do not count.
        """
        seen = self.surfaces_seen(views, plain)[:, :, 0]
        (shape, place), (shapes, places) = self.bodies.pose(views.time), self.bodies.pose(times)
        far = (place - views.c2w[:, :, None, :3, 3]).norm(dim=-1)  # [b v k]
        off = (place[:, :, None] - places[:, None]).norm(dim=-1)  # [b v n k]
        size = shape.flatten(3).norm(dim=-1)
        turned = (shape[:, :, None] - shapes[:, None]).flatten(4).norm(dim=-1)
        moves = (off > MOVED * far[:, :, None]) | (turned > TURNED * size[:, :, None])
        there, then = self.bodies.there(views.time), self.bodies.there(times)
        moves = (moves | (there[:, :, None] != then[:, None])).any(2)
        moves = torch.cat([moves, torch.zeros_like(moves[..., :1])], -1)
        body = torch.div(seen, PARTS, rounding_mode="floor").long()
        body = body.clamp(max=moves.shape[-1] - 1)
        return moves.gather(2, body.flatten(2)).view(body.shape)[:, :, None]

    def flow(
        self, views: Views, others: Views
    ) -> tuple[Float[Tensor, "b v 2 h w"], Bool[Tensor, "b v 1 h w"]]:
        """Where what each pixel of ``views`` shows is in ``others`` (view by view), in pixels from
        it, and whether it is seen.

        Points move with their bodies. Seen: inside the picture, in front of the camera and not
        behind what the picture shows there (to 1 % of depth), by a body that exists then.
        """
        b, v = views.time.shape
        h, w = views.hw
        _, depth, seen = self._traced(views.without_rgb(), False)
        grid = (
            torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).to(
                depth
            )
            + 0.5
        )
        pixels = grid.flatten(0, 1).expand(b, v, -1, 2)
        points = unproject(pixels, depth.flatten(2), views.c2w, views.intrinsics)
        moved = self._moved(points, seen.flatten(2), views.time, others.time)
        there, z = project(moved, others.c2w, others.intrinsics)
        _, depth_there, _ = self._traced(others.without_rgb(), False)
        size = there.new_tensor([w, h])
        inside = ((there >= 0) & (there < size)).all(-1) & (z > 0)
        column, row = (there.clamp_min(0.0).floor().minimum(size - 1)).long().unbind(-1)
        in_front = z < 1.01 * depth_there.flatten(2).gather(2, row * w + column)
        body = torch.div(seen.flatten(2), PARTS, rounding_mode="floor").long()
        alive = self.bodies.there(others.time)
        exists = torch.cat([alive, torch.ones_like(alive[..., :1])], -1).gather(2, body)
        visible = (inside & in_front & exists)[:, :, None].unflatten(-1, (h, w))
        return (there - pixels).transpose(2, 3).unflatten(-1, (h, w)), visible

    def _moved(self, points: Tensor, seen: Tensor, then: Tensor, later: Tensor) -> Tensor:
        """World points [b v n 3] on surfaces ``seen``, carried along by their bodies from one time
        to another.
        """
        before, start = self.bodies.pose(then)
        after, end = self.bodies.pose(later)
        change = after.double() @ torch.linalg.inv(before.double())
        shift = end.double() - (change @ start.double()[..., None])[..., 0]
        change = torch.cat([change, torch.eye(3).to(change).expand(*change.shape[:2], 1, 3, 3)], 2)
        shift = torch.cat([shift, torch.zeros_like(shift[:, :, :1])], 2)
        body = torch.div(seen, PARTS, rounding_mode="floor").long()
        matrix = change.gather(2, body[..., None, None].expand(*body.shape, 3, 3))
        moved = (matrix @ points.double()[..., None])[..., 0] + shift.gather(
            2, body[..., None].expand(*body.shape, 3)
        )
        return moved.float()

    def _traced(self, views: Views, plain: bool) -> tuple[Tensor, Tensor, Tensor]:
        """rgb [b v 3 h w], depth and surfaces [b v 1 h w]."""
        if views.c2w.ndim != 4 or len(views.c2w) != len(self):
            found = tuple(views.c2w.shape)
            raise InputError(
                f"views have poses of shape {found}, expected ({len(self)}, v, 4, 4): one "
                "row a world."
            )
        h, w = views.hw
        whole = (-(-h // 4) * 4, -(-w // 4) * 4)
        with torch.no_grad():
            tables = trace_tables(self.bodies, self.surfaces, self.around, views)
            traced = _compiled if tables.frames.device.type == "cpu" and not plain else _plain
            rgb, depth, seen = traced(tables, whole)
        shape = views.time.shape
        cut = (..., slice(h), slice(w))
        return (
            rgb[cut].unflatten(0, shape),
            depth[:, None][cut].unflatten(0, shape),
            seen[:, None][cut].unflatten(0, shape),
        )


def _plain(tables: TraceTables, hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The torch tracer, some frames at a time."""
    budget = RAYS_AT_ONCE["cpu" if tables.frames.device.type == "cpu" else "cuda"]
    count = max(1, budget // (hw[0] * hw[1]))
    parts = []
    for i in range(0, len(tables.frames), count):
        some = slice(i, i + count)
        parts.append(
            trace.trace_frames(
                TraceTables(
                    tables.bodies[some], tables.frames[some], tables.looks, tables.world[some]
                ),
                hw,
            )
        )
    rgb, depth, seen = (torch.cat(planes) for planes in zip(*parts, strict=True))
    return rgb, depth, seen


def _compiled(tables: TraceTables, hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The compiled tracer, frames dealt out to as many threads as torch uses."""
    from fsm.datasets.world import trace_kernels

    f = len(tables.frames)
    rgb, depth, seen = (np.empty((f, *lead, *hw), np.float32) for lead in ((3,), (), ()))
    given = (t.numpy() for t in (tables.bodies, tables.frames, tables.looks, tables.world))
    threads = min(workers(), f)
    on_threads(trace_kernels.trace_frames, threads, threads, *given, rgb, depth, seen)
    return torch.from_numpy(rgb), torch.from_numpy(depth), torch.from_numpy(seen)
