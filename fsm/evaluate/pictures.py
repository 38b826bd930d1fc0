"""Pictures of results: kept predictions, error maps and labelled contact sheets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_folder

ERROR_GAIN = 4.0
"""Error maps saturate at a mean absolute error of 1 / ERROR_GAIN."""
TITLES = {
    "truth": "ground truth",
    "nearest": "nearest input",
    "blend": "time blend",
    "flow": "flow blend",
    "nearest_camera": "nearest camera",
    "camera_blend": "camera blend",
    "mean_image": "mean image",
}
_GAP, _STRIP, _INK, _PAPER = 4, 22, (40, 40, 40), 255


def to_bytes(rgb: Float[Tensor, "*b 3 h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """8-bit images, channels last: clamped and rounded as the metrics do."""
    return (
        (rgb.detach().float().clamp(0, 1) * 255)
        .round()
        .to(torch.uint8)
        .movedim(-3, -1)
        .cpu()
        .numpy()
    )


def error_map(
    prediction: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]
) -> Float[Tensor, "v 3 h w"]:
    """Absolute error averaged over channels, times ``ERROR_GAIN``, as a colour map from black
    (none) to yellow.
    """
    import cv2

    error = (
        ((prediction - truth).abs().mean(1) * ERROR_GAIN * 255)
        .clamp(0, 255)
        .round()
        .byte()
        .cpu()
        .numpy()
    )
    maps = np.stack([cv2.applyColorMap(e, cv2.COLORMAP_INFERNO)[..., ::-1] for e in error])
    return torch.from_numpy(maps.copy()).permute(0, 3, 1, 2).float() / 255.0


def contact_sheet(
    rows: Mapping[str, Float[Tensor, "v 3 h w"]], columns: Sequence[str] = (), least: int = 128
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of pictures under their labels, columns under theirs; small pictures are enlarged to
    ``least`` pixels.

    ``rows`` maps a label to images in [0, 1]; all rows have the same number and size of images.
    Raises ``InputError`` where they do not.
    """
    shapes = {tuple(images.shape) for images in rows.values()}
    if len(shapes) != 1 or 0 in next(iter(shapes)):
        raise InputError(f"a contact sheet needs rows of one shape, found {sorted(shapes)}.")
    count, _, h, w = next(iter(shapes))
    if columns and len(columns) != count:
        raise InputError(f"a contact sheet of {count} columns got {len(columns)} column labels.")
    zoom = max(1, -(-least // min(h, w)))
    h, w = h * zoom, w * zoom
    top = _STRIP if columns else 0
    height = top + len(rows) * (_STRIP + h) + _GAP
    sheet = np.full((height, _GAP + count * (w + _GAP), 3), _PAPER, np.uint8)
    for i, title in enumerate(columns):
        _write(sheet, title, _GAP + i * (w + _GAP), 0, w)
    for r, (label, images) in enumerate(rows.items()):
        y = top + r * (_STRIP + h)
        _write(sheet, label, _GAP, y, sheet.shape[1] - 2 * _GAP)
        for i, image in enumerate(to_bytes(images)):
            x = _GAP + i * (w + _GAP)
            sheet[y + _STRIP : y + _STRIP + h, x : x + w] = image.repeat(zoom, 0).repeat(zoom, 1)
    return sheet


def stacked(sheets: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """Contact sheets below one another, the narrower ones filled up on the right."""
    width = max(sheet.shape[1] for sheet in sheets)
    fill = [((0, 0), (0, width - sheet.shape[1]), (0, 0)) for sheet in sheets]
    return np.concatenate(
        [np.pad(s, by, constant_values=_PAPER) for s, by in zip(sheets, fill, strict=True)]
    )


def save_pictures(
    folder: Path, frames: Sequence[int], rows: Mapping[str, Float[Tensor, "v 3 h w"]]
) -> None:
    """Write ``FRAME-ROW.png`` for every frame and row, the folder whole or not at all."""
    import cv2

    if not frames:
        return
    with atomic_folder(folder) as temporary:
        for row, images in rows.items():
            for frame, image in zip(frames, to_bytes(images), strict=True):
                path = temporary / f"{frame:06d}-{row}.png"
                if not cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1])):
                    raise InputError(f"{path} cannot be written; check the disk.")


def load_pictures(folder: Path, frames: Sequence[int], row: str) -> Float[Tensor, "v 3 h w"]:
    """Read what ``save_pictures`` wrote for one row."""
    import cv2

    images = []
    for frame in frames:
        path = folder / f"{frame:06d}-{row}.png"
        image = cv2.imread(str(path)) if path.is_file() else None
        if image is None:
            raise InputError(f"{path} is missing or not a picture; run the evaluation again.")
        images.append(torch.from_numpy(image[..., ::-1].copy()))
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255.0


def _write(sheet: np.ndarray, text: str, x: int, y: int, width: int) -> None:
    """Text in the strip whose top left corner is (x, y), shortened to fit ``width`` pixels."""
    import cv2

    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    printable = text.encode("ascii", "replace").decode()
    while len(printable) > 1 and cv2.getTextSize(printable, font, scale, 1)[0][0] > width:
        printable = printable[:-2] + "."
    cv2.putText(sheet, printable, (x, y + _STRIP - 7), font, scale, _INK, 1, cv2.LINE_AA)
