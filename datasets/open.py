"""Find out what a path is and open it: the one entrance for the command line, training and the
viewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsm.datasets.base import Clip, ClipDataset
from fsm.errors import InputError
from fsm.files import read_json

DEMO = "world:14223"
"""What ``demo`` opens: people, shadows and open ground; no seed of an evaluation."""
SHOWN = 5
UNDERSTOOD = (
    "an FSM clip or list (.json, .jsonl), a transforms.json or its folder (nerfstudio, "
    "instant-ngp, DL3DV), "
    "a D-NeRF folder (transforms_train.json), a cameras.json or its folder, "
    "a Stereo4D annotation (.npz with its mp4 beside it) or a folder of them, "
    "a folder with a COLMAP model, with poses_bounds.npy (LLFF), or of Nerfies, HyperNeRF or "
    "DyCheck, "
    "a RealEstate10K .txt beside its frames, a pixelSplat .torch chunk, a MegaSaM .npz, "
    "a folder of CUT3R or MonST3R, "
    "'demo' or 'world:SEED' (or a range of seeds, 'world:1000-1015'; with ':rig=8x12' or "
    "':ring=12' by several cameras)"
)


def is_built_in(name: str) -> bool:
    """Whether a clip needs no file: ``demo`` or ``world:SEED``.

    The removed ``synthetic`` and ``synthetic:SEED`` are an ``InputError`` that names ``world``.
    """
    if name == "synthetic" or name.startswith("synthetic:"):
        raise InputError(
            f"{name!r} is no longer built in; use {name.replace('synthetic', 'world')!r}, "
            "the procedural world that replaced it, or 'demo'."
        )
    return name == "demo" or name.startswith("world:")


@dataclass(frozen=True)
class StaticClips:
    """The clips of another data set, each as a static capture."""

    dataset: ClipDataset

    @property
    def ids(self) -> tuple[str, ...]:
        """The same names."""
        return self.dataset.ids

    def __len__(self) -> int:
        """The same number."""
        return len(self.dataset)

    def clip(self, id: str) -> Clip:
        """One clip, all its frames at time 0."""
        return self.dataset.clip(id).as_static()


def open_dataset(path: str | Path, fix_poses: bool = False, static: bool = False) -> ClipDataset:
    """The clips behind a path or name, recognised by their files.

    ``fix_poses`` takes the nearest rotation of scaled or sheared poses; ``static`` makes static
    captures of all clips. Raises ``InputError`` with what was looked for where nothing is
    recognised.
    """
    dataset = _recognised(path, fix_poses)
    return StaticClips(dataset) if static else dataset


KINDS = {
    "WorldClips": "procedural world",
    "Transforms": "transforms.json (nerfstudio, instant-ngp, DL3DV, D-NeRF)",
    "CamerasJson": "cameras.json",
    "FsmClips": "FSM clip",
    "Stereo4D": "Stereo4D annotation",
}
"""Formats by the class that reads them."""


def kind_of(dataset: ClipDataset) -> str:
    """Name of the format that ``dataset`` was recognised as."""
    inner = dataset.dataset if isinstance(dataset, StaticClips) else dataset
    return getattr(inner, "kind", KINDS.get(type(inner).__name__, type(inner).__name__))


def _recognised(path: str | Path, fix_poses: bool) -> ClipDataset:
    if is_built_in(str(path)):
        from fsm.datasets.world.names import WorldClips

        return WorldClips(DEMO if str(path) == "demo" else str(path))
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; a clip is {UNDERSTOOD}.")
    if without_cameras(path):
        kind = "a film" if path.is_file() else "a folder of photos"
        raise InputError(
            f"{path} is {kind} without cameras; find them with: fsm poses {path} -o clip/"
        )
    return _folder(path, fix_poses) if path.is_dir() else _file(path, fix_poses)


def _folder(path: Path, fix_poses: bool) -> ClipDataset:
    """The clips of a folder, by the files in it; the most telling ones first."""
    from fsm.datasets.readers.colmap import model_folder, read_colmap
    from fsm.datasets.readers.estimators import is_cut3r, is_monst3r, read_cut3r, read_monst3r
    from fsm.datasets.readers.film_rig import films_in, read_film_rig
    from fsm.datasets.readers.llff import FILE, read_llff
    from fsm.datasets.readers.nerfies import is_nerfies, read_nerfies
    from fsm.datasets.readers.single import SingleClip
    from fsm.datasets.readers.stereo4d import Stereo4D
    from fsm.datasets.readers.transforms_json import Transforms

    if (path / "transforms.json").is_file() or (path / "transforms_train.json").is_file():
        return Transforms(path, fix_poses)
    if is_nerfies(path):
        return SingleClip(path, read_nerfies, "Nerfies, HyperNeRF or DyCheck")
    if is_cut3r(path):
        return SingleClip(path, read_cut3r, "CUT3R")
    if is_monst3r(path):
        return SingleClip(path, read_monst3r, "MonST3R")
    clips, lists = _clip_files(path)
    if not clips and not lists:
        if model_folder(path) is not None:
            return SingleClip(path, read_colmap, "COLMAP model")
        if (path / FILE).is_file():
            if films_in(path):
                return SingleClip(path, read_film_rig, "Neural 3D Video: films of a rig")
            return SingleClip(path, read_llff, "LLFF poses_bounds.npy")
        if any(path.glob("*.npz")):
            return Stereo4D(path, fix_poses=fix_poses)
    return _file(_clip_file(path), fix_poses)


def _file(path: Path, fix_poses: bool) -> ClipDataset:
    """The clips of a file, by its name and what it holds."""
    from fsm.datasets.readers.cameras_json import CamerasJson, is_cameras_json
    from fsm.datasets.readers.fsm_clips import FsmClips
    from fsm.datasets.readers.megasam import is_megasam, read_megasam
    from fsm.datasets.readers.pixelsplat import PixelSplatChunk
    from fsm.datasets.readers.re10k import is_re10k, read_re10k
    from fsm.datasets.readers.single import SingleClip
    from fsm.datasets.readers.stereo4d import Stereo4D
    from fsm.datasets.readers.transforms_json import Transforms

    if path.suffix == ".npz":
        if is_megasam(path):
            return SingleClip(path, read_megasam, "MegaSaM")
        return Stereo4D(path, fix_poses=fix_poses)
    if path.suffix == ".torch":
        return PixelSplatChunk(path)
    if path.suffix == ".txt" and is_re10k(path):
        return SingleClip(path, read_re10k, "RealEstate10K")
    if path.suffix not in (".json", ".jsonl"):
        raise InputError(f"{path} is none of the known formats; a clip is {UNDERSTOOD}.")
    value = read_json(path) if path.suffix == ".json" else None
    if _is_transforms(value):
        return Transforms(path, fix_poses)
    if is_cameras_json(value):
        return CamerasJson(path, fix_poses)
    return FsmClips(path, fix_poses)


FILMS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
PHOTOS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


def without_cameras(path: Path) -> bool:
    """Whether a path is a film, or a folder of photos (or of folders of photos) and of nothing
    that would be a clip.
    """
    if path.is_file():
        return path.suffix.lower() in FILMS
    if not path.is_dir() or holds_clip(path):
        return False
    files = [*path.iterdir(), *(f for d in path.iterdir() if d.is_dir() for f in d.iterdir())]
    others = {f.suffix.lower() for f in files if f.is_file()} - set(PHOTOS)
    return any(f.suffix.lower() in PHOTOS for f in files) and not others & {".bin", ".npy", ".npz"}


def holds_clip(folder: Path) -> bool:
    """Whether ``open_dataset`` takes a folder for a clip or for several, sound or not: it goes by
    the files directly in it.
    """
    if (folder / "transforms.json").is_file() or (folder / "transforms_train.json").is_file():
        return True
    if any(folder.glob("*.npz")) and not any(folder.glob("*.json*")):
        return True
    from fsm.datasets.readers.colmap import model_folder
    from fsm.datasets.readers.estimators import is_cut3r, is_monst3r
    from fsm.datasets.readers.llff import FILE
    from fsm.datasets.readers.nerfies import is_nerfies

    if is_nerfies(folder) or is_cut3r(folder) or is_monst3r(folder):
        return True
    if (folder / FILE).is_file() or model_folder(folder) is not None:
        return True
    clips, lists = _clip_files(folder)
    return bool(clips or lists)


def open_clip(
    path: str | Path, clip_id: str | None = None, fix_poses: bool = False, static: bool = False
) -> Clip:
    """One clip: the one named ``clip_id``, or the only (of splits: the training) one behind
    ``path``.
    """
    dataset = open_dataset(path, fix_poses, static)
    if clip_id is None and len(dataset) > 1 and "train" not in dataset.ids:
        raise InputError(
            f"{path} holds {len(dataset)} clips; name one of them: {_shown(dataset.ids)}"
        )
    default = "train" if "train" in dataset.ids else dataset.ids[0]
    return dataset.clip(default if clip_id is None else clip_id)


def _is_transforms(value: Any) -> bool:
    """Whether poses are stored the nerfstudio way."""
    frames = value.get("frames") if isinstance(value, dict) else None
    return isinstance(frames, list) and any(
        isinstance(f, dict) and "transform_matrix" in f for f in frames
    )


def _clip_file(folder: Path) -> Path:
    """The one clip file of a folder."""
    clips, lists = _clip_files(folder)
    if len(clips) == 1:
        return folder / clips[0]
    if clips:
        raise InputError(
            f"{folder} holds several clips ({_shown(clips)}); name one of these files, or "
            "a list of them."
        )
    if lists:
        raise InputError(
            f"{folder} holds lists of clips ({_shown(lists)}); name one of these files."
        )
    raise InputError(f"{folder} holds no clip; a clip is {UNDERSTOOD}.")


def _clip_files(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the clips of a folder (JSON objects whose frames have world-to-camera poses and
    pictures), and of lists of clips.
    """
    from fsm.datasets.readers.cameras_json import is_cameras_json

    clips: list[str] = []
    lists: list[str] = []
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.jsonl")]):
        try:
            value = read_json(file)
        except InputError:
            continue
        frames = value.get("frames") if isinstance(value, dict) else None
        if isinstance(value, list) and value and isinstance(value[0], str):
            lists.append(file.name)
        first = (
            frames[0] if isinstance(frames, list) and frames and isinstance(frames[0], dict) else {}
        )
        if is_cameras_json(value) or (
            "w2c" in first and ("video_path" in value or "file_path" in first)
        ):
            clips.append(file.name)
        if len(clips) > SHOWN:
            break
    return clips, lists


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
