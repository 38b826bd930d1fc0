"""Still images as clip frames."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fsm.errors import InputError


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header, without decoding the picture."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({' '.join(str(error).split())}).") from error


def read_rgba(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """Pixels as stored (no rotation by metadata), 8 bits a channel; opaque where the file has no alpha."""
    import cv2

    try:
        data = np.fromfile(path, dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except (OSError, cv2.error) as error:
        raise InputError(f"{path} cannot be read ({error}); check the path.") from error
    if image is None:
        raise InputError(f"{path} is empty, truncated or not an image; copy it again.")
    if image.dtype == np.uint16:
        image = (image / 257.0).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{path} stores {image.dtype} pixels; convert it to 8 or 16 bits a channel.")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGBA)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGBA)


def read_rgb(path: Path, hw: tuple[int, int], background: float = 1.0) -> UInt8[Tensor, "3 h w"]:
    """Pixels of an image that must have size ``hw``, straight alpha composited on a grey ``background`` in [0, 1]."""
    rgba = read_rgba(path)
    if rgba.shape[:2] != hw:
        raise InputError(f"{path} has size {rgba.shape[:2]}, the clip's first image {hw}; use images of one size.")
    rgb = rgba[..., :3]
    if rgba[..., 3].min() < 255:
        alpha = rgba[..., 3:].astype(np.float32) / 255.0
        rgb = (rgb * alpha + 255.0 * background * (1.0 - alpha)).round().astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
