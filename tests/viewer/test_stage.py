"""From a request to a picture, with a scene whose colours say what it was asked for."""

import dataclasses

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.viewer import modes
from fsm.viewer.cameras import Camera
from fsm.viewer.stage import Job, Stage
from tests.viewer.fakes import FakeScene, cameras

CAMERA = Camera((1.0, 0.0, 0.0, 0.0), (0.25, 0.5, 0.0), 0.8, 1.5)


def job(mode: modes.Mode = "Colour", camera: Camera = CAMERA) -> Job:
    return Job(camera, 0.4, 2, mode, 40)


def mean(stage: Stage, wanted: Job, height: int = 40) -> list[float]:
    return (stage.render(wanted, height).picture.mean((0, 1)) / 255).tolist()


def test_a_picture_is_of_its_moment_from_its_camera() -> None:
    stage = Stage(FakeScene())
    assert mean(stage, job()) == pytest.approx([0.4, 0.25, 0.5], abs=0.5 / 255)
    rendered = stage.render(job(), 20)
    assert rendered.picture.shape == (20, 30, 3)
    assert rendered.seconds >= 0


def test_opacity_and_depth() -> None:
    scene = FakeScene()
    stage = Stage(scene)
    assert mean(stage, job("Opacity")) == pytest.approx([0.5] * 3, abs=0.5 / 255)
    first = stage.render(job("Depth"), 40).picture
    probed = len(scene.requests)
    assert np.array_equal(first, stage.render(job("Depth"), 40).picture)
    assert len(scene.requests) == probed + 1  # the range of depths is found once


def test_the_difference_is_taken_where_and_when_the_frame_was() -> None:
    inputs = cameras(rgb=True)
    assert inputs.rgb is not None
    frames = torch.tensor([0.3, 0.2, 0.1]).view(1, 3, 1, 1).expand_as(inputs.rgb)
    scene = FakeScene(inputs)
    stage = Stage(scene)
    stage.inputs = dataclasses.replace(stage.inputs, views=dataclasses.replace(inputs, rgb=frames))
    shown = stage.render(job("Difference", Camera.of_view(inputs, 2)), 32).picture
    asked = scene.requests[-1]
    assert asked.time.tolist() == pytest.approx([0.2])
    assert asked.c2w[0, :3, 3].tolist() == pytest.approx([0.2, 0, 0])
    # The scene is (0.2, 0.2, 0) there; a window wider than the frame would have grey margins.
    assert (shown.mean((0, 1)) / 255).tolist() == pytest.approx([0.4, 0.0, 0.4], abs=0.01)


def test_the_path_passes_the_inputs_at_their_fractions() -> None:
    stage = Stage(FakeScene())
    camera = stage.on_path(0.5)
    assert camera.position == pytest.approx((0.2, 0.0, 0.0), abs=1e-6)
    assert camera.fov == pytest.approx(Camera.of_view(stage.inputs.views, 2).fov)


def test_of_the_cameras_of_a_rig_the_nearest_in_place_counts() -> None:
    rig = dataclasses.replace(cameras(6), time=torch.tensor([0.0, 0.0, 0.0, 0.1, 0.1, 0.1]))
    stage = Stage(FakeScene(rig))  # at x = 0, 0.1 ... 0.5
    assert stage.nearest(0.02) == 0
    assert stage.nearest(0.02, (0.21, 0.0, 0.0)) == 2
    assert stage.nearest(0.09, (0.0, 0.0, 0.0)) == 3
    assert stage.nearest(0.09, (9.0, 0.0, 0.0)) == 5


def test_a_scene_without_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="at least one input"):
        Stage(FakeScene(cameras(0)))
