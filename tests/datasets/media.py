"""Tiny videos and clip files for the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np

BITS = 8


def counter_picture(number: int, hw: tuple[int, int] = (64, 128)) -> np.ndarray:
    """A picture [h w 3] that carries ``number`` as eight black or white columns over a moving
    ramp.
    """
    h, w = hw
    picture = np.full((h, w, 3), (number * 5) % 200 + 20, dtype=np.uint8)
    for bit in range(BITS):
        x = bit * w // BITS
        picture[: h // 2, x : x + w // BITS] = 255 if number >> bit & 1 else 0
    return picture


def read_counter(picture: np.ndarray) -> int:
    """The number burnt into ``picture`` [3 h w]."""
    _, h, w = picture.shape
    columns = picture[:, : h // 2].reshape(3, h // 2, BITS, w // BITS).mean((0, 1, 3))
    return int(sum(1 << bit for bit in range(BITS) if columns[bit] > 127))


def write_video(
    path: Path,
    pictures: list[np.ndarray],
    fps: int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> Path:
    """Encode pictures [h w 3]; H.264 with B-frames and a key frame every 12 frames unless told
    otherwise.
    """
    import av

    if options is None:
        options = {
            "g": "12",
            "bf": "3",
            "x264-params": "keyint=12:bframes=3:b-adapt=0:scenecut=0",
            "crf": "12",
        }
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def counter_video(path: Path, frames: int, hw: tuple[int, int] = (64, 128), **more: Any) -> Path:
    """A video whose frame i shows the number i."""
    return write_video(path, [counter_picture(i, hw) for i in range(frames)], **more)


def fsm_json(
    frames: int, video: str = "clip.mp4", hw: tuple[int, int] = (64, 128), **more: Any
) -> dict[str, Any]:
    """A clip file's content: a camera that slides right while it turns."""
    entries = []
    for i in range(frames):
        angle = 0.01 * i
        w2c = np.eye(4)
        w2c[:3, :3] = [
            [np.cos(angle), 0, np.sin(angle)],
            [0, 1, 0],
            [-np.sin(angle), 0, np.cos(angle)],
        ]
        w2c[:3, 3] = [-0.05 * i, 0.0, 0.1]
        intrinsics = {
            "fx": 100.0,
            "fy": 101.0,
            "cx": hw[1] / 2,
            "cy": hw[0] / 2,
            "h": hw[0],
            "w": hw[1],
        }
        entries.append({"frame_idx": i, "w2c": w2c.tolist(), **intrinsics})
    return {
        "scene_name": "clip",
        "video_path": video,
        "num_video_frames": frames,
        "frames": entries,
        **more,
    }


def write_fsm_clip(folder: Path, frames: int = 20, name: str = "clip", **more: Any) -> Path:
    """A complete clip (video with a counter, clip file) in ``folder``; returns the clip file."""
    folder.mkdir(parents=True, exist_ok=True)
    counter_video(folder / f"{name}.mp4", frames)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(fsm_json(frames, f"{name}.mp4", **more)))
    return path
