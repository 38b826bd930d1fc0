"""A training that lies in parts: the curve of a whole one, one file for both, and parts that are
parts.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # a backend whose exchanges do nothing
from torch.distributed.tensor import DTensor

from fsm.errors import InputError
from fsm.model import FSM
from fsm.train.config import TrainConfig
from fsm.train.loop import Training, train
from fsm.train.parallelize import shard
from fsm.train.sharded import clip_gradients, gathered, part_like
from tests.processes import finished
from tests.train.parallel_runs import assert_same_curve, long, worker
from tests.train.small_runs import HEAD, changed

FSDP = {"parallel": "fsdp"}


def sharded(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, **FSDP)


@pytest.mark.slow
def test_two_processes_with_parts_go_on_with_one_and_one_with_them(tmp_path: Path) -> None:
    """With scalars, recomputed activations, and a first norm that is clipped."""
    config = long(changed(clip=0.1, clip_from=1), batch=2, head=HEAD)
    config = dataclasses.replace(config, checkpointing=True)
    train(config, tmp_path / "one")
    train(config, tmp_path / "two", stop_after=1)
    hashes = finished(2, worker(sharded(config), tmp_path / "two", 3), tmp_path)
    assert hashes[0] == hashes[1]
    train(config, tmp_path / "two")
    assert_same_curve(tmp_path / "one", tmp_path / "two")
    one, two = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")
    )
    assert one["optimizer"]["param_groups"] == two["optimizer"]["param_groups"]
    for part in ("model", "ema"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_parts_and_shared_samples_together_draw_the_curve_of_one(tmp_path: Path) -> None:
    config = long(changed(steps=4), batch=2)
    train(config, tmp_path / "one")
    both = dataclasses.replace(sharded(config), token_parallel=2)
    hashes = finished(4, worker(both, tmp_path / "four", 4), tmp_path)
    assert len(set(hashes)) == 1
    assert_same_curve(tmp_path / "one", tmp_path / "four")


def _among(count: int, rank: int = 0) -> None:
    backend = "gloo" if count == 1 else "fake"
    dist.init_process_group(backend, store=dist.HashStore(), rank=rank, world_size=count)  # pyright: ignore[reportPrivateImportUsage]


@pytest.fixture
def _no_group_is_left() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("_no_group_is_left")
def test_a_step_with_parts_is_a_step(tmp_path: Path) -> None:
    """In a group of one process, which goes every way that more of them go."""
    config = long(changed(clip=1e-3, clip_from=0))
    whole, parts = (Training(c, tmp_path / c.parallel, "cpu") for c in (config, sharded(config)))
    expected = whole.one_step(None)
    _among(1)
    parts.shard()
    found = parts.one_step(None)
    assert {k: found[k] for k in ("mse", "grad_norm")} == pytest.approx(
        {k: expected[k] for k in ("mse", "grad_norm")}
    )
    assert all(isinstance(p, DTensor) for p in parts.model.parameters())
    for run in (whole, parts):
        run.out.mkdir()
        run.save()
    one, other = (torch.load(run.out / "state.pt", weights_only=True) for run in (whole, parts))
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for i, state in one["optimizer"]["state"].items():
        torch.testing.assert_close(other["optimizer"]["state"][i], state, rtol=1e-4, atol=1e-7)
    again = Training(sharded(config), parts.out, "cpu")
    again.resume()
    again.shard()
    kept = gathered({"ema": again.ema, "optimizer": again.optimizer.state_dict()}, keep=True)
    torch.testing.assert_close(kept["ema"], other["ema"], rtol=0, atol=0)
    torch.testing.assert_close(
        kept["optimizer"]["state"], other["optimizer"]["state"], rtol=0, atol=0
    )


@pytest.mark.usefixtures("_no_group_is_left")
def test_a_process_keeps_its_part_of_every_tensor() -> None:
    """The second of two, without a first: nothing is exchanged before the first step."""
    _among(2, rank=1)
    model = FSM(long(head=HEAD).model)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    shard(model, "cpu")
    parts = {
        name: value for name, value in model.state_dict().items() if isinstance(value, DTensor)
    }
    assert parts.keys() == {name for name, value in whole.items() if value.ndim}
    for name, part in parts.items():
        axis = next((i for i, n in enumerate(part.shape) if n % 2 == 0), 0)
        # of a tensor with one entry the first process has all
        expected = whole[name].tensor_split(2, axis)[1] if part.shape[axis] > 1 else whole[name][:0]
        again = part_like(whole[name], part)
        assert isinstance(again, DTensor)
        assert torch.equal(part.to_local(), expected)
        assert torch.equal(again.to_local(), expected)
    assert parts["encoder.blocks.0.ttt.initial"].to_local().shape == (1, 3, 16, 64)


def test_what_lies_whole_is_left_alone() -> None:
    values = {"a": [torch.ones(2)], "b": {"c": 3}}
    assert gathered(values, keep=False)["a"][0] is values["a"][0]
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.full((4,), 2.0)
    assert part_like(p, p) is p
    assert clip_gradients([p], 1.0) == 4.0
    torch.testing.assert_close(p.grad, torch.full((4,), 0.5))


def test_what_does_not_go_with_parts_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="compile and parallel: fsdp"):
        dataclasses.replace(long(), compile=True, **FSDP)
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    with pytest.raises(
        InputError, match=r"fsdp needs torch 2\.13, found 2\.10\.1\+cpu; train with ddp"
    ):
        shard(FSM(long().model), "cpu")
