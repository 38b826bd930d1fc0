"""What is asked of the process that runs COLMAP, and what its answers mean."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from fsm.datasets.readers.images import image_size
from fsm.errors import InputError
from fsm.files import read_json
from fsm.poses.pictures import Pictures

LEAST_INLIERS = 25.0  # of a typical pair of pictures that match
TURNED = 0.8  # share of matching pairs with no parallax, from which on there is none
LEAST_SHARE = 0.3  # of the pictures, that the largest part must hold


@dataclass(frozen=True)
class Solved:
    """Cameras of pictures, as COLMAP found them."""

    path: Path
    """Its model."""
    names: tuple[str, ...]
    """Pictures whose cameras were found, by name."""
    w2c: Float64[np.ndarray, "v 4 4"]
    """World to camera, OpenCV axes, an arbitrary unit of length."""
    lenses: tuple[tuple[float, ...], ...]
    """Of each picture: f, cx, cy in pixels and k1."""
    hw: tuple[int, int]
    """Size of the first picture."""
    error: float
    """Mean reprojection error in pixels."""
    points: int
    """Points in space."""
    focals: tuple[tuple[float, float | None], ...]
    """Of each camera: focal length in pixels, and its standard deviation where it is known."""
    method: str
    """global or incremental."""
    parts: tuple[int, ...]
    """Pictures of every part that was found, the largest first."""


def available() -> None:
    """Raise ``InputError`` where COLMAP's Python package is missing."""
    if importlib.util.find_spec("pycolmap") is None:
        raise InputError(
            "cameras are found by pycolmap, which is not installed; "
            "pip install 'fsm-toolkit[poses]'."
        )


def solved(pictures: Pictures, work: Path, threads: int, masks: Path | None = None) -> Solved:
    """Cameras of ``pictures``; ``work`` keeps the features. ``masks`` holds NAME.png for each
    picture NAME, black where nothing counts.

    Raises ``InputError`` where no cameras can be found, with the reason as far as it is known.
    """
    cameras = [
        {"names": [p.name for p in group], "params": _prior(pictures, group)}
        for group in pictures.cameras.values()
    ]
    request = {
        "task": "solve",
        "work": str(work),
        "images": str(pictures.folder),
        "names": [p.name for p in pictures.items],
        "cameras": cameras,
        "film": pictures.is_film,
        "side": max(image_size(pictures.folder / pictures.items[0].name)),
        "masks": None if masks is None else str(masks),
        "threads": threads,
    }
    answer = ask(request, work)
    models, matches = answer["models"], answer["matches"]
    asked = len(pictures.items)
    if not models or len(models[0]["registered"]) < max(3, LEAST_SHARE * asked):
        raise InputError(_why_not(matches, models, asked))
    first = models[0]
    frames = first["frames"]
    own = [m for m in models if m["method"] == first["method"]]
    return Solved(
        Path(first["path"]),
        tuple(f["name"] for f in frames),
        np.array([f["w2c"] for f in frames]),
        tuple(tuple(f["params"]) for f in frames),
        (frames[0]["hw"][0], frames[0]["hw"][1]),
        first["error"],
        first["points"],
        tuple((c["focal"], c["spread"]) for c in first["cameras"]),
        first["method"],
        tuple(len(m["registered"]) for m in own),
    )


def ask(request: Mapping[str, Any], work: Path) -> Any:
    """The answer of the process to a request. Raises ``InputError`` where it fails."""
    question, answer, log = work / "request.json", work / "answer.json", work / "colmap.log"
    question.write_text(json.dumps(dict(request)), encoding="utf-8")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fsm.poses.worker", str(question), str(answer)]
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status != 0 or not answer.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = " ".join(lines[-1].split())[:200] if lines else f"status {status}"
        raise InputError(f"COLMAP failed on {request['images']} ({last}).")
    return read_json(answer)


def _prior(pictures: Pictures, group: list) -> list[float]:
    """f, cx, cy and k1 of a camera by what its photos state; empty where they state nothing."""
    stated = sorted(p.focal for p in group if p.focal is not None)
    if not stated:
        return []
    h, w = image_size(pictures.folder / group[0].name)
    return [stated[len(stated) // 2], w / 2, h / 2, 0.0]


def _why_not(matches: Mapping[str, float], models: list, asked: int) -> str:
    if matches["pairs"] >= 1 and matches["turned"] >= TURNED:
        return (
            f"in {matches['turned']:.0%} of the matching pairs the camera only turns or stands "
            "still; without parallax cameras cannot be found. Film while walking."
        )
    if matches["pairs"] < 2 or matches["inliers"] < LEAST_INLIERS:
        return (
            f"pictures have too little in common: {matches['pairs']:.0f} pairs match, with "
            f"{matches['inliers']:.0f} points in a typical one; take more of them, sharper or "
            "closer together."
        )
    if models:
        return (
            f"the pictures fall into parts that share nothing; the largest has "
            f"{len(models[0]['registered'])} of {asked}. Take pictures between them."
        )
    return (
        f"no cameras were found though {matches['pairs']:.0f} pairs match; there may be too "
        "little parallax, or most of the picture may move: mask that with --masks."
    )
