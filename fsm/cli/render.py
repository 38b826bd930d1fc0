"""``fsm render``: a scene along a camera-and-time path, to video or pictures."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fsm.cli.common import (
    Backend,
    announce_time,
    check_backend,
    check_output,
    choose_device,
    chosen_layer,
    flag,
    parse_size,
    save_settings,
)
from fsm.errors import InputError
from fsm.runs import tracked

if TYPE_CHECKING:
    from fsm.renderers.base import Scene
    from fsm.views import Views

DEFAULT_FPS = 30.0


@dataclass(frozen=True)
class Render:
    """Render a scene along a camera-and-time path to a video, a sequence of pictures or both."""

    scene: tyro.conf.Positional[Annotated[Path, flag("SCENE", "")]]
    """Scene folder, or a splat file (.ply, .splat, .spz, .sog, .ksplat)."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/render")
    """Where the video or frames/, camera_path.json and render.yaml go."""
    path: Annotated[str, flag("PATH")] = "orbit"
    """input, orbit, spiral, interpolate, still=N (the camera of input N), or a nerfstudio
    camera_path.json.
    """
    time: Annotated[str | None, flag("MODE", "a file's own times, else sweep")] = None
    """sweep (first to last moment), follow (the inputs' pace) or freeze=SECONDS."""
    frames: Annotated[int | None, flag("N", "as the clip lasts, 3 s if time is frozen")] = None
    """Number of frames."""
    fps: Annotated[float | None, flag("RATE", "a file's own, else 30")] = None
    """Frames per second."""
    size: Annotated[str | None, flag("WxH", "a file's own, else the inputs'")] = None
    """Width x height in pixels, or the height alone; the vertical field of view is kept."""
    format: Literal["mp4", "webm", "gif", "png", "exr", "both"] = "mp4"
    """H.264 or VP9 video, GIF, PNG sequence with cameras.json, EXR sequence (linear colour, alpha,
    depth), or mp4 and png.
    """
    layer: Literal["static", "moving", "all"] = "all"
    """Gaussians that stand at all times, the others, or all."""
    depth: bool = False
    """Also write depth in colours (depth.mp4, depth/)."""
    batch: Annotated[int, flag("N")] = 4
    """Frames rendered at once: more is faster and takes more memory."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""
    backend: Backend = "auto"
    """What rasterises Gaussians: gsplat (CUDA), cpu, plain (slow); auto: gsplat where it works."""

    def run(self) -> None:
        """Render and say where."""
        from fsm.open_scene import open_scene

        if self.output.suffix.lower() in (".mp4", ".webm", ".gif", ".png", ".exr"):
            raise InputError(
                f"output is {self.output}; name a folder (video.mp4 is written into it)."
            )
        check_output(self.output)
        if self.batch < 1:
            raise InputError(f"batch is {self.batch}; choose at least 1.")
        device = choose_device(self.device)
        check_backend(self.backend, device)
        scene = chosen_layer(open_scene(self.scene, device, self.backend), self.layer, self.scene)
        inputs = scene.inputs.to("cpu")
        request, fps, time = self._request(inputs)
        self._write(scene, request.to(device), fps)
        first, last = float(inputs.time.min()), float(inputs.time.max())
        from fsm.renderers.film.camera_path_json import write_camera_path

        write_camera_path(self.output / "camera_path.json", request, fps, (first, last))
        h, w = request.hw
        settings = {
            "time": time,
            "frames": len(request),
            "fps": fps,
            "size": f"{w}x{h}",
            "device": device,
        }
        save_settings(self.output / "render.yaml", self, **settings)
        print(f"{len(request)} frames of {w}x{h} at {fps:g} fps in {self.output}")

    def _request(self, inputs: "Views") -> tuple["Views", float, str]:
        """The views to render, their rate, and the mode of time in use."""
        from fsm.renderers.film.camera_paths import PATH_KINDS, fit_intrinsics, make_path

        if self.path in PATH_KINDS or self.path.startswith("still="):
            fps = DEFAULT_FPS if self.fps is None else self.fps
            time = self.time or "sweep"
            hw = parse_size(self.size, inputs.hw)
            return make_path(self.path, time, inputs, self.frames, hw, fps), _checked_fps(fps), time
        if not self.path.endswith(".json"):
            raise InputError(
                f"path is {self.path!r}; choose {', '.join(PATH_KINDS)}, still=N or a "
                "camera_path.json file."
            )
        if self.frames is not None:
            raise InputError(
                f"--frames does not apply to {self.path}, which says how many cameras it "
                "has; leave it out."
            )
        views, own_fps, time = self._read(inputs)
        fps = own_fps if self.fps is None else self.fps
        return fit_intrinsics(views, parse_size(self.size, views.hw)), _checked_fps(fps), time

    def _read(self, inputs: "Views") -> tuple["Views", float, str]:
        """A file's views with ``--time`` applied, its rate, and the mode of time in use."""
        import dataclasses

        import torch

        from fsm.renderers.film.camera_path_json import read_camera_path
        from fsm.renderers.film.camera_paths import parse_time

        first, last = float(inputs.time.min()), float(inputs.time.max())
        path = read_camera_path(self.path, (first, last))
        if self.time is None or self.time == "follow":
            if self.time == "follow" and path.times_from == "none":
                raise InputError(
                    f"{self.path} has no time for every camera to follow; choose sweep or "
                    "freeze=SECONDS."
                )
            return path.views, path.fps, "sweep" if path.times_from == "none" else "follow"
        frozen = parse_time(self.time, inputs.time)
        moments = (first, last) if frozen is None else (frozen, frozen)
        return (
            dataclasses.replace(path.views, time=torch.linspace(*moments, len(path.views))),
            path.fps,
            self.time,
        )

    def _write(self, scene: "Scene", request: "Views", fps: float) -> None:
        from fsm.renderers.film.film import write_film

        film = write_film(
            scene, request, fps, self.output, self.format, depth=self.depth, batch=self.batch
        )
        with contextlib.closing(film):  # an interrupt must leave no half film
            frames = tracked(
                film,
                "rendering",
                len(request),
                lambda seconds: announce_time(seconds, request.hw, self.size),
            )
            for _ in frames:
                pass


def _checked_fps(fps: float) -> float:
    if not 0 < fps <= 1000:
        raise InputError(f"fps is {fps}; choose a positive rate of at most 1000 frames per second.")
    return fps
