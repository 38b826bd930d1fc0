"""Written files read back: pixels, colours, tags, order, sizes; and nothing left behind on
failure.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.film.video import Write, png_sequence_writer, to_uint8, video_writer
from fsm.views import Views


def _smooth(n: int, h: int, w: int) -> Iterator[torch.Tensor]:
    """Slowly drifting coloured ramps and waves."""
    y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
    for i in range(n):
        t = i / 30
        yield torch.stack(
            [0.1 + 0.8 * x, 0.9 - 0.8 * y, 0.5 + 0.4 * torch.sin(4 * x + 3 * y + 6 * t)]
        )


def _write_all(writer: AbstractContextManager[Write], frames: Iterable[torch.Tensor]) -> None:
    with writer as write:
        for frame in frames:
            write(frame)


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_smooth_frames_survive_video(tmp_path: Path) -> None:
    frames = list(_smooth(12, 96, 144))
    _write_all(video_writer(tmp_path / "a.mp4", 30.0), iter(frames))
    decoded = _decode(tmp_path / "a.mp4")
    expected = np.stack([to_uint8(f) for f in frames])
    assert decoded.shape == expected.shape
    for mine, theirs in zip(decoded, expected, strict=True):
        assert 10 * np.log10(255**2 / np.mean((mine.astype(float) - theirs) ** 2)) > 38


@pytest.mark.parametrize(
    "colour", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 0, 0), (0.8, 0.3, 0.1)]
)
def test_flat_colours_are_not_shifted(tmp_path: Path, colour: tuple[float, float, float]) -> None:
    """A wrong matrix or range moves saturated colours by ten levels and more."""
    flat = torch.tensor(colour).float()[:, None, None].expand(3, 32, 32)
    _write_all(video_writer(tmp_path / "a.mp4", 30.0), [flat] * 3)
    expected = np.round(255 * np.array(colour))
    assert np.abs(_decode(tmp_path / "a.mp4").astype(float) - expected).max() <= 3


def test_video_is_tagged_and_plays_everywhere(tmp_path: Path) -> None:
    _write_all(video_writer(tmp_path / "a.mp4", 29.97), _smooth(5, 32, 48))
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (1, 1, 1, 1)
        assert float(stream.average_rate) == pytest.approx(29.97, abs=1e-3)
        assert stream.frames == 5
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts before it is downloaded


@pytest.mark.parametrize(("h", "w"), [(33, 48), (32, 47), (31, 45), (1, 1)])
def test_odd_sizes_are_padded_by_the_edge(tmp_path: Path, h: int, w: int) -> None:
    # grey: halved colour resolution is not the matter here
    frame = next(_smooth(1, h, w))[2:].expand(3, h, w)
    _write_all(video_writer(tmp_path / "a.mp4", 10.0), [frame] * 2)
    decoded = _decode(tmp_path / "a.mp4")
    assert decoded.shape == (2, h + h % 2, w + w % 2, 3)
    expected = np.pad(to_uint8(frame), ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    assert np.abs(decoded[0].astype(float) - expected).mean() < 2


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    """No frame is asked for before the one before it has been encoded, nor is any held."""
    import weakref

    alive: list[weakref.ref] = []

    def frames() -> Iterator[torch.Tensor]:
        for i in range(20):
            assert sum(r() is not None for r in alive) <= 1
            frame = torch.full((3, 32, 32), i / 20)
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    _write_all(video_writer(tmp_path / "a.mp4", 10.0), frames())
    _write_all(png_sequence_writer(tmp_path / "pngs"), frames())


def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    _write_all(video_writer(tmp_path / "a.mp4", 10.0), _smooth(2, 16, 16))
    _write_all(png_sequence_writer(tmp_path / "pngs"), _smooth(2, 16, 16))
    before = (tmp_path / "a.mp4").read_bytes()

    def broken() -> Iterator[torch.Tensor]:
        yield from _smooth(3, 16, 16)
        raise RuntimeError("the scene failed")

    with pytest.raises(RuntimeError, match="the scene failed"):
        _write_all(video_writer(tmp_path / "a.mp4", 10.0), broken())
    with pytest.raises(RuntimeError, match="the scene failed"):
        _write_all(video_writer(tmp_path / "b.mp4", 10.0), broken())
    with pytest.raises(RuntimeError, match="the scene failed"):
        _write_all(png_sequence_writer(tmp_path / "pngs"), broken())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "pngs"]
    assert (tmp_path / "a.mp4").read_bytes() == before
    assert len(list((tmp_path / "pngs").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "frames", "fps", "says"),
    [
        ("a.mp4", [], 30.0, "no frames"),
        ("a.avi", [torch.zeros(3, 4, 4)], 30.0, "not an .mp4"),
        ("a.mp4", [torch.zeros(3, 4, 4)], 0.0, "fps is 0"),
        (
            "a.mp4",
            [torch.zeros(3, 4, 4), torch.zeros(3, 4, 6)],
            30.0,
            "6x4 where the first was 4x4",
        ),
        ("a.mp4", [torch.full((3, 4, 4), torch.nan)], 30.0, "not finite"),
    ],
)
def test_bad_video_requests_are_named(
    tmp_path: Path, name: str, frames: list, fps: float, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        _write_all(video_writer(tmp_path / name, fps), frames)
    assert list(tmp_path.iterdir()) == []


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def test_png_is_exact(tmp_path: Path) -> None:
    image = torch.rand(3, 7, 5)
    _write_all(png_sequence_writer(tmp_path / "a"), [image])
    written = _read(tmp_path / "a" / "frame_00000.png")
    assert np.array_equal(written, np.round(image.permute(1, 2, 0).numpy() * 255))


def test_bytes_are_rounded_and_clamped() -> None:
    image = (
        torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0, 0.0])
        .view(1, 1, 6)
        .expand(3, 1, 6)
    )
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 1, 255, 255, 0]


def test_png_sequence_tells_its_cameras(tmp_path: Path) -> None:
    cameras = Views(
        torch.eye(4).repeat(3, 1, 1), torch.rand(3, 4), torch.tensor([0.0, 0.1, 0.7]), (16, 24)
    )
    frames = list(_smooth(3, 16, 24))
    _write_all(png_sequence_writer(tmp_path / "out", cameras), frames)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["cameras.json", "frame_00000.png", "frame_00001.png", "frame_00002.png"]
    document = json.loads((tmp_path / "out" / "cameras.json").read_text())
    assert (document["height"], document["width"]) == (16, 24)
    for i, entry in enumerate(document["frames"]):
        assert np.array_equal(_read(tmp_path / "out" / entry["file"]), to_uint8(frames[i]))
        assert torch.equal(torch.tensor(entry["camera_to_world"]), cameras.c2w[i])
        assert torch.equal(torch.tensor(entry["intrinsics"]), cameras.intrinsics[i])
        assert entry["time"] == float(cameras.time[i])


def test_png_sequence_replaces_a_sequence_but_nothing_else(tmp_path: Path) -> None:
    _write_all(png_sequence_writer(tmp_path / "out"), _smooth(3, 8, 8))
    _write_all(png_sequence_writer(tmp_path / "out"), _smooth(2, 8, 8))
    assert len(list((tmp_path / "out").iterdir())) == 2
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        _write_all(png_sequence_writer(tmp_path / "out"), _smooth(2, 8, 8))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_frames_and_cameras_must_agree(tmp_path: Path) -> None:
    cameras = Views(torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3), (8, 8))
    with pytest.raises(InputError, match="2 frames came for 3 cameras"):
        _write_all(png_sequence_writer(tmp_path / "out", cameras), _smooth(2, 8, 8))
    assert list(tmp_path.iterdir()) == []
