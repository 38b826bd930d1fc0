"""Scoring what was made before: a scene in a folder, or pictures that any program rendered."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from fsm.datasets.base import Clip, IndexPlan
from fsm.datasets.readers.images import image_size, read_rgb
from fsm.errors import InputError
from fsm.evaluate.protocols import even_positions
from fsm.evaluate.results import ModelInfo
from fsm.evaluate.scoring import Method
from fsm.frame_ids import among
from fsm.renderers.base import Scene
from fsm.views import Rendering, Views

MOST = 64  # frames scored of those that a scene has not seen


def scene_method(scene: Scene, path: Path, device: str) -> Method:
    """A method whose scene is there already, whatever the inputs."""
    return Method(lambda _: scene, ModelInfo(str(path), _digest(path), device, "float32"))


def unseen_plan(clip: Clip, seen: Int64[Tensor, "n 2"] | None, source: Path) -> IndexPlan:
    """The frames of ``clip`` that a scene has seen as inputs, and at most ``MOST`` of the others,
    evenly spread, as targets.

    Raises ``InputError`` where the scene does not say what it has seen, has seen no frame of the
    clip, or all of them.
    """
    if seen is None:
        raise InputError(f"{source} does not say which frames it has seen; make it again.")
    ids = clip.cameras.frame_ids
    assert ids is not None, "the frames of a clip have ids"
    known = among(ids, seen).tolist()
    inputs = [i for i, k in enumerate(known) if k]
    others = [i for i, k in enumerate(known) if not k]
    if not inputs:
        raise InputError(f"{source} has seen no frame of {clip.source}; give the clip it is of.")
    if not others:
        raise InputError(
            f"{source} has seen every frame of {clip.source}; hold some out (--hold-out 8) when "
            "it is made."
        )
    chosen = [others[k] for k in even_positions(len(others), min(MOST, len(others)))]
    return IndexPlan(tuple(inputs), tuple(chosen))


def pictures_method(folder: Path) -> Method:
    """A method that shows the pictures of ``folder``: ``NUMBER.png`` (any leading zeros or words)
    for the clip's frame of that number.

    Raises ``InputError`` where two files have one number.
    """
    files: dict[int, Path] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        digits = "".join(c if c.isascii() and c.isdecimal() else " " for c in file.stem).split()
        if file.suffix.lower() in (".png", ".jpg", ".jpeg") and digits:
            number = int(digits[-1])
            if number in files:
                raise InputError(
                    f"{folder}: {files[number].name} and {file.name} are both {number}."
                )
            files[number] = file
    if not files:
        raise InputError(f"{folder} holds no pictures named by frame numbers, as in 00012.png.")
    shown = _Pictures(folder, files)
    return Method(lambda _: shown, ModelInfo(str(folder), _digest(folder), "cpu", "uint8"))


@dataclass(frozen=True)
class _Pictures:
    """Pictures by frame number, in the place of a scene."""

    folder: Path
    files: dict[int, Path]

    @property
    def frames_seen(self) -> None:
        """Not known."""
        return

    def render(self, views: Views) -> Rendering:
        """The pictures of the frames that ``views`` are. ``InputError`` where one is lacking."""
        assert views.frame_ids is not None, "targets of a protocol have ids"
        pictures = []
        for number in views.frame_ids[:, 1].tolist():
            file = self.files.get(number)
            if file is None:
                raise InputError(
                    f"{self.folder} has no picture of frame {number}; the protocol asks for "
                    f"{len(views)} frames, as plans.json lists them."
                )
            if image_size(file) != views.hw:
                h, w = image_size(file)
                raise InputError(
                    f"{file} is {w} x {h} pixels, the protocol's pictures are {views.hw[1]} x "
                    f"{views.hw[0]}; pass --size {w}x{h}, or render that size."
                )
            rgb = torch.from_numpy(read_rgb(file, views.hw).copy())
            pictures.append(rgb.permute(2, 0, 1).float() / 255.0)
        return Rendering(torch.stack(pictures))

    def save(self, path: Path | str) -> None:
        """Pictures are no scene."""
        raise InputError(f"{self.folder} holds pictures, which are not saved as a scene.")


def _digest(path: Path) -> str:
    """Hash of the files of a folder, or of a file."""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.name}\n".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
