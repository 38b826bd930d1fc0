"""The loop that writes a film: the same frames as asked for, its turn taken per batch, nothing left
of half a film.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fsm.errors import InputError
from fsm.renderers.film.film import write_film
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
