"""Processes that share samples: the curve of one, alone and beside others that have samples of
their own.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fsm.errors import InputError
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.registry import HeadConfig
from fsm.shards import Shard
from fsm.train.config import TrainConfig
from fsm.train.data import depth_loss, masked_mse
from fsm.train.loop import train
from fsm.train.state import keep_config
from fsm.train.team import Team, joined
from fsm.views import Views
from tests.processes import finished
from tests.small import small_views
from tests.train.parallel_runs import assert_same_curve, long, worker
from tests.train.small_runs import CONFIG, HEAD, changed, stage

NOBODY = dist.ProcessGroup(0, 1)  # pyright: ignore[reportCallIssue]
"""A group for tests in which nothing is exchanged."""


def among(config: TrainConfig, processes: int) -> TrainConfig:
    return dataclasses.replace(config, token_parallel=processes)


@pytest.mark.slow
@pytest.mark.parametrize("head", [LvsmHeadConfig(), HEAD], ids=["direct", "reference"])
def test_two_processes_share_samples_on_the_curve_of_one(tmp_path: Path, head: HeadConfig) -> None:
    config = long(changed(depth_weight=0.1 if head is HEAD else 0.0), head=head)
    config = dataclasses.replace(config, checkpointing=head is not HEAD)
    train(config, tmp_path / "one")
    train(config, tmp_path / "two", stop_after=1)
    hashes = finished(2, worker(among(config, 2), tmp_path / "two", 3), tmp_path)
    assert hashes[0] == hashes[1]
    train(config, tmp_path / "two")
    assert_same_curve(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_groups_of_two_draw_the_curve_of_one(tmp_path: Path) -> None:
    config = long(batch=2)
    train(config, tmp_path / "one")
    hashes = finished(4, worker(among(config, 2), tmp_path / "four", 6), tmp_path)
    assert len(set(hashes)) == 1
    assert_same_curve(tmp_path / "one", tmp_path / "four")


def test_who_has_which_samples_and_targets() -> None:
    teams = [Team(Shard(i, 4), group_size=2) for i in range(4)]
    assert [t.samples for t in teams] == [Shard(0, 2), Shard(0, 2), Shard(1, 2), Shard(1, 2)]
    assert [list(range(6))[t.own(6)] for t in teams] == [[0, 1, 2], [3, 4, 5]] * 2
    assert list(range(5))[Team().own(5)] == [0, 1, 2, 3, 4]


def test_means_over_parts_of_samples_are_those_of_whole_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes with two of four views each, whose masks and depths leave different numbers of
    pixels.
    """
    monkeypatch.setattr("torch.distributed.get_world_size", lambda _: 2)
    g = torch.Generator().manual_seed(0)
    views = Views.stack([small_views(4, seed=s) for s in (0, 1)])
    assert views.rgb is not None
    share = torch.tensor([0.1, 0.9, 0.4, 0.7]).view(1, 4, 1, 1, 1)
    mask = torch.rand(2, 4, 1, *views.hw, generator=g) < share
    prediction, views = (
        torch.rand(views.rgb.shape, generator=g),
        dataclasses.replace(views, mask=mask),
    )
    depth, truth = torch.rand(2, 2, 4, 1, *views.hw, generator=g) + 0.5
    truth = torch.where(mask, truth, torch.nan)
    counts = {"mse": 3 * mask.sum((1, 2, 3, 4)), "depth": mask.sum((1, 2, 3, 4))}
    mse, off = [], []
    for own in (slice(0, 2), slice(2, 4)):
        monkeypatch.setattr("torch.distributed.all_reduce", lambda t, group: t.copy_(counts["mse"]))
        mse.append(masked_mse(prediction[:, own], views[own], NOBODY))
        monkeypatch.setattr(
            "torch.distributed.all_reduce", lambda t, group: t.copy_(counts["depth"])
        )
        off.append(depth_loss(depth[:, own], truth[:, own], NOBODY))
    torch.testing.assert_close(sum(mse) / 2, masked_mse(prediction, views))
    torch.testing.assert_close(sum(off) / 2, depth_loss(depth, truth))


def test_what_cannot_be_shared_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"data\.targets is 2, which 3 processes"):
        among(CONFIG, 3)
    with pytest.raises(InputError, match=r"data\.targets is 3, which 2 processes"):
        dataclasses.replace(among(CONFIG, 2), stages=(stage(4, targets=3),))
    with pytest.raises(InputError, match="compile and token_parallel"):
        dataclasses.replace(CONFIG, compile=True, token_parallel=2)
    with (
        pytest.raises(InputError, match=r"token_parallel is 2, but there are 1 processes"),
        joined("cpu", 2),
    ):
        pass
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (
        pytest.raises(InputError, match=r"token_parallel is 2, but there are 3 processes"),
        joined("cpu", 2),
    ):
        pass


def test_a_run_may_go_on_with_another_number_that_share(tmp_path: Path) -> None:
    train(CONFIG, tmp_path, stop_after=1)
    keep_config(among(CONFIG, 2), tmp_path)
    with pytest.raises(InputError, match="differs in seed"):
        keep_config(dataclasses.replace(among(CONFIG, 2), seed=2), tmp_path)
