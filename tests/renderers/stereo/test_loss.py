"""The stage that learns depth from the frames alone: its loss in closed form, and what it changes
and leaves.
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.renderers.stereo.config import StereoConfig, SweepConfig
from fsm.renderers.stereo.loss import (
    DEPTH_WEIGHT,
    KNOWN,
    MOTION_WEIGHT,
    OUTSIDE,
    UNKNOWN,
    photometric,
    plane_cross_entropy,
    stereo_loss,
)
from fsm.renderers.stereo.plane_sweep import Swept
from fsm.train.config import SourceConfig, StageConfig, TrainConfig
from fsm.train.data import SampleStream
from fsm.train.loop import train
from fsm.train.sources import CLEARANCE, WorldSource
from fsm.views import Views
from tests.datasets.media import write_fsm_clip
from tests.processes import finished
from tests.small import small_views
from tests.train.parallel_runs import assert_same_curve, worker
from tests.train.small_runs import CONFIG, HEAD, MODEL, OPTIM, read_log, stage
from tests.train.test_resume import assert_same_run

HW = (48, 64)
RULES = SweepConfig()
FARTHEST, REACH = RULES.farthest, RULES.reach
SMALL = StereoConfig(sources=2, sweep=SweepConfig(planes=4, fine_planes=4))
GAUSSIANS = PixelGaussianHeadConfig(hidden=16, references=2, stereo=SMALL, detail_width=8)


def wall(rho: float, x: list[float], fineness: float = 1.0) -> Views:
    """Cameras in a row before a textured wall at inverse depth ``rho``, as they see it in closed
    form; waves of 20 to 40 pixels.
    """
    c2w = torch.eye(4).repeat(len(x), 1, 1)
    c2w[:, 0, 3] = torch.tensor(x)
    intrinsics = torch.tensor([60.0, 60.0, 32.0, 24.0]).expand(len(x), 4)
    v, u = torch.meshgrid(torch.arange(HW[0]) + 0.5, torch.arange(HW[1]) + 0.5, indexing="ij")
    rgb = []
    for at in x:
        a, b = (u - 32.0) / 60.0 / rho + at, (v - 24.0) / 60.0 / rho  # places on the wall
        a, b = a * rho * 60.0 * fineness, b * rho * 60.0 * fineness
        rgb.append(
            0.5 + 0.25 * torch.stack([(a / 3 + b / 5).sin(), (a / 4 - b / 3).cos(), (a / 6).sin()])
        )
    return Views(c2w, intrinsics, torch.arange(len(x)) / 10.0, HW, torch.stack(rgb)).batched()


def test_colours_agree_at_the_true_depth_and_nowhere_else() -> None:
    row, rho = wall(0.4, [-0.3, -0.1, 0.1, 0.3, 0.0]), torch.full((1, 1, 1, *HW), 0.4)
    inputs, target = row[:4], row[4:]
    least = float(photometric(rho, target, inputs))
    assert least < 0.01  # bilinear samples of a smooth texture
    for wrong in (0.0, 0.2, 0.7, 1.2):
        assert float(photometric(torch.full_like(rho, wrong), target, inputs)) > 5 * least


def test_what_one_frame_does_not_show_another_does() -> None:
    """The best of the inputs counts: one that shows nothing of the wall changes nothing."""
    row, rho = wall(0.4, [-0.2, 0.2, 0.0]), torch.full((1, 1, 1, *HW), 0.4)
    inputs, target = row[:2], row[2:]
    assert inputs.rgb is not None
    rgb = inputs.rgb.clone()
    rgb[:, 0] = 0.0
    centre = (slice(None), slice(None), slice(None), slice(None), slice(16, 48))
    seen = dataclasses.replace(inputs, rgb=rgb)
    target = dataclasses.replace(target.cropped(0, 16, (HW[0], 32)))
    rho = rho[centre]
    assert float(photometric(rho, target, seen)) < 0.01
    assert float(photometric(rho, target, seen[:1])) > 0.2


def test_masked_pixels_neither_judge_nor_are_judged() -> None:
    row, rho = wall(0.4, [-0.2, 0.2, 0.0]), torch.full((1, 1, 1, *HW), 0.4)
    others, view = row[:2], row[2:]
    assert others.rgb is not None
    assert view.rgb is not None
    left = torch.zeros(1, 1, 1, *HW, dtype=torch.bool)
    left[..., :32] = True
    spoilt = dataclasses.replace(view, rgb=torch.where(left, view.rgb, torch.zeros(())))
    assert float(photometric(rho, spoilt, others)) > 0.1
    assert float(photometric(rho, dataclasses.replace(spoilt, mask=left), others)) < 0.02
    nothing = dataclasses.replace(others, mask=torch.zeros(1, 2, 1, *HW, dtype=torch.bool))
    assert float(photometric(rho, view, nothing)) > OUTSIDE


def test_clipping_and_lpips_count_from_the_first_step_that_learns_everything() -> None:
    stages = (
        StageConfig(0, learn="stereo"),
        StageConfig(100),
        StageConfig(150, learn="stereo"),
        StageConfig(170),
    )
    config = dataclasses.replace(CONFIG, model=DIRECT, stages=stages)
    assert [config.whole_steps(s) for s in (0, 99, 100, 160, 180)] == [-100, -1, 0, 60, 80]
    assert [config.learns(s) for s in (99, 100, 160, 180)] == ["stereo", "all", "stereo", "all"]
    assert CONFIG.whole_steps(7) == 7
    late = dataclasses.replace(CONFIG, model=DIRECT, stages=(StageConfig(5, learn="stereo"),))
    assert [late.whole_steps(s) for s in (3, 9)] == [3, 9]


def test_a_second_sweep_is_not_judged_where_it_cannot_reach_the_truth() -> None:
    frames = small_views(4, hw=(16, 16)).batched()
    others, views = frames[:3], frames[3:]
    about = torch.full((1, 1, 1, 16, 16), 0.5)

    def swept(rho: Tensor) -> Swept:
        tried = torch.tensor([0.0, 1.0])[:, None, None]
        return Swept(rho, torch.zeros(1, 1, 2, 8, 8), tried, torch.zeros_like(rho))

    reach = REACH * (0.5 + FARTHEST)
    answer = about.clone().requires_grad_()
    truth = torch.full_like(about, 1.0 / (0.5 + 0.9 * reach))
    truth[..., 8:] = 1.0 / (0.5 + 1.1 * reach)
    answers = [swept(about), swept(answer)]
    nothing_known = torch.full_like(truth, math.nan)
    _, parts = stereo_loss(answers, views, others, truth, nothing_known, RULES)
    assert parts["depth"] == pytest.approx(
        math.log((0.5 + 0.9 * reach + FARTHEST) / (0.5 + FARTHEST)), rel=1e-5
    )
    unknown = torch.full_like(truth, math.nan)
    free, parts = stereo_loss(answers, views, others, unknown, nothing_known, RULES)
    assert parts["depth"] == 0.0, "there all the same: processes add up their parts one by one"
    assert free.item() == pytest.approx(
        UNKNOWN * photometric(answer, views, others).item(), rel=1e-6
    )
    loss, _ = stereo_loss(answers, views, others, truth, nothing_known, RULES)
    (gradient,) = torch.autograd.grad(loss - KNOWN / UNKNOWN * free, answer)
    assert (gradient[..., :8] < 0).all(), "nearer costs less"
    assert float(gradient[..., 8:].abs().max()) < 1e-7
    # |d/dρ log ((ρ + s) / (ρ* + s))| is 1 / (ρ + s), shared out among the half that is judged.
    torch.testing.assert_close(
        gradient[..., :8], torch.full((1, 1, 1, 16, 8), -DEPTH_WEIGHT / (0.5 + FARTHEST) / 128)
    )


def test_what_moves_counts_more_and_learns_no_colours() -> None:
    views = small_views(4, hw=(16, 16)).batched()
    truth = torch.full((1, 1, 1, 16, 16), 2.0)
    moving = torch.zeros_like(truth)
    moving[..., 8:] = 1.0
    moving[..., :4, :] = math.nan
    rho = torch.full_like(truth, 0.6).requires_grad_()
    logit = torch.zeros_like(truth).requires_grad_()
    tried = torch.tensor([0.0, 1.0])[:, None, None]
    answer = Swept(rho, torch.zeros(1, 1, 2, 8, 8), tried, logit)
    loss, parts = stereo_loss([answer, answer], views[3:], views[:3], truth, moving, RULES)
    assert parts["motion"] == pytest.approx(math.log(2.0))
    along, said = torch.autograd.grad(loss, (rho, logit))
    share = MOTION_WEIGHT * 0.5 / (12 * 16)
    assert said[0, 0, 0, 8, 4].item() == pytest.approx(share)
    assert said[0, 0, 0, 8, 12].item() == pytest.approx(-share)
    assert not bool(said[..., :4, :].any()), "unknown"
    # what moves is taught by the truth alone: all its pixels have one gradient
    moved = along[0, 0, 0, 6:, 10:]
    torch.testing.assert_close(moved, moved[:1, :1].expand_as(moved))
    unsure, _ = stereo_loss([answer, answer], views[3:], views[:3], truth, 0 * truth, RULES)
    (plain,) = torch.autograd.grad(unsure, rho)
    assert plain[0, 0, 0, 6:, 10:].std() > 0.0


def test_cross_entropy_is_least_for_two_hypotheses_whose_mean_is_the_truth() -> None:
    tried = torch.tensor([0.0, 0.1, 0.3, 0.9])
    log_tried = (tried + FARTHEST).log()
    truth = torch.full((1, 1, 1, 4, 6), 1.0 / 0.2)
    truth[..., 2:4] = math.nan
    truth[..., 4:] = 1.0 / 5.0  # nearer than all
    logits = torch.randn(1, 1, 4, 2, 3, requires_grad=True)
    answer = Swept(torch.zeros_like(truth), logits, tried[:, None, None])
    (gradient,) = torch.autograd.grad(plane_cross_entropy(answer, truth, FARTHEST), logits)
    # of a mean over the four known of the six
    wanted = (torch.softmax(logits, 2) - 4 * gradient).detach()
    share = (math.log(0.2 + FARTHEST) - log_tried[1]) / (log_tried[2] - log_tried[1])
    torch.testing.assert_close(wanted[0, 0, :, 0, 0], torch.tensor([0.0, 1.0 - share, share, 0.0]))
    torch.testing.assert_close(
        (wanted[0, 0, :, 0, 0] * log_tried).sum().exp() - FARTHEST, torch.tensor(0.2)
    )
    torch.testing.assert_close(wanted[0, 0, :, 0, 2], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert not bool(gradient[..., 1].any()), "unknown"
    evenly = Swept(answer.rho, torch.zeros(1, 1, 4, 2, 3), answer.tried)
    assert plane_cross_entropy(evenly, truth, FARTHEST).item() == pytest.approx(
        math.log(4.0), rel=1e-6
    )
    assert plane_cross_entropy(answer, torch.full_like(truth, math.nan), FARTHEST).item() == 0.0


DIRECT = dataclasses.replace(MODEL, head=HEAD)


def staged(model: ModelConfig = DIRECT) -> TrainConfig:
    stages = (stage(0, learn="stereo", targets=1), stage(3, targets=2, lr=1e-2))
    return dataclasses.replace(
        CONFIG, model=model, stages=stages, optim=dataclasses.replace(OPTIM, depth_weight=0.1)
    )


@pytest.mark.parametrize("decoder", ["direct", "gaussian"])
def test_such_a_stage_changes_the_stereo_alone_and_the_next_one_all_the_rest(
    tmp_path: Path, decoder: str
) -> None:
    config = staged(DIRECT if decoder == "direct" else ModelConfig(MODEL.encoder, GAUSSIANS))
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema=0.0))
    torch.manual_seed(config.seed)
    before = FSM(config.model).state_dict()
    after = train(config, tmp_path, stop_after=3).state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert {name.split(".")[1] for name in changed} == {"stereo"}
    assert any(name.startswith("head.stereo.sweeps.1.") for name in changed)
    moments = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]["state"]
    assert 0 < len(moments) <= len([name for name in before if ".stereo." in name])
    last = train(config, tmp_path).state_dict()
    assert any(
        name.startswith("encoder.") and not torch.equal(last[name], after[name]) for name in last
    )
    assert all(torch.equal(last[name], after[name]) for name in last if ".stereo." in name)
    log = read_log(tmp_path)
    assert ["psnr" in entry for entry in log] == [False] * 3 + [True] * 3
    assert all(entry["colour"] > 0 for entry in log[:3])


def test_resuming_in_and_after_such_a_stage_changes_no_bit(tmp_path: Path) -> None:
    train(staged(), tmp_path / "whole")
    for part in (2, 2, 2):
        torch.manual_seed(part)
        train(staged(), tmp_path / "parts", stop_after=part)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_stereo_like_one_whatever_each_of_them_draws(
    tmp_path: Path, parallel: Literal["ddp", "fsdp"]
) -> None:
    """Now one, now the other, now both draw the clip, whose depth nobody knows."""
    clip = write_fsm_clip(tmp_path / "clip")
    sources = (SourceConfig("world"), SourceConfig(str(clip)))
    data = dataclasses.replace(CONFIG.data, sources=sources, batch=2)
    stages = (StageConfig(0, learn="stereo"), stage(4, targets=1))
    config = dataclasses.replace(staged(), data=data, stages=stages)
    stream = SampleStream(config.data_stages(), config.seed)
    known = [
        torch.isfinite(stream.batch(step).depth).flatten(1).any(1).tolist() for step in range(4)
    ]
    assert [True, False] in known or [False, True] in known
    train(config, tmp_path / "one")
    hashes = finished(
        2, worker(dataclasses.replace(config, parallel=parallel), tmp_path / "two", 6), tmp_path
    )
    assert hashes[0] == hashes[1]
    assert_same_curve(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    "model",
    [MODEL, dataclasses.replace(MODEL, head=LrmHeadConfig())],
)
def test_a_decoder_without_stereo_cannot_learn_it(model: ModelConfig) -> None:
    with pytest.raises(InputError, match=f"learn: stereo, but a head of kind {model.head.kind}"):
        staged(model)


def test_processes_that_share_tokens_cannot_learn_stereo() -> None:
    with pytest.raises(InputError, match="learn: stereo and token_parallel are both given"):
        dataclasses.replace(staged(), token_parallel=2)


def test_a_camera_beside_the_path_that_ended_up_behind_a_wall_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Offsets of many metres end behind walls; what is drawn from there would be nonsense, with
    depths below zero.
    """
    monkeypatch.setattr("fsm.train.sources.BESIDE", 8.0)
    monkeypatch.setattr("fsm.train.sources.EXTENT_SHARE", 100.0)
    data = dataclasses.replace(CONFIG.data, hw=(32, 32), targets=8)
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    samples = WorldSource("cpu").sample(data, 4, generators)
    away = [
        (s.targets.c2w[:, :3, 3] - s.inputs.c2w[:, :3, 3].mean(0)).norm(dim=-1) for s in samples
    ]
    assert max(float(a.max()) for a in away) > 4.0, "some stayed where they were put"
    assert all(float(s.depth.min()) >= CLEARANCE for s in samples)
