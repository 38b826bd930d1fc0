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
from fsm.datasets.world.description import (
    BODIES,
    Bodies,
    CameraMotion,
    Surfaces,
    Surroundings,
    mapped,
)
from fsm.datasets.world.sampling import sample_worlds
from fsm.datasets.world.surfaces import PARTS
from fsm.datasets.world.tables import TraceTables, trace_tables
from fsm.errors import InputError
from fsm.kernels.compiled import on_threads, workers
from fsm.rays import project, unproject
from fsm.views import Rendering, Views

# Rays that the plain tracer follows at once: a cache or a memory holds some hundred planes of them.
RAYS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 21}
MOVES = 1e-3
"""Metres that a point of a body has to move to count as moving."""


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

    def flow(
        self, views: Views, others: Views
    ) -> tuple[Float[Tensor, "b v 2 h w"], Bool[Tensor, "b v 1 h w"]]:
        """Where what each pixel of ``views`` shows is in ``others`` (view by view), in pixels from
        it, and whether it is seen.

        Points move with their bodies. Seen: inside the picture, in front of the camera and not
        behind what the picture shows there (to 1 % of depth), by a body that exists then.
        """
        h, w = views.hw
        pixels, points, seen = self._points(views)
        moved = self._moved(points, seen, views.time, others.time)
        there, z = project(moved, others.c2w, others.intrinsics)
        _, depth_there, _ = self._traced(others.without_rgb(), False)
        size = there.new_tensor([w, h])
        inside = ((there >= 0) & (there < size)).all(-1) & (z > 0)
        column, row = (there.clamp_min(0.0).floor().minimum(size - 1)).long().unbind(-1)
        in_front = z < 1.01 * depth_there.flatten(2).gather(2, row * w + column)
        body = torch.div(seen, PARTS, rounding_mode="floor").long()
        alive = self.bodies.there(others.time)
        exists = torch.cat([alive, torch.ones_like(alive[..., :1])], -1).gather(2, body)
        visible = (inside & in_front & exists)[:, :, None].unflatten(-1, (h, w))
        return (there - pixels).transpose(2, 3).unflatten(-1, (h, w)), visible

    def scene_flow(self, views: Views, later: Float[Tensor, "b v"]) -> Float[Tensor, "b v 3 h w"]:
        """How far in metres the point under each pixel of ``views`` has moved at ``later``
        (seconds): with its body, whether that body still exists then or not.
        """
        _, points, seen = self._points(views)
        way = self._moved(points, seen, views.time, later) - points
        return way.transpose(2, 3).unflatten(-1, views.hw)

    def moving_bodies(self, time: Float[Tensor, "b v"]) -> Bool[Tensor, "b k"]:
        """Bodies that are not the same at all of the moments ``time``: they come or go, or a corner
        of the box around them moves by more than ``MOVES``.
        """
        matrix, middle = self.bodies.pose(time)
        sides = torch.tensor([-1.0, 1.0]).to(matrix)
        corners = torch.cartesian_prod(sides, sides, sides).T  # [3 8]
        places = matrix @ corners + middle[..., None]  # [b v k 3 8]
        there = self.bodies.there(time)
        travel = (places - places[:, :1]).norm(dim=-2).amax((1, 3))
        return there.any(1) & ((travel > MOVES) | ~there.all(1))

    def moving(self, views: Views, time: Float[Tensor, "b m"]) -> Bool[Tensor, "b v 1 h w"]:
        """Which pixels of ``views`` show a body that moves within the moments ``time``; shadows do
        not count.
        """
        surface = self.surfaces_seen(views)
        body = torch.div(surface, PARTS, rounding_mode="floor").long()
        moves = self.moving_bodies(time)
        moves = torch.cat([moves, torch.zeros_like(moves[:, :1])], 1)  # the surroundings stand
        return moves.gather(1, body.clamp_max(BODIES).flatten(1)).reshape(surface.shape)

    def _points(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel centres [b v n 2], the world points [b v n 3] under them and their surfaces
        [b v n].
        """
        h, w = views.hw
        _, depth, seen = self._traced(views.without_rgb(), False)
        rows = torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")
        grid = torch.stack(rows, -1).to(depth) + 0.5
        pixels = grid.flatten(0, 1).expand(*views.time.shape, -1, 2)
        points = unproject(pixels, depth.flatten(2), views.c2w, views.intrinsics)
        return pixels, points, seen.flatten(2)

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
