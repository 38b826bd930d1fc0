"""What every clip is: cameras for all frames at once, pixels on request."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor

from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from fsm.frame_ids import clip_frame_ids
from fsm.views import Views

# Largest |singular value - 1| of a stored rotation: text files keep 3 digits at worst, a scaled
# matrix is far off.
RIGID_TOLERANCE = 1e-3
# Normalised focal lengths are about 1; no camera in use has so few pixels.
SMALLEST_FOCAL_PX = 5.0


@dataclass(frozen=True)
class IndexPlan:
    """Which frames of a clip are seen and which are asked for; the two never meet."""

    input_index: tuple[int, ...]
    target_index: tuple[int, ...]

    def __post_init__(self) -> None:
        shared = sorted(set(self.input_index) & set(self.target_index))
        if shared:
            raise InputError(
                f"index_plan uses frames {shared[:8]} both as input and as target; take "
                "them out of one list."
            )

    def checked(self, frames: int, source: str) -> "IndexPlan":
        """The same plan, once every index is known to lie in a clip of ``frames`` frames."""
        for name, indices in (
            ("input_index", self.input_index),
            ("target_index", self.target_index),
        ):
            for i in indices:
                if not 0 <= i < frames:
                    raise InputError(
                        f"{source}: index_plan.{name} names frame {i}, but the clip has "
                        f"{frames} frames."
                    )
        return self


class Clip(ABC):
    """One posed moving picture: cameras and times of all frames in memory, pixels decoded when
    asked for.
    """

    id: str
    """Name of the clip in its data set."""
    source: str
    """File or folder it came from, for error messages."""
    cameras: Views
    """All frames, without rgb: OpenCV camera-to-world in the clip's unit of length, pixels,
    seconds, native size, and the ids of the frames.
    """
    fps: float | None
    """Frames per second where the source states or implies one."""
    index_plan: IndexPlan | None
    camera_ids: tuple[str, ...]
    """Which camera took each frame. Several cameras make a rig; their frames may share moments."""

    def __init__(
        self,
        id: str,
        source: str,
        cameras: Views,
        fps: float | None = None,
        index_plan: IndexPlan | None = None,
        camera_ids: Sequence[str] | None = None,
    ) -> None:
        self.id, self.source, self.fps = id, source, fps
        known = cameras.frame_ids is not None
        self.cameras = (
            cameras if known else replace(cameras, frame_ids=clip_frame_ids(id, cameras.time))
        )
        self.camera_ids = _camera_ids(cameras, source, camera_ids)
        self.index_plan = None if index_plan is None else index_plan.checked(len(cameras), source)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.cameras)

    @property
    def static(self) -> bool:
        """Whether all frames share one moment: nothing moves, and there is no clock."""
        return self.cameras.one_moment

    def as_static(self) -> "Clip":
        """The same frames as a static capture: all at time 0, at no rate. They keep their ids."""
        other = copy.copy(self)
        other.cameras = replace(self.cameras, time=torch.zeros_like(self.cameras.time))
        other.fps = None
        return other

    @abstractmethod
    def observations(self, indices: list[int]) -> Iterator[Views]:
        """Views with rgb at native size for strictly increasing ``indices``, in that order, in
        parts of any length.
        """

    def views(
        self, indices: Sequence[int] | Tensor | None = None, hw: tuple[int, int] | None = None
    ) -> Views:
        """Views with rgb of the frames ``indices`` [v] (default: all; any order, repeats allowed).

        ``hw`` resizes to cover that size and crops the centre, intrinsics included. Raises
        ``InputError`` for an index outside the clip and for pixels that cannot be read.
        """
        if indices is None:
            wanted = list(range(len(self)))
        else:
            wanted = [
                int(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)
            ]
        for i in wanted:
            if not 0 <= i < len(self):
                raise InputError(
                    f"{self.source}: frame {i} was asked for, but the clip has {len(self)} frames."
                )
        if not wanted:
            raise InputError(f"{self.source}: no frame was asked for; name at least one index.")
        unique = sorted(set(wanted))
        parts = [part if hw is None else part.covering(hw) for part in self.observations(unique)]
        ids = self.cameras.frame_ids
        assert ids is not None, "the frames of a clip have ids"
        found = replace(Views.cat(parts), frame_ids=ids[unique])
        if wanted == unique:
            return found
        position = {frame: i for i, frame in enumerate(unique)}
        return found[[position[i] for i in wanted]]

    def tracks(self) -> Tracks | None:
        """Points followed in 3D, in the space and on the clock of ``cameras``; None where the
        source carries none.

        Read at every call. Raises ``InputError`` for a file that cannot be read.
        """
        return None

    def cached(self, hw: tuple[int, int] | None = None) -> "MemoryClip":
        """The same clip decoded once into memory as bytes at size ``hw`` (colours move by at most
        half a level).
        """
        pixels, masks = [], []
        for part in self.observations(list(range(len(self)))):
            part = part if hw is None else part.covering(hw)
            assert part.rgb is not None, "observations carry rgb"
            pixels.append((part.rgb * 255.0).round_().to(torch.uint8))
            if part.mask is not None:
                masks.append(part.mask)
        cameras = self.cameras if hw is None else self.cameras.covering(hw)
        mask = torch.cat(masks) if masks else None
        about = (self.fps, self.index_plan, self.camera_ids)
        return MemoryClip(self.id, self.source, cameras, torch.cat(pixels), mask, *about)


class MemoryClip(Clip):
    """A clip whose pixels are already in memory as bytes: ``views`` only slices."""

    def __init__(
        self,
        id: str,
        source: str,
        cameras: Views,
        pixels: UInt8[Tensor, "v 3 h w"],
        mask: Bool[Tensor, "v 1 h w"] | None = None,
        fps: float | None = None,
        index_plan: IndexPlan | None = None,
        camera_ids: Sequence[str] | None = None,
    ) -> None:
        super().__init__(id, source, cameras, fps, index_plan, camera_ids)
        self.pixels, self.mask = pixels, mask

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """All asked frames at once."""
        mask = None if self.mask is None else self.mask[indices]
        yield replace(self.cameras[indices], rgb=self.pixels[indices].float() / 255.0, mask=mask)


@runtime_checkable
class ClipDataset(Protocol):
    """A named collection of clips."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of all clips, in the order of the source."""
        ...

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def clip(self, id: str) -> Clip:
        """Open one clip; an unknown name is an ``InputError``."""
        ...


def checked_poses(
    poses: Float64[np.ndarray, "f 4 4"], source: str, field: str = "c2w", fix_poses: bool = False
) -> Float64[np.ndarray, "f 4 4"]:
    """Rigid 4x4 transforms as stored (either direction), or an ``InputError`` naming the frame and
    the deviation.

    ``fix_poses`` replaces rotations that are scaled or sheared by the nearest rotation. Mirrored
    ones are always refused: their nearest rotation is a different camera.
    """
    where = f"{source}: frame %d, {field}"
    bad = ~np.isfinite(poses).all(axis=(1, 2))
    if bad.any():
        raise InputError(
            f"{where % int(bad.argmax())} contains NaN or infinity; remove that frame or "
            "repair its pose."
        )
    bad = np.abs(poses[:, 3] - [0.0, 0.0, 0.0, 1.0]).max(axis=1) > 1e-6
    if bad.any():
        i = int(bad.argmax())
        raise InputError(
            f"{where % i} has last row {poses[i, 3].tolist()}, expected [0, 0, 0, 1]; is "
            "it transposed?"
        )
    u, s, vt = np.linalg.svd(poses[:, :3, :3])
    bad = np.linalg.det(poses[:, :3, :3]) <= 0
    if bad.any():
        i = int(bad.argmax())
        determinant = np.linalg.det(poses[i, :3, :3])
        raise InputError(
            f"{where % i} has a mirrored or flat rotation (determinant {determinant:.3g}, "
            "expected 1); "
            "check its axis convention."
        )
    deviation = np.abs(s - 1.0).max(axis=1)
    if fix_poses:
        fixed = poses.copy()
        fixed[:, :3, :3] = u @ vt
        return fixed
    if (deviation > RIGID_TOLERANCE).any():
        i = int((deviation > RIGID_TOLERANCE).argmax())
        raise InputError(
            f"{where % i} is not a rotation (off by {deviation[i]:.3g}, allowed "
            f"{RIGID_TOLERANCE:g}); "
            "repair the file or pass --fix-poses to take the nearest rotation."
        )
    return poses


def checked_cameras(
    c2w: Float64[np.ndarray, "f 4 4"],
    intrinsics: Float64[np.ndarray, "k 4"],
    time: Float64[np.ndarray, "t"],
    hw: tuple[int, int],
    source: str,
    fix_poses: bool = False,
    pose_field: str = "c2w",
    time_start: float | None = None,
) -> Views:
    """Views without rgb from OpenCV camera-to-world poses, pixel intrinsics (fx, fy, cx, cy) and
    times in seconds.

    Everything is checked in float64 and cast last; times count from the earliest (or from
    ``time_start``, where several clips share a clock) and may repeat. Raises ``InputError`` naming
    ``source``, frame and field.
    """
    if not len(c2w) == len(intrinsics) == len(time):
        raise InputError(
            f"{source} has {len(c2w)} poses, {len(intrinsics)} intrinsics and {len(time)} times; "
            "every frame needs one of each."
        )
    if len(c2w) == 0:
        raise InputError(f"{source} has no frames; a clip needs at least one.")
    c2w = checked_poses(c2w, source, pose_field, fix_poses)
    _check_intrinsics(intrinsics, hw, source)
    if not np.isfinite(time).all():
        raise InputError(
            f"{source}: frame {int((~np.isfinite(time)).argmax())}, time is NaN or "
            "infinite; write seconds."
        )
    seconds = time - (time.min() if time_start is None else time_start)
    return Views(
        *(torch.from_numpy(np.ascontiguousarray(a)).float() for a in (c2w, intrinsics, seconds)),
        hw=hw,
    )


def _camera_ids(cameras: Views, source: str, given: Sequence[str] | None) -> tuple[str, ...]:
    """One name per frame. Without names, frames of one moment are of cameras "0", "1", ... in
    their order.
    """
    moments = cameras.time.tolist()
    if given is None:
        seen: dict[float, int] = {}
        ids = []
        for moment in moments:
            seen[moment] = seen.get(moment, -1) + 1
            ids.append(str(seen[moment]))
        return tuple(ids)
    if len(given) != len(moments):
        raise InputError(
            f"{source} names {len(given)} cameras for {len(moments)} frames; name one for each."
        )
    first: dict[tuple[str, float], int] = {}
    for i, key in enumerate(zip(given, moments, strict=True)):
        if key in first and len(set(moments)) > 1:
            raise InputError(
                f"{source}: frame {i} has camera {key[0]!r} and time {key[1]:.6g} s, as frame "
                f"{first[key]} has; drop one of them."
            )
        first[key] = i
    return tuple(given)


def _check_intrinsics(
    intrinsics: Float64[np.ndarray, "f 4"], hw: tuple[int, int], source: str
) -> None:
    names, (h, w) = ("fx", "fy", "cx", "cy"), hw
    size = np.array([w, h], dtype=np.float64)
    focal, centre = intrinsics[:, :2], intrinsics[:, 2:]
    checks = (
        (~np.isfinite(intrinsics), 0, "it must be a finite number of pixels."),
        (focal <= 0, 0, "a focal length is positive, in pixels."),
        (
            focal < SMALLEST_FOCAL_PX,
            0,
            f"it looks normalised: multiply by the image size ({w} x {h}) to get pixels.",
        ),
        (
            (centre < -0.5 * size) | (centre > 1.5 * size),
            2,
            f"that is far outside the {w} x {h} image; check units and size.",
        ),
    )
    for bad, offset, remedy in checks:
        if bad.any():
            i, j = (int(n) for n in np.argwhere(bad)[0])
            raise InputError(
                f"{source}: frame {i}, {names[j + offset]} is "
                f"{intrinsics[i, j + offset]:.6g}; {remedy}"
            )
