"""Index plans: sizes, disjointness, repeatability, short clips, files."""

import json
from pathlib import Path

import pytest
import torch

from fsm.datasets.base import IndexPlan, MemoryClip
from fsm.errors import InputError
from fsm.evaluate.protocols import (
    PROTOCOLS,
    Consecutive,
    Dense,
    Given,
    Sparse,
    Spread,
    Stream,
    load_plans,
    protocol,
    save_plans,
)
from fsm.views import Views


def clip(frames: int, plan: IndexPlan | None = None) -> MemoryClip:
    cameras = Views(
        torch.eye(4).repeat(frames, 1, 1),
        torch.tensor([8.0, 8, 4, 4]).repeat(frames, 1),
        torch.arange(frames) / 30,
        (8, 8),
    )
    pixels = torch.zeros(frames, 3, 8, 8, dtype=torch.uint8)
    return MemoryClip("tiny", "tiny.json", cameras, pixels, None, 30.0, plan)


@pytest.mark.parametrize("length", [3, 4, 5, 14, 15, 16, 36, 39, 40, 66, 135, 136, 199, 1000])
@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_plans_are_valid_at_every_length(name: str, length: int) -> None:
    """Disjoint, ascending, inside the middle window; full counts wherever the clip has room for
    them.
    """
    made = protocol(name)
    plan = made.plan(length, "clip", 0).checked(length, "clip")
    start = max(0, (length - 136) // 2)
    for indices in (plan.input_index, plan.target_index):
        assert list(indices) == sorted(set(indices))
        assert indices[0] >= start
        assert indices[-1] < start + min(136, length)
    assert len(plan.input_index) >= 2
    assert len(plan.target_index) >= 1
    if name == "dense":
        assert len(plan.input_index) + len(plan.target_index) == min(length, 40)
        if length >= 40:
            assert len(plan.target_index) == 8
    else:
        assert len(plan.input_index) == min(8, (length + 1) // 2)
        assert len(plan.target_index) == len(plan.input_index) - 1
        assert plan.input_index[0] == start
        assert plan.input_index[-1] == start + min(136, length) - 1
        for a, t, b in zip(plan.input_index, plan.target_index, plan.input_index[1:], strict=False):
            assert a < t < b
            assert (t - a) - (b - t) in (0, -1)
        steps = [b - a for a, b in zip(plan.input_index, plan.input_index[1:], strict=False)]
        assert max(steps) - min(steps) <= 1


def test_short_dense_clips_keep_the_proportion() -> None:
    plan = Dense().plan(20, "clip", 0)
    assert (len(plan.input_index), len(plan.target_index)) == (16, 4)


def test_dense_is_random_but_repeatable() -> None:
    """Fixed by clip and seed for all time (these numbers are part of the protocol), different for
    others.
    """
    plan = Dense(inputs=4, targets=2).plan(199, "8OQSqypY6o8", 0)
    assert plan == Dense(inputs=4, targets=2).plan(199, "8OQSqypY6o8", 0)
    assert plan == IndexPlan((96, 97, 103, 135), (146, 155))
    assert plan != Dense(inputs=4, targets=2).plan(199, "8OQSqypY6o8", 1)
    assert plan != Dense(inputs=4, targets=2).plan(199, "other", 0)
    counts = torch.zeros(200)
    for seed in range(200):
        counts[list(Dense(window=40, inputs=10).plan(200, "clip", seed).target_index)] += 1
    assert counts[:80].sum() == counts[120:].sum() == 0
    # 200 draws with chance 8/40: mean 40, standard deviation 5.7
    assert 40 - 4 * 5.7 < counts[80:120].min() < counts[80:120].max() < 40 + 4 * 5.7


def test_too_short_and_wrong_options() -> None:
    for name in ("dense", "sparse", "novel"):
        with pytest.raises(InputError, match="clip a has 2 frames; a protocol needs at least 3"):
            protocol(name).plan(2, "a", 0)
    with pytest.raises(
        InputError, match="no protocol 'densest'; choose one of dense, sparse, novel, rig, spread"
    ):
        protocol("densest")
    with pytest.raises(InputError, match="did you mean 'inputs'"):
        protocol("sparse", input=3)
    with pytest.raises(InputError, match="inputs is 1; it must be at least 2"):
        protocol("sparse", inputs=1)
    assert protocol("dense", hw=[64, 96]) == Dense(hw=(64, 96))
    tests_of_the_paper = {"spread", "consecutive", "stream"}
    assert set(PROTOCOLS) == {"dense", "sparse", "novel", "rig", "given"} | tests_of_the_paper


def test_given_takes_the_clips_own_plan() -> None:
    plan = IndexPlan((0, 4), (2,))
    assert Given().plan_for(clip(5, plan)) is plan
    with pytest.raises(InputError, match=r"tiny\.json brings no index_plan"):
        Given().plan_for(clip(5))


def test_plans_survive_the_file(tmp_path: Path) -> None:
    made = Sparse(inputs=4)
    plans = {id: made.plan(n, id) for id, n in (("a", 9), ("b/c", 50))}
    save_plans(tmp_path / "plans.json", made, 7, plans)
    assert load_plans(tmp_path / "plans.json") == plans
    stored = json.loads((tmp_path / "plans.json").read_text())
    assert stored["seed"] == 7
    assert stored["protocol"] == {"name": "sparse", "hw": [128, 128], "window": 136, "inputs": 4}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"input_index": [0, 1]}, "lacks the required key 'target_index'"),
        ({"input_index": [0, 1], "target_index": [1]}, "as input and as target"),
        ({"input_index": [0, -1], "target_index": [2]}, "different frame numbers from 0"),
        ({"input_index": [0, 0], "target_index": [2]}, "different frame numbers from 0"),
        ({"input_index": [0, 1.5], "target_index": [2]}, "expected int"),
        ({"input_index": [0], "target_index": []}, "different frame numbers from 0"),
    ],
)
def test_bad_plan_files(tmp_path: Path, entry: dict, complaint: str) -> None:
    path = tmp_path / "plans.json"
    path.write_text(json.dumps({"plans": {"a": entry}}))
    with pytest.raises(InputError, match=rf"plans\.json: plans\.a.*{complaint}"):
        load_plans(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="not a file of index plans"):
        load_plans(path)


@pytest.mark.parametrize("kind", [Spread, Consecutive])
@pytest.mark.parametrize("frames", [72, 136, 199])
def test_test_inputs_of_the_paper(kind: type[Spread | Consecutive], frames: int) -> None:
    targets = set()
    for n in (4, 8, 16, 32, 64):
        made = kind(inputs=n).plan(frames, "clip").checked(frames, "clip")
        assert len(made.input_index) == n
        assert len(made.target_index) == 8
        assert list(made.input_index) == sorted(set(made.input_index))
        targets.add(made.target_index)
        if kind is Consecutive:
            both = sorted((*made.input_index, *made.target_index))
            assert both == list(range(both[0], both[0] + n + 8))
    # spread inputs are asked for the same frames, however many they are
    assert (len(targets) == 1) == (kind is Spread)
    assert kind(inputs=60).fits(68)
    assert not kind(inputs=60).fits(67)
    with pytest.raises(InputError, match=r"clip has 67 frames to choose from; .* at least 68"):
        kind(inputs=60).plan(67, "clip")


def test_a_stream_asks_between_its_inputs_and_needs_room_for_that() -> None:
    protocol = Stream()
    plan = protocol.plan(199, "clip")
    assert len(plan.input_index) == 64
    assert (plan.input_index[0], plan.input_index[-1]) == (0, 198)
    first = [t for t in plan.target_index if t < plan.input_index[protocol.early - 1]]
    assert list(plan.target_index[: protocol.early_targets(plan)]) == first
    assert len(first) == 8
    assert protocol.fits(199)
    assert not protocol.fits(100)
    with pytest.raises(InputError, match="clip has 100 frames, too few"):
        protocol.plan(100, "clip")
