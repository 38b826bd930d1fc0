"""The tokens of a chunk on two processes: the memory, the outputs and the gradients of one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from fsm.errors import InputError
from fsm.train.parallelize import own_views, parallelize, summed
from tests.processes import finished
from tests.small import small_model, small_views
from tests.ttt.parallel_cases import CASES

NOBODY = dist.ProcessGroup(0, 1)  # pyright: ignore[reportCallIssue]
"""A group for tests in which nothing is exchanged."""


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """To 1e-10 in float64 and 1e-5 in float32; of the largest entry, where that is above one."""
    tolerance = 1e-10 if a.dtype == torch.float64 else 1e-5
    assert a.dtype == b.dtype
    torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * float(b.abs().max().clamp_min(1.0)))


@pytest.mark.slow
def test_two_processes_write_and_differentiate_as_one(tmp_path: Path) -> None:
    finished(2, ["-m", "tests.ttt.parallel_cases", str(tmp_path)], tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, case in CASES.items():
        expected = case(None)
        assert first[name].keys() == second[name].keys() == expected.keys()
        for key, value in expected.items():
            a, b = first[name][key], second[name][key]
            if key.startswith("grad"):  # each process has a part of the gradients
                assert not torch.equal(a, value)
                close(a + b, value)
            elif key.startswith("out"):  # and answers its own requests
                close(torch.cat([a, b], dim=int(key[3:])), value)
            else:
                assert torch.equal(a, b)
                close(a, value)


def test_a_sum_over_a_group_has_the_sum_of_all_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a peer that always has twice of ours."""
    sent = []

    def with_peer(tensor: torch.Tensor, group: dist.ProcessGroup) -> None:
        assert group is NOBODY
        sent.append(tensor.dtype)
        tensor *= 3.0

    monkeypatch.setattr("torch.distributed.all_reduce", with_peer)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    total = summed(x.t(), NOBODY)
    assert total.tolist() == [[3.0, 9.0], [6.0, 12.0]]
    (total * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[3.0, 300.0], [30.0, 3000.0]]
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    encoder = small_model().encoder
    monkeypatch.setattr("torch.distributed.get_world_size", lambda _: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda _: 0)
    parallelize(encoder, group=NOBODY)
    with torch.autocast("cpu", torch.bfloat16):
        encoder.finish(encoder.update(encoder.empty(1), small_views(2).batched()))
    assert sent == [torch.float32] * (2 + 2)  # there and back, and one for each layer


def test_whole_views_are_shared_out_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    views = small_views(5).batched()
    monkeypatch.setattr("torch.distributed.get_world_size", lambda _: 3)
    times = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda _, rank=rank: rank)
        own = own_views(views, NOBODY)
        times += own.time[0].tolist()
        assert own.rgb is not None
        assert own.rgb.shape[1] == len(own)
        assert len(own_views(views[:2], NOBODY)) <= 1
    assert times == views.time[0].tolist()


def test_compiled_blocks_and_a_group_are_refused_together() -> None:
    with pytest.raises(InputError, match="choose one"):
        parallelize(small_model().encoder, compile=True, group=NOBODY)


def test_no_views_are_no_tokens() -> None:
    """What a process of a group has of a chunk with fewer views than processes."""
    encoder = small_model().encoder
    views = small_views(2).batched()
    block, x = encoder.blocks[0], encoder.tokenize(views[:0])
    assert x.shape == (1, 0, 6, 32)
    state = block.ttt.initial_state(1)
    assert block.attend(x).shape == block.read(state, x).shape == x.shape
    written = block.write(state, x)
    assert written.step == 1
    assert bool(torch.isfinite(written.weights).all())
