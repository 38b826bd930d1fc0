"""Who does what: every clip exactly once, whatever started the processes."""

import pytest

from fsm.errors import InputError
from fsm.shards import Shard, check_ids, find_shard, forget_missing, note_missing, why_missing


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_cover_a_list_once_and_evenly(count: int) -> None:
    items = [f"clip{i}" for i in range(10)]
    parts = [Shard(i, count).part(items) for i in range(count)]
    assert sorted(sum(parts, ())) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_within_a_task_is_one_of_all_processes() -> None:
    both = [Shard(p, 2).within(Shard(t, 3)) for t in range(3) for p in range(2)]
    assert both == [Shard(i, 6) for i in range(6)]


def _array(task: int, count: int, least: int, most: int) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": least, "MAX": most}
    return {f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in values.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shard()),
        ({"RANK": "2", "WORLD_SIZE": "3"}, Shard(2, 3)),
        (_array(7, 3, 5, 7), Shard(2, 3)),
        (_array(9, 3, 1, 9), Shard(2, 3)),  # --array=1-9:4
        (_array(4, 1, 4, 4), Shard(0, 1)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Shard(1, 4)),
        # a batch script that has not called srun
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Shard()),
        ({**_array(1, 2, 0, 1), "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, Shard(5, 8)),
        ({**_array(1, 2, 0, 1), "RANK": "0", "WORLD_SIZE": "3"}, Shard(3, 6)),
        (
            {"RANK": "5", "WORLD_SIZE": "6", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            Shard(5, 6),
        ),
    ],
)
def test_torchrun_and_slurm_say_which_process_this_is(
    environment: dict[str, str], expected: Shard
) -> None:
    assert find_shard(None, environment) == expected
    assert find_shard("2/5", environment) == Shard(1, 5)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/2/3", ""])
def test_a_shard_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="shard"):
        find_shard(text, {})


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK is 3 but WORLD_SIZE is 3"),
        ({"RANK": "one", "WORLD_SIZE": "3"}, "RANK is 'one'"),
        (_array(3, 3, 1, 7), "gaps of different lengths"),  # --array=1,3,7
        (_array(2, 2, 1, 7), "gaps of different lengths"),
    ],
)
def test_an_environment_that_fits_no_shards_is_one_sentence(
    environment: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        find_shard(None, environment)


def test_a_clip_named_twice_is_refused() -> None:
    check_ids(["a", "b"])
    with pytest.raises(InputError, match="'b' is named twice"):
        check_ids(["a", "b", "b"])


def test_notes_of_missing_clips_come_and_go(tmp_path) -> None:
    note_missing(tmp_path, "a/b", "no such file")
    note_missing(tmp_path, "a_b", "too short")
    assert (why_missing(tmp_path, "a/b"), why_missing(tmp_path, "a_b")) == (
        "no such file",
        "too short",
    )
    forget_missing(tmp_path, ["a/b", "never"])
    assert (why_missing(tmp_path, "a/b"), why_missing(tmp_path, "a_b")) == (None, "too short")
    forget_missing(tmp_path, ["a_b"])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
