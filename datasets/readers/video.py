"""Frame-exact access to video files by frame number, through PyAV."""

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from fsm.datasets.base import Clip, IndexPlan
from fsm.datasets.readers.tracks import read_tracks
from fsm.datasets.tracks import Tracks
from fsm.errors import InputError
from fsm.views import Views

if TYPE_CHECKING:
    import av
    import av.container

MAX_PIXELS = 1 << 27
# Decoding on is cheaper than seeking when the next wanted frame is this close.
NEAR = 8
BATCH = 16


class VideoFrames:
    """Frames of one video file, counted in display order from 0.

    Only plain mp4, mov, mkv, webm and avi files are opened: the container is recognised by its
    first bytes, so playlists, concatenation scripts and network addresses never reach FFmpeg. No
    handle stays open between calls, which makes the object safe to copy into worker processes.
    Raises ``InputError`` for empty, truncated or undecodable files, and for rotated ones that are
    not to be turned ``upright``.
    """

    def __init__(self, path: Path | str, upright: bool = False) -> None:
        self.path, self.upright = Path(path), upright
        self._format = _container_format(self.path)
        pts: list[int | None] = []
        keys: list[tuple[int, int]] = []
        with self._open() as (container, stream):
            self.hw: tuple[int, int] = (stream.codec_context.height, stream.codec_context.width)
            self.fps: float | None = float(stream.average_rate) if stream.average_rate else None
            if not 0 < self.hw[0] * self.hw[1] <= MAX_PIXELS:
                raise InputError(
                    f"{self.path} declares a picture size of {self.hw}; encode it at a usable size."
                )
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                if packet.is_corrupt:
                    raise InputError(
                        f"{self.path} is truncated after {len(pts)} frames; copy or encode "
                        "it again."
                    )
                pts.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        known = [p for p in pts if p is not None]
        # Avi stores no display times: such frames are counted from the start and never sought.
        self._seekable = self._format != "avi" and len(set(known)) == len(pts)
        self._keys = sorted(keys)
        self._pts = sorted(known) if self._seekable else []
        self._length = len(pts)
        if not pts:
            raise InputError(f"{self.path} contains no video frames; is it the right file?")

    def __len__(self) -> int:
        """Number of frames."""
        return self._length

    def frames(self, indices: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """The frames ``indices`` in that order (any order, repeats allowed), sRGB bytes."""
        unique = sorted(set(indices))
        position = {frame: i for i, frame in enumerate(unique)}
        return torch.stack(list(self.stream(unique)))[[position[i] for i in indices]]

    def stream(self, indices: Sequence[int]) -> Iterator[UInt8[Tensor, "3 h w"]]:
        """Yield the frames of strictly increasing ``indices`` one by one, sRGB bytes."""
        for i in indices:
            if not 0 <= i < len(self):
                raise InputError(f"{self.path} has {len(self)} frames; frame {i} does not exist.")
        from av.video.reformatter import VideoReformatter

        # one for all frames: its set-up costs more than the conversion
        reformatter = VideoReformatter()
        with self._open() as (container, stream):
            decoded, last = self._numbered(container, stream), -1
            for i in indices:
                seek = self._key_between(last, i)
                if seek is not None:
                    container.seek(seek, stream=stream, backward=True)
                    decoded = self._numbered(container, stream)
                frame = next((frame for number, frame in decoded if number == i), None)
                if frame is None or frame.is_corrupt:
                    raise InputError(
                        f"{self.path}: frame {i} cannot be decoded; the file is damaged, "
                        "encode it again."
                    )
                yield self._pixels(frame, i, reformatter)
                last = i

    def _key_between(self, last: int, wanted: int) -> int | None:
        """Decoding time of the key frame to jump to, where that beats decoding on from frame
        ``last``.
        """
        if not self._seekable or wanted - last <= NEAR:
            return None
        key = bisect.bisect_right(self._keys, self._pts[wanted], key=lambda pair: pair[0]) - 1
        if key <= 0 or (last >= 0 and self._keys[key][0] <= self._pts[last]):
            return None
        return self._keys[key][1]  # never exceeds its display time: the seek lands there or earlier

    def _numbered(self, container, stream) -> "Iterator[tuple[int, av.VideoFrame]]":
        if not self._seekable:
            yield from enumerate(container.decode(stream))
            return
        number = {pts: i for i, pts in enumerate(self._pts)}
        for frame in container.decode(stream):
            # Frames before the cut of an edit list are decoded, but are not part of the clip.
            yield number.get(frame.pts, -1), frame

    def _pixels(self, frame: "av.VideoFrame", index: int, reformatter) -> UInt8[Tensor, "3 h w"]:
        if frame.rotation and not self.upright:
            raise InputError(
                f"{self.path} carries a rotation flag of {frame.rotation} degrees; encode "
                "it upright."
            )
        if (frame.height, frame.width) != self.hw:
            size = (frame.height, frame.width)
            raise InputError(
                f"{self.path}: frame {index} has size {size}, others {self.hw}; encode it "
                "at one size."
            )
        rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        quarters = round(frame.rotation / 90) if self.upright else 0
        return torch.from_numpy(rgb).permute(2, 0, 1).rot90(quarters, (1, 2)).contiguous()

    @contextlib.contextmanager
    def _open(self) -> "Iterator[tuple[av.container.InputContainer, av.VideoStream]]":
        import av
        import av.error

        options = {"protocol_whitelist": "file"}
        try:
            with av.open(
                f"file:{self.path.resolve()}", format=self._format, options=options
            ) as container:
                if not container.streams.video:
                    raise InputError(f"{self.path} has no video stream; is it the right file?")
                stream = container.streams.video[0]
                # Frame threads would decode ahead of every seek; slices cost nothing where a frame
                # has only one.
                stream.thread_type = "SLICE"
                yield container, stream
        except av.error.FFmpegError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(
                f"{self.path} cannot be decoded ({reason}); it is damaged or truncated, "
                "encode it again."
            ) from error


class VideoClip(Clip):
    """A clip whose frame i is frame ``numbers[i]`` of a video, optionally with a file of 3D tracks
    over its frames.

    One camera took it, so its numbers and its times must increase (``InputError``), unless all
    frames have one time: a static capture.
    """

    def __init__(
        self,
        id: str,
        source: str,
        cameras: Views,
        video: VideoFrames,
        numbers: list[int],
        fps: float | None = None,
        index_plan: IndexPlan | None = None,
        tracks: Path | None = None,
    ) -> None:
        _check_order(numbers, cameras, source)
        super().__init__(id, source, cameras, fps, index_plan, ["0"] * len(numbers))
        self._video, self._numbers, self._tracks = video, numbers, tracks

    def tracks(self) -> Tracks | None:
        """Those of the file; a static capture has none."""
        if self._tracks is None or self.static:
            return None
        return read_tracks(self._tracks, self.cameras.time, self._numbers, len(self._video))

    def observations(self, indices: list[int]) -> Iterator[Views]:
        """Frames in batches, decoded in one pass."""
        pictures = self._video.stream([self._numbers[i] for i in indices])
        for start in range(0, len(indices), BATCH):
            batch = indices[start : start + BATCH]
            rgb = torch.stack([next(pictures) for _ in batch]).float().div_(255.0)
            yield replace(self.cameras[batch], rgb=rgb)


def _check_order(numbers: Sequence[int], cameras: Views, source: str) -> None:
    """Raise ``InputError`` for frames that repeat, or that lie before the ones they follow."""
    times = cameras.time.tolist()
    for i in range(1, len(numbers)):
        number = (f"number {numbers[i]} of the video", numbers[i], numbers[i - 1])
        time = (f"time {times[i]:.6g} s", times[i], times[i - 1])
        for what, now, before in (number,) if cameras.one_moment else (time, number):
            if now <= before:
                kind = "repeats" if now == before else "lies before"
                raise InputError(
                    f"{source}: frame {i}, {what} {kind} that of frame {i - 1} ({before:.6g}); "
                    "sort the frames and drop repeats."
                )


def _container_format(path: Path) -> str:
    """FFmpeg's name of the container, from the file's own bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            head = handle.read(12)
            if size == 0:
                raise InputError(f"{path} is an empty file; copy or encode it again.")
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                _check_boxes(handle, size, path)
                return "mp4"
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        if int.from_bytes(head[4:8], "little") + 8 > size:
            raise InputError(f"{path} is truncated (the file ends before its data); copy it again.")
        return "avi"
    raise InputError(
        f"{path} is not an mp4, mov, mkv, webm or avi file; convert the video to mp4 (H.264)."
    )


def _check_boxes(handle, size: int, path: Path) -> None:
    """Walk the top-level boxes of an mp4: all must end inside the file, and one must be the index
    (moov).
    """
    position, kinds = 0, set()
    while position + 8 <= size:
        handle.seek(position)
        header = handle.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # the last box may run to the end of the file
            length = size - position
        kinds.add(header[4:8])
        if length < 8 or position + length > size:
            raise InputError(
                f"{path} is truncated (box {header[4:8]!r} ends outside the file); copy or "
                "encode it again."
            )
        position += length
    if b"moov" not in kinds:
        raise InputError(
            f"{path} has no index (no moov box), so it was never finished; encode it again."
        )
