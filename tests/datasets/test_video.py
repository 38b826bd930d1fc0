import random
from pathlib import Path

import pytest

from fsm.datasets.video import VideoFrames
from fsm.errors import InputError
from tests.datasets.media import counter_picture, counter_video, read_counter, write_video

FRAMES = 100
OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "keyint=12:bframes=3:b-adapt=0:b-pyramid=2:open-gop=1:scenecut=0"}
ENCODINGS = {
    "mp4": ("a.mp4", {}),
    "open-gop": ("a.mp4", {"options": OPEN_GOP}),
    "mov": ("a.mov", {}),
    "mkv": ("a.mkv", {}),
    "avi": ("a.avi", {}),
    "webm": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}}),
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
