"""The loop that writes a film: the same frames as asked for, its turn taken per batch, nothing left
of half a film.
"""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fsm.errors import InputError
from fsm.renderers.film.exr import exr_sequence_writer
from fsm.renderers.film.film import write_film
from fsm.views import Rendering
from tests.viewer.fakes import FakeScene, cameras


def test_every_frame_is_the_view_asked_for_and_the_turn_is_given_back_after_each_batch(
    tmp_path: Path,
) -> None:
    scene, request = FakeScene(), cameras(6)
    held = []

    class Turn:
        def __enter__(self) -> None:
            held.append(len(scene.requests))

        def __exit__(self, *_: object) -> None:
            held.append(-len(scene.requests))

    assert list(
        write_film(scene, request, 30.0, tmp_path / "film", "both", batch=4, turn=Turn())
    ) == [1, 2, 3, 4, 5, 6]
    assert held == [0, -1, 1, -2]
    assert sorted(p.name for p in (tmp_path / "film").iterdir()) == ["frames", "video.mp4"]
    for i, red in enumerate((request.time * 255).round().tolist()):  # red says the time
        picture = cv2.imread(str(tmp_path / "film" / "frames" / f"frame_{i:05d}.png"))
        assert np.asarray(picture)[..., 2].mean() == red


def test_a_film_that_is_given_up_or_fails_leaves_nothing(tmp_path: Path) -> None:
    scene = FakeScene()
    film = write_film(scene, cameras(6), 30.0, tmp_path, "both", batch=2)
    assert [next(film), next(film), next(film)] == [1, 2, 3]
    film.close()
    assert list(tmp_path.iterdir()) == []
    scene.fail = ZeroDivisionError("a bug in the scene")
    with pytest.raises(ZeroDivisionError):
        list(write_film(scene, cameras(6), 30.0, tmp_path, "both"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no frames"):
        list(write_film(FakeScene(), cameras(6)[:0], 30.0, tmp_path, "mp4"))
    assert list(tmp_path.iterdir()) == []


def _decoded(path: Path, format: str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=format) for frame in container.decode(video=0)]


def test_webm_and_gif_play_the_frames_at_the_rate(tmp_path: Path) -> None:
    request = cameras(6)
    for format in ("webm", "gif"):
        assert len(list(write_film(FakeScene(), request, 30.0, tmp_path, format))) == 6
        frames = _decoded(tmp_path / f"video.{format}", "rgb24")
        for frame, red in zip(frames, (request.time * 255).tolist(), strict=True):
            assert abs(frame[..., 0].mean() - red) < 4
    with Image.open(tmp_path / "video.gif") as picture:
        lasts = []
        for i in range(picture.n_frames):
            picture.seek(i)
            lasts.append(picture.info["duration"])
    # 30 frames a second in hundredths of a second
    assert lasts == [30, 40, 30, 30, 40, 30]
    with pytest.raises(InputError, match="a GIF plays at most 50"):
        list(write_film(FakeScene(), request, 60.0, tmp_path, "gif"))


def test_exr_holds_linear_colour_alpha_and_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rgb, alpha, depth = torch.rand(3, 5, 7), torch.rand(1, 5, 7), 1e3 * torch.rand(1, 5, 7)
    request = cameras(1)
    with exr_sequence_writer(tmp_path / "frames", request) as write:
        write(Rendering(rgb[None], alpha[None], depth[None]))
    path = tmp_path / "frames" / "frame_00000.exr"
    # FFmpeg's reader knows colours and alpha, in the order G B R A
    (frame,) = _decoded(path, "gbrapf32le")
    light = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4).numpy()
    assert np.allclose(frame[..., :4], np.concatenate([light, alpha]).transpose(1, 2, 0), atol=1e-6)
    rows = np.frombuffer(path.read_bytes()[-5 * (8 + 7 * 4 * 5) :], np.uint8).reshape(5, -1)
    z = rows[:, 8:].copy().view("<f4").reshape(5, 5, 7)[:, 4]
    assert np.array_equal(z, depth[0].numpy())
    cameras_json = (tmp_path / "frames" / "cameras.json").read_text()
    assert "frame_00000.exr" in cameras_json
