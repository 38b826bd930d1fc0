"""Targets beside the path: where the cameras stand, what the truth there is, who may be asked."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fsm.datasets.free_space import CLEARANCE
from fsm.datasets.open import open_clip, open_dataset
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.evaluate.metrics import Metrics, depth_errors
from fsm.evaluate.novel import SIDEWAYS, cameras_beside, orbit_at, rendered
from fsm.evaluate.pictures import load_pictures
from fsm.evaluate.protocols import Novel, Sparse, load_plans, protocol
from fsm.evaluate.results import EvaluationResult, ModelInfo
from fsm.evaluate.run import Evaluation, evaluate
from fsm.evaluate.scoring import Method
from fsm.views import Rendering, Views
from tests.evaluate.test_run import moving_clip

HW = (32, 40)
INFO = ModelInfo("truth", "0" * 16, "cpu", "float32")
SMALL = Novel(hw=HW, inputs=3, targets=2)


class Corridor(RenderedClip):
    """Cameras that look along +z between two walls at x = -left and x = right; there is nothing
    ahead, depth is exact.
    """

    def __init__(self, left: float, right: float, frames: int = 9) -> None:
        self.left, self.right = left, right
        cameras = Views(
            torch.eye(4).repeat(frames, 1, 1),
            torch.tensor([20.0, 20, 20, 16]).repeat(frames, 1),
            torch.arange(frames) / 10,
            HW,
        )
        super().__init__("corridor", "corridor", cameras, 10.0)

    def truth(self, requests: Views) -> Rendering:
        """Distance along each camera's z axis to the wall that its rays meet; a camera behind a
        wall sees nothing of it.
        """
        h, w = requests.hw
        x = (
            torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1).float()
            + 0.5
        )
        fx, fy, cx, cy = (requests.intrinsics[:, None, None, i] for i in range(4))
        rays = torch.stack(
            [
                (x[..., 0] - cx) / fx,
                (x[..., 1] - cy) / fy,
                torch.ones_like(x[..., 0]).expand(len(fx), h, w),
            ],
            -1,
        )
        along = (rays @ requests.c2w[:, None, :3, :3].mT)[..., 0]
        start = requests.c2w[:, None, None, 0, 3]
        hits = torch.stack([(-self.left - start) / along, (self.right - start) / along])
        depth = hits.masked_fill(~(hits > 0), torch.inf).amin(0)[:, None]
        return Rendering(torch.rand(1).expand(len(fx), 3, h, w), depth=depth)


class Truth:
    """A scene that renders what the clip knows."""

    clip: RenderedClip

    def __init__(self, inputs: Views) -> None:
        self.inputs = inputs
        self.frames_seen = inputs.frame_ids

    def render(self, views: Views) -> Rendering:
        seen = Truth.clip.truth(views)
        assert seen.depth is not None
        return dataclasses.replace(seen, depth=seen.depth.nan_to_num(posinf=0.0))

    def save(self, path: Path | str) -> None:
        raise NotImplementedError


def test_cameras_stand_beside_their_frames() -> None:
    """Left and right in turn, by the asked distance across the viewing direction, at the same
    moments.
    """
    clip = rendered(open_clip("world:1"))
    path, moved = (
        clip.cameras[[3, 9, 20]].covering((32, 32)),
        cameras_beside(clip, [3, 9, 20], (32, 32)),
    )
    way = moved.c2w[:, :3, 3] - path.c2w[:, :3, 3]
    in_camera = torch.einsum("vji,vj->vi", path.c2w[:, :3, :3], way)
    side = torch.tensor([1.0, -1.0, 1.0])[:, None]
    torch.testing.assert_close(
        in_camera, SIDEWAYS * torch.tensor([[1.0, -0.5, 0.0]]) * torch.cat([side, side**2, side], 1)
    )
    assert torch.equal(moved.c2w[:, :3, :3], path.c2w[:, :3, :3])
    assert torch.equal(moved.time, path.time)
    assert torch.equal(moved.intrinsics, path.intrinsics)
    assert moved.rgb is None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (9.0, 9.0, 0.25),
        (9.0, 0.3, -0.25),  # a wall in the way of the right-hand side: the left
        (0.3, 0.3, 0.125),  # walls on both sides: half the way
        (9.0, 0.1, -0.25),
    ],
)
def test_cameras_keep_clear_of_what_is_in_the_way(
    left: float, right: float, expected: float
) -> None:
    """A camera behind a wall would not notice by its own picture; the way there does."""
    clip = Corridor(left, right)
    moved = cameras_beside(clip, [4], HW)
    assert float(moved.c2w[0, 0, 3]) == pytest.approx(expected)
    assert -left + CLEARANCE <= float(moved.c2w[0, 0, 3]) <= right - CLEARANCE
    with pytest.raises(InputError, match="beside frame 5 there is no free place"):
        cameras_beside(Corridor(0.15, 0.15), [5], HW)


def test_cameras_of_worlds_have_nothing_right_before_them() -> None:
    for seed in range(6):
        clip = rendered(open_clip(f"world:{seed}"))
        depth = clip.truth(cameras_beside(clip, [0, 20, 40, 59], (64, 64))).depth
        assert depth is not None
        assert float(depth.min()) > CLEARANCE


def test_an_orbit_turns_about_what_the_frame_looks_at() -> None:
    """One moment, one distance to the focus, which stays in the middle of every picture."""
    clip = rendered(open_clip("demo"))
    orbit, angles = orbit_at(clip, 28, 20.0, 5)
    assert angles == pytest.approx([-10, -5, 0, 5, 10])
    assert torch.equal(orbit.time, clip.cameras.time[[28] * 5])
    assert orbit.frame_ids is None
    assert torch.allclose(orbit.c2w[2], clip.cameras.c2w[28], atol=1e-5)
    depth = clip.truth(clip.cameras[[28]]).depth
    assert depth is not None
    away = depth[depth.isfinite()].median()
    focus = clip.cameras.c2w[28, :3, 3] + away * clip.cameras.c2w[28, :3, 2]
    assert torch.allclose(
        orbit.c2w[:, :3, 3] + away * orbit.c2w[:, :3, 2], focus.expand(5, 3), atol=1e-4
    )
    turned = (orbit.c2w[1:, :3, :3].mT @ orbit.c2w[:-1, :3, :3]).diagonal(dim1=1, dim2=2).sum(-1)
    assert torch.allclose(
        torch.rad2deg(torch.acos(0.5 * (turned - 1))), torch.tensor(5.0), atol=0.05
    )
    with pytest.raises(InputError, match="around frame 5 there is no free place"):
        orbit_at(Corridor(0.05, 0.05), 5, 40.0, 3)


@pytest.mark.parametrize("name", ["world:3", "world:1"])
def test_the_truth_scores_perfectly_beside_the_path(tmp_path: Path, name: str) -> None:
    """Pictures and depth are those of the moved cameras, rendered anew; nothing else comes near
    them.
    """
    dataset = open_dataset(name)
    clip = rendered(dataset.clip(dataset.ids[0]))
    Truth.clip = clip
    result = evaluate(Method(Truth, INFO), dataset, Evaluation(SMALL, Metrics()), tmp_path)
    (scene,) = result.scenes
    plan = SMALL.plan_for(clip)
    assert all((s.psnr, s.ssim) == (100.0, 1.0) for s in scene.scores["model"])
    assert all(s.depth == 0.0 for s in scene.scores["model"])
    assert all(s.psnr_moving in (100.0, None) for s in scene.scores["model"])
    assert any(s.psnr_moving is not None for s in scene.scores["nearest"])
    assert all(s.psnr_standing == 100.0 for s in scene.scores["model"])
    assert all(
        s.psnr < 40 and s.depth is None
        for row in ("nearest", "blend", "flow")
        for s in scene.scores[row]
    )
    shown = load_pictures(tmp_path / "pictures" / clip.id, scene.pictures, "truth")
    moved = cameras_beside(clip, list(plan.target_index), HW)
    assert torch.allclose(shown, clip.truth(moved).rgb, atol=0.5 / 255 + 1e-6)
    assert load_plans(tmp_path / "plans.json")[clip.id] == plan
    assert EvaluationResult.load(tmp_path / "results.json") == result


def test_plans_are_even_and_repeatable() -> None:
    plan = Novel().plan(60, "a")
    assert plan == Novel().plan(60, "b", seed=3)
    assert len(plan.input_index) == 16
    assert len(plan.target_index) == 8
    assert plan.input_index == Sparse(inputs=16).plan(60, "a").input_index
    assert set(plan.target_index) <= set(Sparse(inputs=16).plan(60, "a").target_index)
    assert len(Novel().plan(5, "a").target_index) == 2


def test_only_rendered_clips_have_it(tmp_path: Path) -> None:
    class Filmed:
        ids = ("a",)

        def __len__(self) -> int:
            return 1

        def clip(self, id: str):
            return moving_clip(id, 20)

    with pytest.raises(InputError, match=r"a\.json was filmed by a camera.*world:SEED"):
        evaluate(None, Filmed(), Evaluation(SMALL, Metrics()), tmp_path)
    with pytest.raises(InputError, match=r"sideways is 0\.0; it must be at least 0\.01"):
        protocol("novel", sideways=0.0)


def test_depth_errors_are_medians_of_what_is_there() -> None:
    truth = torch.tensor([1.0, 2.0, 4.0, torch.inf]).reshape(1, 1, 2, 2)
    depth = torch.tensor([1.1, 3.0, 0.0, 7.0]).reshape(1, 1, 2, 2)
    assert depth_errors(depth, truth) == (0.5,)
    assert depth_errors(depth, torch.full_like(truth, torch.inf)) == (None,)
    with pytest.raises(InputError, match="diverged"):
        depth_errors(depth * torch.nan, truth)
