"""Published Stereo4D clips, made small: the files that evaluation and training read.

RAW holds ``ID.npz`` and ``ID-left_rectified.mp4`` (or ``ID.mp4``) of every clip, as the authors'
tools write them. Nothing is downloaded here; docs/get_data.md says where the files come from.

    python -m benchmarks.get_stereo4d RAW -o stereo4d_256/ --size 256
"""

import argparse
import json
from pathlib import Path

import numpy as np

from fsm.datasets.base import Clip
from fsm.datasets.readers.stereo4d import Stereo4D
from fsm.errors import InputError
from fsm.files import write_json
from fsm.renderers.film.video import video_writer

CLIPS = Path(__file__).with_name("stereo4d_clips.json")
"""The clips behind the tables, by split."""
FPS = 30.0
MOVING = 0.5
"""Metres from the first camera that make a clip a moving one."""


def write_clip(clip: Clip, folder: Path, size: int) -> dict:
    """``clip`` at ``size`` pixels as ``folder/ID.json`` and ``ID.mp4``; what the JSON holds."""
    name = clip.id.lstrip("-")
    folder.mkdir(parents=True, exist_ok=True)
    with video_writer(folder / f"{name}.mp4", FPS) as write:
        for part in clip.observations(list(range(len(clip)))):
            small = part.covering((size, size))
            assert small.rgb is not None, "clips have pictures"
            for picture in small.rgb:
                write(picture)
    intrinsics = clip.cameras.covering((size, size)).intrinsics
    w2c = np.linalg.inv(clip.cameras.c2w.double().numpy())
    frames = [
        {
            "frame_idx": i,
            "w2c": [[float(f"{x:.7g}") for x in row] for row in pose],
            **{k: float(f"{x:.7g}") for k, x in zip(("fx", "fy", "cx", "cy"), k4, strict=True)},
            "h": size,
            "w": size,
        }
        for i, (pose, k4) in enumerate(zip(w2c, intrinsics.tolist(), strict=True))
    ]
    document = {
        "scene_name": clip.id,
        "video_path": f"{name}.mp4",
        "num_video_frames": len(clip),
        "fps": int(FPS),
        "frames": frames,
    }
    write_json(folder / f"{name}.json", document)
    return document


def baseline(document: dict) -> float:
    """Largest distance of a camera centre from the first one, in metres."""
    c2w = np.linalg.inv([f["w2c"] for f in document["frames"]])
    return float(np.linalg.norm(c2w[:, :3, 3] - c2w[0, :3, 3], axis=1).max())


def convert(raw: Path, out: Path, size: int, splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """Write all clips of ``splits`` that ``raw`` holds, and the lists; returns the lists."""
    published = Stereo4D(raw)
    known = {id.lstrip("-"): id for id in published.ids}
    lists: dict[str, list[str]] = {f"{split}.json": [] for split in splits} | {
        "val_moving.json": []
    }
    for split, ids in splits.items():
        for id in ids:
            if id not in known:
                print(f"left out: {id} (not in {raw})")
                continue
            document = write_clip(published.clip(known[id]), out / split, size)
            lists[f"{split}.json"].append(f"{split}/{id}.json")
            if split == "val" and baseline(document) >= MOVING:
                lists["val_moving.json"].append(f"{split}/{id}.json")
    if not any(lists.values()):
        raise InputError(f"{raw} holds none of the clips asked for; name others with --val.")
    for name, paths in lists.items():
        write_json(out / name, paths)
    return lists


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("raw", type=Path, help="folder of annotations and rectified videos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--train", nargs="*", metavar="ID", help="training clips")
    parser.add_argument("--val", nargs="*", metavar="ID", help="validation clips")
    given = parser.parse_args(arguments)
    splits = json.loads(CLIPS.read_text())
    for split in ("train", "val"):
        if getattr(given, split) is not None:
            splits[split] = getattr(given, split)
    lists = convert(given.raw, given.output, given.size, splits)
    for name, paths in lists.items():
        print(f"{given.output / name}: {len(paths)} clips")


if __name__ == "__main__":
    main()
