"""Several processes score one list: the same files and numbers as one process, nothing lost,
nothing twice.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsm.datasets.base import IndexPlan
from fsm.errors import InputError
from fsm.evaluate.metrics import Metrics
from fsm.evaluate.protocols import Sparse
from fsm.evaluate.results import EvaluationResult, without_timings
from fsm.evaluate.run import Evaluation, evaluate
from fsm.evaluate.scoring import Method
from fsm.shards import WHOLE, Shard
from fsm.views import Views
from tests.evaluate.test_run import HW, INFO, Clips, Copier, Interrupted, moving_clip

IDS = ("a", "b/c", "..d", "é f", "b_c")


def clips() -> Clips:
    return Clips({id: moving_clip(id, 20 + i) for i, id in enumerate(IDS)})


def scored(
    out: Path,
    shard: Shard = WHOLE,
    found: Clips | None = None,
    make_scene: Callable[[Views], Copier] = Copier,
    ids: list[str] | None = None,
    **more: Any,
) -> EvaluationResult:
    evaluation = Evaluation(Sparse(hw=HW, inputs=3), Metrics(), **more)
    dataset = clips() if found is None else found
    method = Method(make_scene, INFO)
    return evaluate(method, dataset, evaluation, out, ids=ids, pictures=1, shard=shard)


def contents(out: Path) -> dict[str, Any]:
    """Every file of a run: pictures and tables to the byte, JSON less the timings."""
    return {
        str(p.relative_to(out)): without_timings(json.loads(p.read_text()))
        if p.suffix == ".json"
        else p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file()
    } | {".lock": b""}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    scored(out)
    return out


@pytest.mark.parametrize("order", [(0, 1), (2, 0, 1), (6, 0, 5, 1, 4, 2, 3)])
def test_all_shards_together_leave_what_one_process_leaves(
    whole: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    before, opened = Copier.made, set()
    for done, index in enumerate(order, start=1):
        mine = Shard(index, len(order)).part(IDS)
        assert not opened & set(mine)
        opened |= set(mine)
        result = scored(tmp_path, Shard(index, len(order)))
        assert {s.id for s in result.scenes} == opened
        assert {m.id for m in result.pending} == set(IDS) - opened
        if done < len(order) and result.scenes:
            stored = json.loads((tmp_path / "results.json").read_text())
            assert stored["scenes_counted"] == {"expected": 5, "scored": len(opened)}
    assert Copier.made == before + len(IDS)
    assert contents(tmp_path) == contents(whole)
    scored(tmp_path, Shard(0, len(order)))  # again: nothing is done anew, nothing changes
    assert Copier.made == before + len(IDS)
    assert contents(tmp_path) == contents(whole)


def test_a_killed_shard_is_told_of_and_started_again(whole: Path, tmp_path: Path) -> None:
    before = Copier.made

    def killed(inputs):
        if Copier.made == before + 2:
            raise Interrupted
        return Copier(inputs)

    with pytest.raises(Interrupted):
        scored(tmp_path, Shard(0, 2), make_scene=killed)
    other = scored(tmp_path, Shard(1, 2))
    (gap,) = other.missing
    assert (gap.id, gap.pending) == ("b_c", True)
    assert "not scored yet" in gap.reason
    assert json.loads((tmp_path / "results.json").read_text())["missing"][0]["id"] == "b_c"
    assert scored(tmp_path, Shard(0, 2)).missing == ()
    assert Copier.made == before + len(IDS)
    assert contents(tmp_path) == contents(whole)


def test_other_numbers_of_shards_finish_what_was_begun(whole: Path, tmp_path: Path) -> None:
    scored(tmp_path, Shard(1, 3))
    before = Copier.made
    scored(tmp_path, Shard(0, 2))
    assert scored(tmp_path, Shard(1, 2)).missing == ()
    assert Copier.made == before + 3
    assert contents(tmp_path) == contents(whole)


def test_a_bad_clip_of_one_shard_is_missing_in_the_result_of_the_last(
    whole: Path, tmp_path: Path
) -> None:
    bad = clips()
    bad.broken.add("b/c")
    first = scored(tmp_path, Shard(1, 2), bad)
    assert {m.id: m.pending for m in first.missing} == {
        "a": True,
        "b/c": False,
        "..d": True,
        "b_c": True,
    }
    last = scored(tmp_path, Shard(0, 2), bad)
    assert [(m.id, m.reason) for m in last.missing] == [
        ("b/c", "b/c.json cannot be read; check the path.")
    ]
    assert scored(tmp_path, Shard(1, 2)).missing == ()  # repaired
    assert contents(tmp_path) == contents(whole)


def test_shards_without_a_good_clip_leave_the_others_to_it(tmp_path: Path) -> None:
    bad = clips()
    bad.broken.update(("b/c", "é f"))
    assert scored(tmp_path, Shard(1, 2), bad).scenes == ()
    assert scored(tmp_path, Shard(6, 7), bad).scenes == ()
    assert not (tmp_path / "results.json").exists()
    assert len(scored(tmp_path, Shard(0, 2), bad).scenes) == 3
    bad.broken.update(IDS)
    scored(tmp_path / "none", Shard(0, 2), bad)
    with pytest.raises(InputError, match="none of 5 clips could be scored"):
        scored(tmp_path / "none", Shard(1, 2), bad)


def test_shards_of_other_settings_do_not_mix(tmp_path: Path) -> None:
    scored(tmp_path, Shard(0, 2))
    with pytest.raises(InputError, match="differs in protocol"):
        scored(tmp_path, Shard(1, 2), seed=1)
    plans = {id: IndexPlan((0, 10, 19), (4, 5)) for id in IDS}
    scored(tmp_path / "plans", Shard(0, 2), plans=plans)
    with pytest.raises(InputError, match="differs in protocol"):
        scored(tmp_path / "plans", Shard(1, 2), plans={**plans, "a": IndexPlan((0, 10), (4, 5))})
    with pytest.raises(InputError, match="'a' is named twice"):
        scored(tmp_path / "twice", ids=["a", "b_c", "a"])


def test_a_damaged_scene_of_another_shard_is_missing_until_its_owner_comes(
    whole: Path, tmp_path: Path
) -> None:
    scored(tmp_path, Shard(0, 2))
    damaged = tmp_path / "scenes" / "a.json"
    damaged.write_text('{"half')
    result = scored(tmp_path, Shard(1, 2))
    assert [m.id for m in result.missing] == ["a"]
    assert "a.json is not valid JSON" in result.missing[0].reason
    damaged.unlink()
    assert scored(tmp_path, Shard(0, 2)).missing == ()
    assert contents(tmp_path) == contents(whole)
