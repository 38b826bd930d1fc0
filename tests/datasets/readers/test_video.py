import random
from pathlib import Path

import pytest
import torch

from fsm.datasets.readers.video import VideoFrames
from fsm.errors import InputError
from tests.datasets.media import counter_picture, counter_video, read_counter, write_video

FRAMES = 100
OPEN_GOP = {
    "g": "12",
    "bf": "3",
    "x264-params": "keyint=12:bframes=3:b-adapt=0:b-pyramid=2:open-gop=1:scenecut=0",
}
ENCODINGS = {
    "mp4": ("a.mp4", {}),
    "open-gop": ("a.mp4", {"options": OPEN_GOP}),
    "mov": ("a.mov", {}),
    "mkv": ("a.mkv", {}),
    "avi": ("a.avi", {}),
    "webm": (
        "a.webm",
        {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}},
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_frame_is_the_one_asked_for(tmp_path: Path, encoding: str) -> None:
    name, more = ENCODINGS[encoding]
    video = VideoFrames(counter_video(tmp_path / name, FRAMES, **more))
    assert len(video) == FRAMES
    assert video.fps == pytest.approx(30)
    assert video.hw == (64, 128)
    whole = video.frames(range(FRAMES))
    assert [read_counter(f.numpy()) for f in whole] == list(range(FRAMES))
    rng = random.Random(0)
    for _ in range(20):
        wanted = rng.choices(range(FRAMES), k=rng.randint(1, 6))
        found = video.frames(wanted)
        assert [read_counter(f.numpy()) for f in found] == wanted
        assert (found == whole[wanted]).all()


def test_the_test_video_has_reordered_frames_and_several_key_frames(tmp_path: Path) -> None:
    import av

    with av.open(str(counter_video(tmp_path / "a.mp4", 40))) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    pts = [p.pts for p in packets]
    assert pts != sorted(pts)
    assert sum(p.is_keyframe for p in packets) >= 3


def test_colours_survive(tmp_path: Path) -> None:
    picture = counter_picture(0)
    picture[:, :64] = (200, 60, 30)
    video = VideoFrames(write_video(tmp_path / "a.mp4", [picture] * 3))
    assert video.frames([1])[0, :, 16, 16].tolist() == pytest.approx([200, 60, 30], abs=4)


def test_a_frame_outside_is_refused(tmp_path: Path) -> None:
    video = VideoFrames(counter_video(tmp_path / "a.mp4", 5))
    for wrong in (5, -1):
        with pytest.raises(InputError, match=f"has 5 frames; frame {wrong}"):
            video.frames([wrong])


def test_a_cut_from_the_middle_counts_from_its_own_first_frame(tmp_path: Path) -> None:
    """Stream copy from a later key frame: display times do not start at 0."""
    import av

    source = counter_video(tmp_path / "a.mp4", FRAMES)
    with av.open(str(source)) as given, av.open(str(tmp_path / "cut.mkv"), "w") as cut:
        stream = cut.add_stream_from_template(given.streams.video[0])
        packets = [p for p in given.demux(video=0) if p.size]
        third_key = [i for i, p in enumerate(packets) if p.is_keyframe][2]
        for packet in packets[third_key:]:
            packet.stream = stream
            cut.mux(packet)
    video = VideoFrames(tmp_path / "cut.mkv")
    assert len(video) == FRAMES - 24
    assert [read_counter(f.numpy()) for f in video.frames([0, 40, 11, 12])] == [24, 64, 35, 36]


def box(path: Path, kind: bytes) -> tuple[int, int]:
    """Start and length of the first box of this kind."""
    data = path.read_bytes()
    start = data.index(kind) - 4
    return start, int.from_bytes(data[start : start + 4], "big")


def cut_to(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def moov_first(path: Path) -> None:
    """Rewrite so that the index precedes the pictures, as for streaming: truncation then spares the
    index.
    """
    import av

    with (
        av.open(str(path)) as given,
        av.open(str(path) + ".fast.mp4", "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    Path(str(path) + ".fast.mp4").rename(path)


def damage(path: Path, how: str) -> Path:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "no index":
        cut_to(path, box(path, b"moov")[0])
    elif how == "cut":
        cut_to(path, path.stat().st_size - 40)
    elif how == "cut pictures":
        moov_first(path)
        assert box(path, b"moov")[0] < box(path, b"mdat")[0]
        cut_to(path, path.stat().st_size * 3 // 4)
    elif how == "playlist":
        path.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/hostname\n#EXT-X-ENDLIST\n"
        )
    elif how == "concat":
        path.write_text("ffconcat version 1.0\nfile /etc/hostname\n")
    elif how == "header only":
        cut_to(path, 8)
    elif how == "missing":
        path.unlink()
    elif how == "rotated":
        data = bytearray(path.read_bytes())
        matrix = data.index(b"tkhd") + 4 + 40
        turn = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
        data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turn)
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "is an empty file"),
        ("no index", "has no index"),
        ("cut", "is truncated"),
        ("cut pictures", "is truncated"),
        ("playlist", "is not an mp4"),
        ("concat", "is not an mp4"),
        ("header only", "is truncated"),
        ("missing", "cannot be read"),
        ("rotated", "rotation flag of -?90"),
    ],
)
def test_bad_videos_are_refused_by_name(tmp_path: Path, how: str, message: str) -> None:
    path = damage(counter_video(tmp_path / "a.mp4", 30), how)
    with pytest.raises(InputError, match=message) as error:
        VideoFrames(path).frames([0])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_rotated_videos_are_turned_upright_where_asked(tmp_path: Path) -> None:
    path = counter_video(tmp_path / "a.mp4", 30)
    stored = VideoFrames(path).frames([3])[0]
    turned = VideoFrames(damage(path, "rotated"), upright=True).frames([3])[0]
    # the matrix says: show it turned clockwise by 90 degrees
    assert torch.equal(turned, stored.rot90(-1, (1, 2)))


def test_damage_inside_the_pictures_is_an_error_or_a_frame_but_never_a_crash(
    tmp_path: Path,
) -> None:
    path = counter_video(tmp_path / "a.mp4", 30)
    start, length = box(path, b"mdat")
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(30):
            data[start + 8 + rng.randrange(length - 8)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            shape = VideoFrames(path).frames(range(30)).shape
        except InputError:
            refused += 1
        else:
            assert shape == (30, 3, 64, 128)
    assert refused > 10


def test_a_truncated_matroska_or_avi_is_refused_or_shorter(tmp_path: Path) -> None:
    path = counter_video(tmp_path / "a.avi", 30)
    cut_to(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="is truncated"):
        VideoFrames(path)
    path = counter_video(tmp_path / "a.mkv", 30)
    cut_to(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="truncated"):
        VideoFrames(path).frames(range(30))


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match="has no video stream"):
        VideoFrames(tmp_path / "a.mp4")


def test_workers_can_share_one_object(tmp_path: Path) -> None:
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    video = VideoFrames(counter_video(tmp_path / "a.mp4", 40))
    copy = pickle.loads(pickle.dumps(video))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: read_counter(copy.frames([i])[0].numpy()), range(40)))
    assert found == list(range(40))
