"""``fsm view``: a scene, a clip or a splat file in the browser."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fsm.cli.common import (
    Backend,
    announce_time,
    check_backend,
    choose_device,
    flag,
    reading_seconds,
    working_hw,
)
from fsm.cli.reconstruct import DEFAULT_MODELS, choose_frames
from fsm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsm.datasets.base import Clip
    from fsm.viewer import Gallery

    Coming = tuple[Iterator[Any], int]
    """Scenes that are still to be made, and how many frames the last one will have been made from.
    """

INPUTS = 32
SPLATS = (".ply", ".splat", ".spz", ".sog", ".ksplat")


@dataclass(frozen=True)
class View:
    """Explore a scene, a clip, a splat file or a folder of scenes in the browser: any camera at any
    moment, live.
    """

    scene: tyro.conf.Positional[Annotated[str, flag("SCENE|CLIP|FILE|FOLDER", "")]]
    """Scene folder; splat file; a clip, which is reconstructed first; or a folder of
    scenes and splat files.
    """
    host: Annotated[str, flag("ADDRESS")] = "127.0.0.1"
    """Address to bind; one that others can reach (0.0.0.0) needs --token."""
    port: Annotated[int, flag("PORT")] = 8080
    """Port; the next free one is taken."""
    token: Annotated[str | None, flag("WORD", "none")] = None
    """Word of 16 or more letters and digits without which nobody is let in."""
    share: bool = False
    """Also open a public address through viser's service; whoever has it, with its token, is let
    in.
    """
    model: Annotated[str | None, flag("MODEL", "fsm-tiny")] = None
    """For a clip: bundled name, folder, or hub name owner/name."""
    id: Annotated[str | None, flag("NAME", "the only clip")] = None
    """For a clip: which one, where there are several."""
    inputs: Annotated[int | None, flag("N", str(INPUTS))] = None
    """For a clip: frames read, spread evenly over it; 0 reads all."""
    size: Annotated[str | None, flag("WxH", "the clip's, up to 512 pixels high")] = None
    """For a clip: working size; frames are scaled to cover it and cropped about the centre."""
    static: bool = False
    """Take all frames for one moment: nothing moves, and there is no clock."""
    stream: bool = False
    """For a clip: serve after the first frames and read on meanwhile, so that one sees the scene
    being learnt.
    """
    push: Annotated[int | None, flag("N", "the model's chunk")] = None
    """With --stream: frames read at a time."""
    compare: Annotated[str | None, flag("SCENE|FILE", "nothing")] = None
    """Scene folder, or splat file, to set beside it under a wipe line; in the same
    space, on the same clock.
    """
    clip: Annotated[str | None, flag("CLIP", "none")] = None
    """For a scene folder: the clip it was made from (--id: which one), for pictures of its inputs
    and 3D tracks.
    """
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""
    backend: Backend = "auto"
    """What rasterises Gaussians: gsplat (CUDA), cpu, plain (slow); auto: gsplat where it works."""

    def run(self) -> None:
        """Serve until interrupted."""
        from fsm.viewer import GalleryViewer, Viewer
        from fsm.viewer.gate import Gate
        from fsm.viewer.server import free_port

        check_backend(self.backend, choose_device(self.device))
        Gate(self.host, self.token)  # refuse before a clip is reconstructed, not after
        free_port(self.host, self.port)
        if self.push is not None and not self.stream:
            raise InputError(
                f"--push is {self.push}, which says how --stream reads; add --stream or "
                "leave it out."
            )
        served: dict[str, Any] = {"host": self.host, "port": self.port, "token": self.token}
        clip = coming = None
        if self._is_gallery():
            viewer = GalleryViewer(self._gallery(), **served)
        else:
            compare = self._compared()
            scene, clip, coming = self._scene()
            viewer = Viewer(scene, clip=clip, compare=compare, name=Path(self.scene).name, **served)
        shared = self._shared(viewer) if self.share else None
        print(f"{self.scene} at {viewer.url} (Ctrl-C ends it)", flush=True)
        if shared is not None:
            print(f"shared at {shared}", flush=True)
        if isinstance(viewer, Viewer) and coming is not None:
            viewer.stream(coming[0], clip=clip, total=coming[1])
        viewer.run()

    def _is_gallery(self) -> bool:
        """Whether a folder is meant to be chosen from: it is neither a scene nor a clip, by the
        files directly in it.
        """
        from fsm.datasets.open import holds_clip

        path = Path(self.scene)
        return (
            self.scene != "demo"
            and path.is_dir()
            and not (path / "scene.json").is_file()
            and not holds_clip(path)
        )

    def _gallery(self) -> "Gallery":
        from fsm.viewer import Gallery

        for name in ("model", "id", "inputs", "size", "stream", "compare", "clip"):
            if getattr(self, name) not in (None, False):
                raise InputError(
                    f"--{name} is for one clip or scene, but {self.scene} is a folder of "
                    "them; name one."
                )
        return Gallery(self.scene, choose_device(self.device), backend=self.backend)

    def _shared(self, viewer: Any) -> str | None:
        """The public address; where there is none the viewer goes on without, so the error is said
        here.
        """
        try:
            return viewer.share()
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return None

    def _compared(self) -> dict[str, Any]:
        """The scene to compare with, by a name that tells it from the other."""
        from fsm.open_scene import open_scene

        if self.compare is None:
            return {}
        path = Path(self.compare)
        name = path.parent.name if path.name == "scene.json" else path.name
        return {
            str(path) if name == Path(self.scene).name else name: open_scene(
                path, choose_device(self.device), self.backend
            )
        }

    def _scene(self) -> tuple[Any, "Clip | None", "Coming | None"]:
        """What to show; the clip it is made from, and the scenes that follow, where it is made
        now.
        """
        from fsm.open_scene import open_scene

        path = Path(self.scene)
        saved = (
            path.suffix.lower() in (*SPLATS, ".safetensors")
            or path.name == "scene.json"
            or (path / "scene.json").is_file()
        )
        if not saved:
            if self.clip is not None:
                raise InputError(
                    f"--clip is for scenes, but {path} is a clip itself; leave it out."
                )
            return self._made(path)
        for name in ("model", "id", "inputs", "size", "stream"):
            if getattr(self, name) not in (None, False) and not (
                name == "id" and self.clip is not None
            ):
                raise InputError(
                    f"--{name} is for clips, but {path} is a scene already; leave it out."
                )
        scene = open_scene(path, choose_device(self.device), self.backend)
        return scene, self._source(scene), None

    def _source(self, scene: Any) -> "Clip | None":
        """The clip that ``scene`` is said to be made from, checked against its inputs."""
        from fsm.datasets.open import open_clip
        from fsm.viewer.input_cameras import made_from

        if self.clip is None:
            return None
        clip = open_clip(self.clip, self.id, static=self.static)
        if not made_from(scene.inputs, clip):
            raise InputError(
                f"--clip is {self.clip}, which lacks frames of the moments and places that "
                f"{self.scene} was made from; "
                "name the clip it was made from, or leave it out."
            )
        return clip

    def _made(self, path: Path) -> tuple[Any, "Clip", "Coming | None"]:
        """The scene of a clip, or the first one of those after each push of its frames."""
        import time

        from fsm.datasets.open import is_built_in, open_clip
        from fsm.model import FSM
        from fsm.open_scene import with_backend
        from fsm.viewer.clip_stream import scenes_of_clip

        if not path.exists() and not is_built_in(self.scene):
            raise InputError(
                f"{path} does not exist; give a scene folder, a {', '.join(SPLATS)} file or a clip."
            )
        clip = open_clip(self.scene, self.id, static=self.static)
        wanted = INPUTS if self.inputs is None else self.inputs
        index = choose_frames(range(len(clip)), wanted, 0, clip.cameras.time.tolist())
        hw = working_hw(self.size, clip.cameras.hw)
        model = FSM.from_pretrained(
            self.model or DEFAULT_MODELS["lvsm"], device=choose_device(self.device)
        )
        hw = model.working_size(hw)
        began = time.perf_counter()
        coming = None
        if self.stream:
            pushes = scenes_of_clip(model, clip, index, hw, self.push)
            scenes = (with_backend(s, self.backend) for s in pushes)
            scene, coming = next(scenes), (scenes, len(index))
        else:
            inputs = clip.views(index, hw)
            announce_time(reading_seconds(model, inputs), hw, self.size)
            began = time.perf_counter()
            scene = with_backend(model.reconstruct(inputs), self.backend)
        print(
            f"{len(scene.inputs)} of {len(clip)} frames read in {time.perf_counter() - began:.2f} s"
        )
        return scene, clip, coming
