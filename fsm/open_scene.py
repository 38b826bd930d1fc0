"""Anything that can be rendered, by its path: a scene folder of either kind or a splat file."""

from pathlib import Path

import torch

from fsm.errors import InputError
from fsm.files import read_json
from fsm.memory_scene import MemoryScene
from fsm.model import FSM
from fsm.renderers.gaussians.rasterize import Backend
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files import SUFFIXES, open_splats
from fsm.renderers.splat_files.moving import open_moving


def open_scene(
    path: Path | str, device: torch.device | str = "cpu", backend: Backend = "auto"
) -> MemoryScene | GaussianScene:
    """The scene in a folder with scene.json, in a splat file, or in a .safetensors of moving
    Gaussians.

    Gaussians are rasterised as ``with_backend`` says. Anything else is an ``InputError``.
    """
    return with_backend(_opened(Path(path), device), backend)


def with_backend(
    scene: MemoryScene | GaussianScene, backend: Backend
) -> MemoryScene | GaussianScene:
    """A scene of Gaussians that ``backend`` rasterises; another scene as it is.

    Raises ``InputError`` where the backend cannot work on the scene's device.
    """
    return scene.with_backend(backend) if isinstance(scene, GaussianScene) else scene


def _opened(path: Path, device: torch.device | str) -> MemoryScene | GaussianScene:
    if path.is_file() and path.suffix.lower() == ".safetensors":
        return open_moving(path, device)
    if path.is_file() and path.name != "scene.json":
        return open_splats(path, device)
    folder = path.parent if path.is_file() else path
    if not (folder / "scene.json").is_file():
        wanted = (
            "a folder with scene.json written by `fsm reconstruct`, or a "
            f"{', '.join(SUFFIXES)} or .safetensors file"
        )
        raise InputError(
            f"{path} is {'a folder without' if path.is_dir() else 'not'} a scene; give {wanted}."
        )
    meta = read_json(folder / "scene.json")
    kind = meta.get("kind") if isinstance(meta, dict) else None
    if kind == "gaussians":
        return GaussianScene.load(folder, device=device)
    if kind == "memory":
        return MemoryScene.load(folder, lambda name: FSM.from_pretrained(name, device=device))
    raise InputError(
        f"{folder / 'scene.json'} has kind {kind!r}; this version opens 'memory' and 'gaussians'."
    )
