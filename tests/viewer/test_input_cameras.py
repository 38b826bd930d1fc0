"""The input cameras as they are shown, and where their pictures come from."""

import dataclasses

import numpy as np
import pytest
import torch

from fsm.datasets.base import MemoryClip
from fsm.viewer.input_cameras import (
    MAX_SHOWN,
    InputCameras,
    around,
    frustum_size,
    observed,
    time_colours,
)
from fsm.viewer.stage import Stage
from tests.viewer.fakes import FakeScene, cameras


def _clip(shift: float = 0.0) -> MemoryClip:
    views = cameras(9, hw=(64, 96))
    pixels = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(9, 3, 64, 96) * 20
    return MemoryClip(
        "clip", "clip.json", dataclasses.replace(views, time=views.time / 2 + shift), pixels
    )


def test_pictures_come_from_the_frames_of_the_same_moments() -> None:
    scene = FakeScene()  # 0, 0.1 ... 0.4 s; the clip has 0, 0.05 ... 0.4 s
    views = observed(scene, _clip())
    assert views.rgb is not None
    assert views.hw == scene.hw
    levels = (views.rgb.mean((1, 2, 3)) * 255).round().tolist()
    assert levels == [0, 40, 80, 120, 160]


def test_another_clip_gives_no_pictures() -> None:
    assert observed(FakeScene(), _clip(shift=0.02)).rgb is None
    assert observed(FakeScene()).rgb is None
    assert "Difference" not in Stage(FakeScene()).modes
    assert "Difference" in Stage(FakeScene(), _clip()).modes


def test_many_inputs_are_shown_by_an_even_choice_in_order_of_time() -> None:
    views = cameras(200, rgb=True)
    shuffled = views[torch.randperm(200)]
    inputs = InputCameras.of(shuffled)
    assert len(inputs.shown) == len(inputs.cameras) == len(inputs.thumbnails) == MAX_SHOWN
    times = shuffled.time[list(inputs.shown)]
    assert bool((times.diff() > 0).all())
    assert (float(times[0]), float(times[-1])) == pytest.approx((0.0, 19.9))
    for index in (0, 57, 199):
        place = inputs.nearest_shown(index)
        gap = abs(float(shuffled.time[inputs.shown[place]] - shuffled.time[index]))
        assert gap == pytest.approx(float((times - shuffled.time[index]).abs().min()))


def test_thumbnails_are_small_and_what_the_frame_shows() -> None:
    views = cameras(2, hw=(128, 192), rgb=True)
    assert views.rgb is not None
    inputs = InputCameras.of(views)
    assert inputs.thumbnails[0].shape == (64, 96, 3)
    mean = torch.nn.functional.avg_pool2d(views.rgb, 2)[1].permute(1, 2, 0).numpy() * 255
    assert np.abs(inputs.thumbnails[1] - mean).max() <= 0.5 + 1e-3
    assert InputCameras.of(cameras()).thumbnails == (None,) * 5


def test_inputs_of_one_moment_are_told_apart() -> None:
    views = cameras(3)
    still = dataclasses.replace(views, time=torch.zeros(3))
    inputs = InputCameras.of(still)
    assert [inputs.shown[inputs.nearest_shown(i)] for i in range(3)] == [0, 1, 2]


def test_colours_go_from_dark_blue_to_yellow() -> None:
    colours = time_colours([0.0, 5.0, 1.0])
    assert colours[0].tolist() == [68, 1, 84]  # viridis at 0 and at 1
    assert colours[1].tolist() == [253, 231, 37]
    assert time_colours([3.0]).tolist() == [[68, 1, 84]]


def test_frustums_are_as_large_as_their_distance_allows() -> None:
    assert frustum_size(cameras()) == pytest.approx(0.05)  # twice 0.1, held to a twentieth of 1 m
    assert frustum_size(cameras(1)) == pytest.approx(0.02)


def test_frustums_around_the_eye_are_found() -> None:
    inputs = InputCameras.of(cameras())
    assert around((0.1, 0.0, 0.0), inputs.cameras, 0.05) == {1}
    assert around((0.15, 0.0, 0.0), inputs.cameras, 0.06) == {1, 2}
    assert around((9.0, 0.0, 0.0), inputs.cameras, 0.5) == set()
