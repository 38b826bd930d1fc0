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


def _recognised(path: str | Path, fix_poses: bool) -> ClipDataset:
    from fsm.datasets.readers.cameras_json import CamerasJson, is_cameras_json
    from fsm.datasets.readers.fsm_clips import FsmClips
    from fsm.datasets.readers.stereo4d import Stereo4D
    from fsm.datasets.readers.transforms_json import Transforms

    if is_built_in(str(path)):
        from fsm.datasets.world.names import WorldClips

        return WorldClips(DEMO if str(path) == "demo" else str(path))
    path = Path(path)
    if path.is_dir():
        if (path / "transforms.json").is_file() or (path / "transforms_train.json").is_file():
            return Transforms(path, fix_poses)
        if any(path.glob("*.npz")) and not any(path.glob("*.json*")):
            return Stereo4D(path, fix_poses=fix_poses)
        path = _clip_file(path)
    if path.suffix == ".npz":
        return Stereo4D(path, fix_poses=fix_poses)
    if path.suffix not in (".json", ".jsonl"):
        found = "does not exist" if not path.exists() else "is none of the known formats"
        raise InputError(f"{path} {found}; a clip is {UNDERSTOOD}.")
    value = read_json(path) if path.suffix == ".json" else None
    if _is_transforms(value):
        return Transforms(path, fix_poses)
    if is_cameras_json(value):
        return CamerasJson(path, fix_poses)
    return FsmClips(path, fix_poses)


def holds_clip(folder: Path) -> bool:
    """Whether ``open_dataset`` takes a folder for a clip or for several, sound or not: it goes by
    the files directly in it.
    """
    if (folder / "transforms.json").is_file() or (folder / "transforms_train.json").is_file():
        return True
    if any(folder.glob("*.npz")) and not any(folder.glob("*.json*")):
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
