"""3D tracks from files: those of Stereo4D annotations, and of its web preview."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from fsm.datasets.readers.npz import array_names, read_arrays
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError

MAX_BYTES = 1 << 30
"""Of one array, and of all tracks laid out densely."""
PUBLISHED = ("track_lengths", "track_indices", "track_coordinates")
PREVIEW = ("pts3d", "vis3d")


def read_tracks(
    path: Path, times: Float[Tensor, " t"], numbers: Sequence[int], frames: int
) -> Tracks:
    """Tracks of a Stereo4D annotation as published, or of the ``tracks.npz`` of its web preview
    (stereo4d-viz).

    The file follows points over the ``frames`` frames of a video; taken are its frames ``numbers``,
    those of the clip, at ``times``. A file over other frames, or without tracks, is an
    ``InputError``.
    """
    names = array_names(path)
    if names >= set(PUBLISHED):
        points = _published(path, frames)
    elif names >= set(PREVIEW):
        points = _preview(path, frames)
    else:
        wanted = f"the arrays {', '.join(PUBLISHED)} or {', '.join(PREVIEW)}"
        raise InputError(f"{path} holds no 3D tracks; expected {wanted}.")
    return Tracks(torch.from_numpy(np.ascontiguousarray(points[:, list(numbers)])), times)


def _published(path: Path, frames: int) -> Float32[np.ndarray, "n t 3"]:
    """Ragged: ``track_lengths`` [n] entries of ``track_indices`` [l] (frames) and
    ``track_coordinates`` [l 3] each.
    """
    lengths, indices, coordinates = read_arrays(path, PUBLISHED, MAX_BYTES)
    for name, array in zip(PUBLISHED[:2], (lengths, indices), strict=True):
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                f"{path}: {name} has shape {array.shape} and type {array.dtype}, expected "
                "whole numbers."
            )
    if coordinates.shape != (len(indices), 3) or coordinates.dtype.kind != "f":
        raise InputError(
            f"{path}: track_coordinates has shape {coordinates.shape}, expected "
            f"({len(indices)}, 3) as track_indices."
        )
    if (lengths < 0).any() or int(lengths.sum()) != len(indices):
        raise InputError(
            f"{path}: track_lengths add up to {int(lengths.sum())}, but track_indices has "
            f"{len(indices)} entries."
        )
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < frames:
        worst = int(indices.max()) if int(indices.max()) >= frames else int(indices.min())
        raise InputError(
            f"{path}: track_indices names frame {worst}, but the clip has {frames} frames."
        )
    _check_size(path, len(lengths), frames)
    points = np.full((len(lengths), frames, 3), np.nan, dtype=np.float32)
    points[np.repeat(np.arange(len(lengths)), lengths), indices] = coordinates
    return points


def _preview(path: Path, frames: int) -> Float32[np.ndarray, "n t 3"]:
    """Dense: ``pts3d`` [n t 3] and where it counts, ``vis3d`` [n t]."""
    points, seen = read_arrays(path, PREVIEW, MAX_BYTES)
    if points.ndim != 3 or points.shape[2] != 3 or points.dtype.kind != "f":
        raise InputError(
            f"{path}: pts3d has shape {points.shape}, expected tracks x frames x 3 numbers."
        )
    if seen.shape != points.shape[:2] or seen.dtype.kind not in "biu":
        raise InputError(
            f"{path}: vis3d has shape {seen.shape}, expected {points.shape[:2]} as pts3d."
        )
    if points.shape[1] != frames:
        raise InputError(
            f"{path}: pts3d follows {points.shape[1]} frames, but the clip's video has {frames}."
        )
    _check_size(path, *points.shape[:2])
    return np.where(seen[..., None] != 0, points.astype(np.float32), np.float32(np.nan))


def _check_size(path: Path, tracks: int, frames: int) -> None:
    if tracks * frames * 12 > MAX_BYTES:
        raise InputError(
            f"{path} holds {tracks} tracks over {frames} frames, more than can be kept in memory."
        )
