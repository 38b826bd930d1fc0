"""Still images as clip frames: read, composited, undistorted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from fsm.datasets.base import Clip, IndexPlan
from fsm.errors import InputError
from fsm.views import Views


@dataclass(frozen=True)
class Lens:
    """An OpenCV lens: pinhole fx, fy, cx, cy in pixels (first pixel centre at 0.5, 0.5) and k1, k2,
    p1, p2, k3.
    """

    pinhole: tuple[float, float, float, float]
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def undistorted(self, hw: tuple[int, int]) -> Float64[np.ndarray, "4"]:
        """The undistorted picture's pinhole camera, as wide as all pixels stay inside the original;
        the size stays.
        """
        import cv2

        if not any(self.distortion):
            return np.array(self.pinhole)
        size = (hw[1], hw[0])
        matrix, _ = cv2.getOptimalNewCameraMatrix(
            self._matrix(), np.array(self.distortion), size, alpha=0.0
        )
        return np.array([matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5])

    def maps(self, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Where each pixel of the undistorted picture lies in the original: x and y [h w], counted
        from pixel centres.
        """
        import cv2

        new = Lens(tuple(self.undistorted(hw).tolist()))._matrix()
        distortion = np.array(self.distortion)
        return cv2.initUndistortRectifyMap(
            self._matrix(), distortion, np.eye(3), new, (hw[1], hw[0]), cv2.CV_32FC1
        )

    def _matrix(self) -> Float64[np.ndarray, "3 3"]:
        fx, fy, cx, cy = self.pinhole
        # OpenCV: first pixel centre at 0
        return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])


class ImageClip(Clip):
    """A clip of still images of one size, optionally seen through distorting lenses and with masks
    (non-zero counts).

    ``cameras`` are those of the undistorted pictures. Straight alpha is composited on a grey
    ``background`` in [0, 1].
    """

    def __init__(
        self,
        id: str,
        source: str,
        cameras: Views,
        images: Sequence[Path],
        masks: Sequence[Path] | None = None,
        lenses: Sequence[Lens] | None = None,
        fps: float | None = None,
        index_plan: IndexPlan | None = None,
        background: float = 1.0,
        camera_ids: Sequence[str] | None = None,
    ) -> None:
        super().__init__(id, source, cameras, fps, index_plan, camera_ids)
        self._images, self._masks, self._lenses, self._background = (
            images,
            masks,
            lenses,
            background,
        )

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """One image at a time."""
        import cv2

        hw = self.cameras.hw
        lens, maps = None, None
        for i in indices:
            rgb = read_rgb(self._images[i], hw, self._background)
            mask = None if self._masks is None else read_mask(self._masks[i], hw)
            if self._lenses is not None and any(self._lenses[i].distortion):
                if self._lenses[i] != lens or maps is None:  # usually one lens for the whole clip
                    lens = self._lenses[i]
                    maps = lens.maps(hw)
                rgb = cv2.remap(
                    rgb, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
                if mask is not None:
                    mask = cv2.remap(
                        mask, maps[0], maps[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT
                    )
            pixels = (
                torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None]
                .float()
                .div_(255.0)
            )
            valid = None if mask is None else torch.from_numpy(mask != 0)[None, None]
            yield replace(self.cameras[i], rgb=pixels, mask=valid)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header, without decoding the picture."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a readable image ({' '.join(str(error).split())})."
        ) from error


def read_rgb(
    path: Path, hw: tuple[int, int], background: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels of an image that must have size ``hw``, straight alpha composited on a grey
    ``background`` in [0, 1].
    """
    import cv2

    image = _read(path, hw)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    rgba = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return (rgba[..., :3] * alpha + 255.0 * background * (1.0 - alpha)).round().astype(np.uint8)


def read_mask(path: Path, hw: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """255 where any channel of a mask image is not zero, else 0."""
    image = _read(path, hw)
    marked = image if image.ndim == 2 else image[..., :3].max(axis=2)
    return np.where(marked > 0, np.uint8(255), np.uint8(0))


def _read(path: Path, hw: tuple[int, int]) -> np.ndarray:
    """Channels as stored (no rotation by metadata, OpenCV's order), 8 bits each."""
    import cv2

    try:
        data = np.fromfile(path, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (OSError, cv2.error) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}); check the file."
        ) from error
    if image is None:
        raise InputError(f"{path} is empty, truncated or not an image; copy it again.")
    if image.dtype == np.uint16:
        image = (image / 257.0).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(
            f"{path} stores {image.dtype} pixels; convert it to 8 or 16 bits a channel."
        )
    if image.shape[:2] != hw:
        raise InputError(
            f"{path} has size {image.shape[:2]}, the clip's first image {hw}; use images "
            "of one size."
        )
    return image
