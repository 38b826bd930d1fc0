"""A scene of Gaussians as a recording for viser's own client: one page that plays from disk, or a
``.viser`` file.

What does not move is one node for all moments. Everything else is a second node whose splats are
replaced moment by moment: viser sorts and draws all splats that it holds, shown or not, so that a
node for every moment would cost them all at once. Their number never changes, because the client
shows nothing until it has sorted a node of another size; a Gaussian keeps its place among them
while it is there, so that an order of a moment ago is nearly right.
"""

import html
import math
import secrets
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt32
from numpy import ndarray
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.gaussians4d import MovingGaussians
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files.sequence import frame_times
from fsm.viewer.cameras import Camera, up_direction, viewing_distance
from fsm.viewer.gate import Gate
from fsm.viewer.input_cameras import InputCameras
from fsm.viewer.modes import as_bytes
from fsm.viewer.native_splats import FAINTEST, add_rows, pack, present, unit_for
from fsm.viewer.server import free_port, quiet, start_server

FPS = 10.0
"""Moments per second."""
STILL = 2.5e-4
"""Of the distance that the cameras look at: what moves less over the clip stands still."""
SAME_LEVEL = 1 / 255
"""What fades less than this over the clip stands still: opacities have 8 bits."""
MAX_UNPACKED = 1 << 30
"""Bytes of splats in a browser's memory."""
MAX_CONTENT = 128 << 20
"""Bytes of a page or file; browsers read a page whole before they show anything."""
SMALLER = "lower --fps, or raise --min-opacity"
CLASSIC_WORKER = """<script>
if (location.protocol === "file:") {
  const Plain = Worker;
  window.Worker = function (url, options) {
    if (options?.type !== "module" || !String(url).startsWith("blob:"))
      return new Plain(url, options);
    const request = new XMLHttpRequest();
    request.open("GET", url, false);
    request.send();
    const source = request.responseText.replaceAll("import.meta.url", "'file:///'");
    return new Plain(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  };
}
</script>"""
"""viser sorts splats in a module worker, which Chromium does not start in a page from disk (they
would be drawn in no order, without a word); the same source runs as a classic one."""


@dataclass(frozen=True)
class Recording:
    """A page or file, and what is in it."""

    content: bytes
    moments: tuple[float, ...]
    """Seconds of the clip."""
    still: int
    """Gaussians that stand still."""
    moving: int
    """Gaussians that move, appear or disappear: the most at one moment."""


def record(
    scene: GaussianScene,
    kind: Literal["html", "viser"],
    *,
    fps: float = FPS,
    min_opacity: float = 0.0,
    up: str | None = None,
    name: str = "FSM",
) -> Recording:
    """All moments of ``scene``, ``fps`` a second, as a page titled ``name`` or as a ``.viser``
    file.

    Gaussians less opaque than ``min_opacity`` at a moment are left out of it. ``up`` is an axis of
    the clip's space ("y", "-z"), without it the cameras' mean. The page starts at the first input's
    camera. Colours are those of spherical harmonics of degree 0. What would be too large raises
    ``InputError``.
    """
    moments = record_moments(scene.inputs.time, fps)
    recorded = RecordedGaussians.of(scene, moments, min_opacity)
    if recorded.nbytes == 0:
        raise InputError("the scene has no Gaussians to show; choose a lower --min-opacity.")
    if recorded.nbytes > MAX_UNPACKED:
        raise InputError(
            f"the scene would take {recorded.nbytes / 1e9:.1f} GB in a browser's memory; {SMALLER}."
        )
    # viser records only what a running server is told; nobody is let in.
    gate = Gate("127.0.0.1", secrets.token_urlsafe())
    server = start_server("127.0.0.1", free_port("127.0.0.1", 0), gate)
    try:
        inputs = InputCameras.of(scene.inputs)
        _set_up(server, inputs, scene.background, up)
        dark = float(scene.background.mean()) < 0.5
        serializer = _play(server, recorded, moments, fps)
        content = _page(serializer, dark, name) if kind == "html" else serializer.serialize()
    finally:
        with quiet():
            server.stop()
    if len(content) > MAX_CONTENT:
        most = f"{MAX_CONTENT >> 20} MiB that browsers still open well"
        raise InputError(
            f"the {kind} would have {len(content) / 2**20:.0f} MiB, more than the {most}; "
            f"{SMALLER}."
        )
    return Recording(content, tuple(moments), len(recorded.still), recorded.slots)


def record_moments(times: Float[Tensor, " v"], fps: float) -> list[float]:
    """Seconds of the moments to record: as ``frame_times``, and one where the clip is shorter than
    two.
    """
    if math.isfinite(fps) and fps > 0 and float(times.max() - times.min()) * fps < 1 - 1e-4:
        return [float(times.min())]
    return frame_times(times, fps)


@dataclass(frozen=True)
class RecordedGaussians:
    """A scene's Gaussians, moment by moment, as rows for viser."""

    world: MovingGaussians
    """In the clip's space; times are the model's, colour is of degree 0."""
    times: tuple[float, ...]
    """Of the moments, the model's."""
    min_opacity: float
    still: Int[Tensor, " s"]
    """Indices of those that stand still."""
    slot: Int[ndarray, " n"]
    """Row of each of the others while it is there; -1 for those that are still or never there."""
    slots: int
    """Rows of the others at every moment."""
    unit: float
    """Length that rows are in, in the clip's unit."""

    @staticmethod
    def of(
        scene: GaussianScene, moments: list[float], min_opacity: float = 0.0
    ) -> "RecordedGaussians":
        """Sort out what stands still, and give rows to the rest."""
        world = scene.in_clip_space(max_sh_degree=0).to("cpu")
        times = [float(scene.frame.at(seconds)) for seconds in moments]
        floor = max(min_opacity, FAINTEST)
        n, last = len(world), len(times) - 1
        first_seen, last_seen = torch.full((n,), -1), torch.full((n,), -1)
        least, most, seen = (
            world.opacities.clone(),
            torch.zeros_like(world.opacities),
            torch.zeros(n, dtype=torch.long),
        )
        for i, time in enumerate(times):
            there = present(world, time, floor)
            first_seen[there & (first_seen < 0)] = i
            last_seen[there] = i
            seen += there
            opacity = world.opacities * world.weights(time)
            least, most = torch.minimum(least, opacity), torch.maximum(most, opacity)
        moved = world.velocities.norm(dim=-1) * (times[last] - times[0])
        rests = (moved < STILL * viewing_distance(scene.inputs)) & (most - least < SAME_LEVEL)
        rests &= ~world.follows
        still = (rests & (seen == len(times))).nonzero()[:, 0]
        first_seen[still] = last_seen[still] = -1
        slot, slots = interval_slots(first_seen.numpy(), last_seen.numpy(), len(times))
        return RecordedGaussians(
            world, tuple(times), floor, still, slot, slots, unit_for(world.covariances[seen > 0])
        )

    @property
    def nbytes(self) -> int:
        """Of all rows."""
        return 32 * (len(self.still) + self.slots * len(self.times))

    def still_rows(self) -> UInt32[ndarray, "s 8"]:
        """What stands still, as in the middle of the clip."""
        return pack(self.world[self.still].at(self.times[len(self.times) // 2], 0.0), self.unit)

    def moving_rows(
        self, i: int, before: UInt32[ndarray, "m 8"] | None = None
    ) -> UInt32[ndarray, "m 8"]:
        """The others at moment ``i``; rows of nobody are those ``before``, transparent."""
        rows = np.zeros((self.slots, 8), np.uint32) if before is None else before.copy()
        rows[:, 7] &= 0x00FFFFFF
        there = present(self.world, self.times[i], self.min_opacity) & (
            torch.from_numpy(self.slot) >= 0
        )
        index = there.nonzero()[:, 0]
        rows[self.slot[index.numpy()]] = pack(self.world[index].at(self.times[i], 0.0), self.unit)
        return rows


def interval_slots(
    first: Int[ndarray, " n"], last: Int[ndarray, " n"], count: int
) -> tuple[Int[ndarray, " n"], int]:
    """A place for each of n intervals of moments, its own from ``first`` to ``last``, and how many
    places: the fewest.

    Those with ``first`` -1 get none (-1). There are ``count`` moments.
    """
    slot, slots = np.full(len(first), -1), 0
    free = np.empty(0, dtype=slot.dtype)
    for moment in range(count):
        if moment:
            free = np.concatenate([free, slot[(last == moment - 1) & (first >= 0)]])
        entering = np.flatnonzero(first == moment)
        new = max(0, len(entering) - len(free))
        pool = np.concatenate([free, np.arange(slots, slots + new)])
        slots += new
        slot[entering], free = pool[: len(entering)], pool[len(entering) :]
    return slot, slots


def _page(serializer: Any, dark: bool, name: str) -> bytes:
    """viser's page with our title, and able to sort when it is opened from disk."""
    page: str = serializer.as_html(dark_mode=dark)
    title = "<title>Viser</title>"
    if page.count("<head>") < 1 or title not in page:
        raise RuntimeError(
            "this viser makes its page in a way that is not known here; install viser 1.1."
        )
    page = page.replace(title, f"<title>{html.escape(name)}</title>", 1)
    return page.replace("<head>", f"<head>{CLASSIC_WORKER}", 1).encode()


def _set_up(
    server: Any, inputs: InputCameras, background: Float[Tensor, " 3"], up: str | None
) -> None:
    """Up direction, the first camera, and what is behind everything."""
    views = inputs.views
    axis = (
        up_direction(views)
        if up is None
        else tuple(float(up[-1] == a) * (-1 if up[0] == "-" else 1) for a in "xyz")
    )
    server.scene.set_up_direction(axis)
    first = Camera.of_view(views, int(views.time.argmin()))
    distance = viewing_distance(views)
    camera = server.initial_camera
    camera.position, camera.up, camera.fov = first.position, axis, first.fov
    camera.look_at = tuple((first.c2w[:3, 3] + distance * first.c2w[:3, 2]).tolist())
    camera.near, camera.far = 1e-3 * distance, 1e3 * distance
    server.scene.set_background_image(
        as_bytes(background[:, None, None].expand(3, 2, 2)), format="png"
    )


def _play(
    server: Any,
    recorded: RecordedGaussians,
    moments: list[float],
    fps: float,
) -> Any:
    """Tell ``server`` all that is to be seen, and return viser's serializer of it."""
    if len(recorded.still):
        add_rows(server, "/gaussians/still", recorded.still_rows(), recorded.unit)
    rows = recorded.moving_rows(0)
    moving = add_rows(server, "/gaussians/moving", rows, recorded.unit) if recorded.slots else None
    serializer = server.get_scene_serializer()
    for i in range(1, len(moments)):
        serializer.insert_sleep(1 / fps)
        if moving is not None:
            rows = moving.buffer = recorded.moving_rows(i, rows)
    if len(moments) > 1:
        serializer.insert_sleep(1 / fps)
    return serializer
