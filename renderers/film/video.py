"""Pictures to files: H.264 or VP9 video and PNG sequences with their cameras. Files appear whole or
not at all.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_file, atomic_folder, write_json
from fsm.views import Views

Write = Callable[[Tensor], None]
"""Takes the next frame: float [3 h w] in [0, 1]."""

CODECS = {
    ".mp4": ("libx264", {"crf": "18", "preset": "veryfast"}),
    # a bit rate of 0 leaves the quality to crf
    ".webm": ("libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4"}),
}
CONTAINERS = {".mp4": {"movflags": "faststart"}, ".webm": {}}
# matrix, primaries and transfer all carry this number in H.264
_BT709 = 1
# luma in 16..235
_LIMITED = 1
_SEQUENCE_FILE = re.compile(r"frame_\d{5,}\.(png|exr)|cameras\.json")


def to_uint8(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels as bytes: clamped to [0, 1], rounded to nearest. Non-finite pixels raise
    ``InputError``.
    """
    image = image.detach().float().cpu()
    if not bool(image.isfinite().all()):
        raise InputError(
            "a frame to be written has pixels that are not finite numbers; check the scene "
            "it came from."
        )
    bytes_ = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(bytes_.permute(1, 2, 0).numpy())


@contextlib.contextmanager
def video_writer(path: Path | str, fps: float) -> Iterator[Write]:
    """Yield a function that appends frames to an H.264 mp4 (crf 18, index first) or, where ``path``
    ends in .webm, a VP9 one (crf 24); both yuv420p, BT.709 limited range.

    Frames are encoded as they come and none is kept. Odd sizes are padded to even by repeating the
    last row or column. All frames have one size; no frame at all is an ``InputError``. On any error
    nothing is left behind.
    """
    import av
    from av.video.reformatter import VideoReformatter

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in CODECS:
        raise InputError(f"{path} is not an .mp4 or .webm file; video is written as H.264 or VP9.")
    codec, options = CODECS[suffix]
    if not 0 < fps <= 1000:
        raise InputError(f"fps is {fps}; choose a positive rate of at most 1000 frames per second.")
    with (
        atomic_file(path) as temporary,
        av.open(str(temporary), "w", options=CONTAINERS[suffix]) as container,
    ):
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        # one for all frames: setting it up costs more than a conversion
        converter = VideoReformatter()
        size: tuple[int, int] | None = None

        def write(frame: Tensor) -> None:
            nonlocal size
            h, w = frame.shape[-2:]
            if size is None:
                size = (h, w)
                _configure(stream, h + h % 2, w + w % 2, options)
            if (h, w) != size:
                raise InputError(
                    f"{path}: a frame is {w}x{h} where the first was {size[1]}x{size[0]}."
                )
            container.mux(stream.encode(_encodable(frame, converter)))

        yield write
        if size is None:
            raise InputError(f"{path}: there are no frames to write.")
        container.mux(stream.encode(None))


@contextlib.contextmanager
def png_sequence_writer(folder: Path | str, cameras: Views | None = None) -> Iterator[Write]:
    """Yield a function that writes frames as ``frame_00000.png``, ...; with ``cameras``,
    ``cameras.json`` beside them.

    The folder appears when all is written, in place of an older sequence; a folder that holds
    anything else is refused. The number of frames and of unbatched ``cameras`` must agree.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    count = 0
    with atomic_folder(folder) as temporary:

        def write(frame: Tensor) -> None:
            nonlocal count
            _imwrite(temporary / f"frame_{count:05d}.png", frame)
            count += 1

        yield write
        if count == 0:
            raise InputError(f"{folder}: there are no frames to write.")
        if cameras is not None:
            if len(cameras) != count:
                raise InputError(f"{folder}: {count} frames came for {len(cameras)} cameras.")
            write_json(temporary / "cameras.json", cameras_document(cameras))


def cameras_document(views: Views) -> dict[str, Any]:
    """What ``cameras.json`` holds: poses, intrinsics and times of frames, in this package's own
    conventions. ``open_clip`` takes the folder for a clip.
    """
    poses = views.c2w.double()
    w2c = torch.linalg.inv(poses).tolist()
    frames = zip(views.time.tolist(), views.intrinsics.tolist(), poses.tolist(), w2c, strict=True)
    h, w = views.hw
    return {
        "convention": (
            "OpenCV camera-to-world, and w2c back; fx fy cx cy in pixels, first pixel centre at "
            "0.5; seconds"
        ),
        "height": views.hw[0],
        "width": views.hw[1],
        "frames": [
            {
                "file": f"frame_{i:05d}.png",
                "time": time,
                "intrinsics": intrinsics,
                "camera_to_world": c2w,
                "w2c": w2c,
                **dict(zip(("fl_x", "fl_y", "cx", "cy"), intrinsics, strict=True)),
                "w": w,
                "h": h,
            }
            for i, (time, intrinsics, c2w, w2c) in enumerate(frames)
        ],
    }


def _configure(stream: Any, height: int, width: int, options: dict[str, str]) -> None:
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = options
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED


def _encodable(frame: Tensor, converter: Any) -> Any:
    """The frame in the video's colours: converted as tagged, since the encoder's own conversion
    assumes BT.601.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace

    h, w = frame.shape[-2:]
    padded = F.pad(frame.detach().float().cpu()[None], (0, w % 2, 0, h % 2), mode="replicate")[0]
    picture = converter.reformat(
        av.VideoFrame.from_ndarray(to_uint8(padded), format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )
    picture.colorspace, picture.color_range = _BT709, _LIMITED
    return picture


def _imwrite(path: Path, image: Tensor) -> None:
    import cv2

    if not cv2.imwrite(str(path), to_uint8(image)[..., ::-1]):
        raise InputError(f"{path} cannot be written; check the folder and the space left.")


def refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the PNG sequence.")
    strangers = (
        [p.name for p in folder.iterdir() if not _SEQUENCE_FILE.fullmatch(p.name)]
        if folder.exists()
        else []
    )
    if strangers:
        raise InputError(
            f"{folder} holds {sorted(strangers)[0]!r}, not only a PNG sequence; name "
            "another folder."
        )
