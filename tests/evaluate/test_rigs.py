"""Cameras of a rig held out: which frames are seen and asked for, what the baselines copy."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

from fsm.cli.main import main
from fsm.datasets.base import MemoryClip
from fsm.datasets.open import open_clip, open_dataset
from fsm.errors import InputError
from fsm.evaluate.baselines import camera_blend, mean_image, nearest_camera
from fsm.evaluate.metrics import Metrics
from fsm.evaluate.protocols import Rig, protocol
from fsm.evaluate.results import EvaluationResult
from fsm.evaluate.rigs import spread
from fsm.evaluate.run import Evaluation, evaluate
from fsm.views import Views
from tests.evaluate.test_run import moving_clip


def rig(cameras: int, moments: int) -> MemoryClip:
    """Cameras along x, one level of grey each; frames moment by moment."""
    place = torch.arange(cameras).repeat(moments)
    c2w = torch.eye(4).repeat(len(place), 1, 1)
    c2w[:, 0, 3] = place.float()
    pixels = (20 * place)[:, None, None, None].expand(-1, 3, 16, 16).byte()
    time = torch.arange(moments).repeat_interleave(cameras) / 10
    intrinsics = torch.tensor([20.0, 20, 8, 8]).repeat(len(place), 1)
    return MemoryClip("rig", "rig.json", Views(c2w, intrinsics, time, (16, 16)), pixels)


def test_every_fourth_camera_from_the_second_on_is_held_out_at_all_moments() -> None:
    clip = open_clip("world:3101:rig=8x12")
    plan = Rig().plan_for(clip)
    assert plan.target_index == tuple(8 * m + c for m in range(12) for c in (1, 5))
    assert len(plan.input_index) == 6 * 12
    assert not {clip.camera_ids[i] for i in plan.input_index} & {"camera-1", "camera-5"}
    assert Rig().plan_for(clip, seed=3) == plan
    chosen = protocol("rig", hold_cameras=["camera-2", "7"]).plan_for(clip)
    assert {clip.camera_ids[i] for i in chosen.target_index} == {"camera-2", "camera-7"}


def test_views_of_one_moment_are_cameras_each() -> None:
    plan = Rig().plan_for(rig(9, 1))
    assert (plan.input_index, plan.target_index) == ((0, 2, 3, 4, 6, 7, 8), (1, 5))


@pytest.mark.parametrize(("cameras", "moments", "count"), [(6, 12, 36), (9, 6, 20), (6, 40, 24)])
def test_a_few_frames_are_spread_over_cameras_and_moments(
    cameras: int, moments: int, count: int
) -> None:
    """No camera and no moment has two frames more than another; all frames are reached."""
    names = [f"c{i}" for i in range(cameras)] * moments
    times = [m / 10 for m in range(moments) for _ in range(cameras)]
    kept = spread(range(cameras * moments), names, times, count)
    assert len(set(kept)) == count
    most = cameras * moments - 1
    assert len(set(spread(range(most + 1), names, times, most))) == most
    for counts, kinds in (
        (Counter(names[i] for i in kept), cameras),
        (Counter(times[i] for i in kept), moments),
    ):
        assert len(counts) == min(kinds, count)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_clips_that_have_no_such_cameras_are_refused() -> None:
    with pytest.raises(InputError, match=r"a\.json has one camera; .* use the protocol dense"):
        Rig().plan_for(moving_clip("a", 20))
    with pytest.raises(InputError, match=r"has no camera 'x' to hold out; it has 0, 1, 2"):
        Rig(hold_cameras=("x",)).plan_for(rig(3, 2))
    with pytest.raises(InputError, match="all cameras are held out"):
        Rig(hold_cameras=("0", "1", "2")).plan_for(rig(3, 2))
    with pytest.raises(InputError, match="every is 1; it must be at least 2"):
        protocol("rig", every=1)
    with pytest.raises(InputError, match="hold_cameras"):
        protocol("dense", hold_cameras=["1"])


def test_baselines_copy_and_blend_the_nearest_cameras() -> None:
    clip = rig(5, 3)
    inputs = clip.views([0, 2, 4, 5, 7, 9, 10, 12, 14])  # cameras 0, 2 and 4
    requests = clip.cameras[[1, 8]]
    moved = requests.c2w.clone()
    moved[0, 0, 3] = 0.5  # between cameras 0 and 2, nearer to 0
    requests = dataclasses.replace(requests, c2w=moved)
    level = 255 * torch.stack(
        [
            baseline(inputs, requests)[:, 0, 0, 0]
            for baseline in (nearest_camera, camera_blend, mean_image)
        ]
    )
    expected = [[0.0, 40.0], [0.25 * 40.0, 60.0], [40.0, 40.0]]
    assert torch.allclose(level, torch.tensor(expected), atol=1e-3)


def test_the_moment_of_a_request_comes_before_its_place() -> None:
    """A camera further away at the requested moment is taken before the nearest one at another."""
    clip = rig(3, 2)
    inputs = clip.views([0, 5])  # camera 0 at the first moment, camera 2 at the second
    requests = clip.cameras[[4, 1]]
    found = nearest_camera(inputs, requests)[:, 0, 0, 0] * 255
    assert torch.allclose(found, torch.tensor([40.0, 0.0]), atol=1e-3)
    assert torch.equal(camera_blend(inputs, requests), nearest_camera(inputs, requests))


def test_a_world_rig_is_scored_with_moving_pixels(tmp_path: Path) -> None:
    chosen = Rig(hw=(32, 32), targets=4)
    result = evaluate(
        None, open_dataset("world:3104:rig=4x3"), Evaluation(chosen, Metrics()), tmp_path
    )
    assert result.rows == ("nearest_camera", "camera_blend", "mean_image")
    assert set(result.header["baselines"]) == set(result.rows)
    assert all(score.psnr_moving is not None for score in result.mean.values())
    assert EvaluationResult.load(tmp_path / "results.json") == result


def test_the_command_holds_out_cameras(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["eval", "world:3101:rig=4x2", "--protocol", "rig", "--model", "none"]
    given = ["--hold-cameras", "0,camera-2", "--size", "32", "--lpips", "none", "--inputs", "3"]
    assert main([*command, *given, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "camera blend" in printed
    assert "moving" in printed
    (scene,) = EvaluationResult.load(out / "results.json").scenes
    assert scene.target_index == (0, 2, 4, 6)
    assert len(scene.input_index) == 3
    assert main([*command, "--inputs", "1", "-o", str(out)]) == 2
    assert "inputs is 1" in capsys.readouterr().err
