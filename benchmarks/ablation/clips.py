"""Small copies of clips: dozens of short trainings that each decode the same videos would spend
their time on that.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fsm.datasets.base import Clip, ClipDataset
from fsm.files import atomic_folder, slug

LIST = "list.json"


def small_copies(dataset: ClipDataset, hw: tuple[int, int], folder: Path) -> Path:
    """All clips of ``dataset`` as PNGs of size ``hw`` with their cameras; the path of their list.
    Written once, whole.
    """
    if not (folder / LIST).exists():
        with atomic_folder(folder) as temporary:
            names = [_write(dataset.clip(id), hw, temporary) for id in dataset.ids]
            (temporary / LIST).write_text(json.dumps(names, indent=1))
    return folder / LIST


def _write(clip: Clip, hw: tuple[int, int], folder: Path) -> str:
    name = slug(clip.id)
    (folder / name).mkdir()
    views = clip.views(None, hw)
    assert views.rgb is not None, "clips give rgb"
    pictures = (views.rgb * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    w2c = np.linalg.inv(views.c2w.double().numpy())
    fps = clip.fps or 30.0
    frames: list[dict[str, Any]] = []
    for i, picture in enumerate(pictures):
        ok, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
        assert ok, "PNG of an 8-bit image always encodes"
        (folder / name / f"{i:04}.png").write_bytes(data.tobytes())
        fx, fy, cx, cy = views.intrinsics[i].tolist()
        frame = {
            "frame_idx": round(views.time[i].item() * fps),
            "file_path": f"{name}/{i:04}.png",
            "w2c": w2c[i].tolist(),
        }
        frames.append(frame | {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "h": hw[0], "w": hw[1]})
    (folder / f"{name}.json").write_text(
        json.dumps({"scene_name": clip.id, "fps": fps, "frames": frames})
    )
    return f"{name}.json"
