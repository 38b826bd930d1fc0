"""Training in several processes: the curve of one, steps in lockstep, and no process that waits for
a dead one.
"""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from fsm.config import to_dict
from fsm.errors import InputError
from fsm.model import FSM
from fsm.shards import Shard
from fsm.train.loop import train
from fsm.train.team import ALONE, Team, _buckets, joined
from tests.processes import SECONDS, finished, started
from tests.train.parallel_runs import WORKER, assert_same_curve, shared, worker
from tests.train.small_runs import changed, read_log


def test_two_processes_draw_the_curve_of_one_and_one_goes_on_with_it(tmp_path: Path) -> None:
    train(shared(), tmp_path / "one")
    hashes = finished(2, worker(shared(), tmp_path / "two", 3), tmp_path)
    assert hashes[0] == hashes[1]
    assert torch.load(tmp_path / "two" / "state.pt", weights_only=True)["step"] == 3
    train(shared(), tmp_path / "two")
    assert_same_curve(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    "optim", [{"clip": 1e-3, "clip_from": 1}, {"skip_above": 1e-9, "clip_from": 2}]
)
def test_clipping_and_skipping_are_decided_alike_and_two_go_on_with_one(
    tmp_path: Path, optim: dict
) -> None:
    config = shared(changed(**optim))
    train(config, tmp_path / "one")
    train(config, tmp_path / "two", stop_after=1)
    hashes = finished(2, worker(config, tmp_path / "two", 5), tmp_path)
    assert hashes[0] == hashes[1]
    assert_same_curve(tmp_path / "one", tmp_path / "two")
    assert read_log(tmp_path / "two")[-1]["skipped"] == (4 if "skip_above" in optim else 0)


def _wait_for_steps(out: Path, steps: int) -> None:
    log, end = out / "log.jsonl", time.monotonic() + SECONDS
    while not log.exists() or len(log.read_text().splitlines()) < steps:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sharing"),
    [(0, {}), (1, {}), (0, {"parallel": "fsdp"}), (1, {"token_parallel": 2})],
    ids=str,
)
def test_a_killed_process_ends_the_others_with_a_sentence_and_the_run_goes_on(
    tmp_path: Path, victim: int, sharing: dict
) -> None:
    config = shared(changed(steps=10_000))
    out, preset = tmp_path / "run", tmp_path / "long.yaml"
    preset.write_text(yaml.safe_dump(to_dict(dataclasses.replace(config, **sharing))))
    arguments = ["-m", "fsm", "train", str(preset), "-o", str(out), "--device", "cpu"]
    with started(2, arguments, tmp_path) as processes:
        _wait_for_steps(out, 5)
        processes[victim].kill()
        assert processes[1 - victim].wait(SECONDS) == 2
    said = (tmp_path / f"{1 - victim}.err").read_text()
    assert "error: another process of this training has ended" in said
    assert "Traceback" not in said
    step = torch.load(out / "state.pt", weights_only=True)["step"]
    assert step >= 2
    assert FSM.from_pretrained(out / "model")
    train(config, out, stop_after=2)
    log = read_log(out)
    assert [e["step"] for e in log] == list(range(1, step + 3))
    train(config, tmp_path / "one", stop_after=step + 2)
    assert_same_curve(tmp_path / "one", out)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    out, preset = tmp_path / "run", tmp_path / "long.yaml"
    preset.write_text(yaml.safe_dump(to_dict(shared(changed(steps=10_000)))))
    arguments = ["-m", "fsm", "train", str(preset), "-o", str(out), "--device", "cpu"]
    with started(2, arguments, tmp_path) as processes:
        _wait_for_steps(out, 3)
        os.kill(processes[1].pid, signal.SIGTERM)
        assert [p.wait(SECONDS) for p in processes] == [130, 130]
    assert torch.load(out / "state.pt", weights_only=True)["step"] == read_log(out)[-1]["step"]


@pytest.mark.slow
def test_processes_with_different_starts_refuse_to_mix(tmp_path: Path) -> None:
    """As when the run folder is on each machine's own disk."""
    train(shared(), tmp_path / "0", stop_after=2)
    code = WORKER.replace(
        "Path(sys.argv[2])", "Path(sys.argv[2]) / __import__('os').environ['RANK']"
    )
    preset = tmp_path / "c.yaml"
    preset.write_text(yaml.safe_dump(to_dict(shared())))
    with started(2, ["-c", code, str(preset), str(tmp_path), "1"], tmp_path) as processes:
        assert all(p.wait(SECONDS) for p in processes)
    for rank in range(2):
        assert (
            "the processes of this training differ in step"
            in (tmp_path / f"{rank}.err").read_text()
        )
    assert torch.load(tmp_path / "0" / "state.pt", weights_only=True)["step"] == 2


@pytest.mark.slow
def test_torchrun_starts_a_training(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text(yaml.safe_dump(to_dict(shared())))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fsm"]
    with started(
        1, [*launch, "train", str(preset), "-o", str(tmp_path / "run"), "--device", "cpu"], tmp_path
    ) as (one,):
        assert one.wait(SECONDS) == 0, (tmp_path / "0.err").read_text()
    assert (tmp_path / "0.out").read_text().count("model in ") == 1
    train(shared(), tmp_path / "one")
    assert_same_curve(tmp_path / "one", tmp_path / "run")


def test_alone_nothing_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "all_reduce", None)
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    assert ALONE.average([parameter], {"mse": 0.25}) == {"mse": 0.25}
    assert parameter.grad.tolist() == [1.0, 2.0, 3.0]
    with joined("cpu") as team:
        assert (team.leads, team.part) == (True, Shard())


def test_gradients_are_averaged_bucket_by_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a peer that has half of our numbers, no gradient for ours, and one we lack."""
    monkeypatch.setattr("fsm.train.team.BUCKET", 5)
    sizes = [3, 4, 1, 2, 9]
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in sizes]
    assert [[p.numel() for p in b] for b in _buckets(parameters)] == [[3], [4, 1], [2], [9]]
    for i, p in enumerate(parameters):
        p.grad = torch.full_like(p, i + 1.0) if i not in (1, 2) else None
    sent = []

    def with_peer(tensor: torch.Tensor, operation) -> None:
        sent.append(tensor.clone())
        if len(sent) == 1:
            assert tensor.dtype == torch.float64
            tensor += torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0, 0.0])
        else:
            assert tensor.dtype == torch.float32
            tensor += 10.0 if tensor.numel() == 4 else 0.0

    monkeypatch.setattr(torch.distributed, "all_reduce", with_peer)
    assert Team(Shard(1, 2)).average(parameters, {"mse": 1.0}) == {"mse": 0.75}
    assert [s.numel() for s in sent] == [6, 3, 4, 2, 9]
    grads = [None if p.grad is None else p.grad[0].item() for p in parameters]
    assert grads == [0.5, 5.0, None, 2.0, 2.5]


def test_a_lost_process_and_a_half_environment_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(*_) -> None:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:50000")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    with pytest.raises(InputError, match="the same command resumes from it"):
        Team(Shard(0, 2)).agree(step=1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="start several processes with torchrun"), joined("cpu"):
        pass


def test_a_saved_config_does_not_know_the_number_of_processes(tmp_path: Path) -> None:
    train(shared(), tmp_path / "run", stop_after=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == json.loads(
        json.dumps(to_dict(shared()))
    )
