"""Many clips on many processes: who does which, and what became of those that could not be done.

Processes share nothing but the list and the output folder. Each takes its part of the list; what is
finished lies in the folder whole, what failed as a note in ``.missing``, and what is neither has
still to come. So any of them can be killed and started again, under torchrun, in a Slurm array or
by hand.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fsm.errors import InputError
from fsm.files import read_json, slug, write_json

T = TypeVar("T")
NOTES = ".missing"


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"there is no shard {self.index + 1} of {self.count}; count from 1 to their number."
            )

    def part(self, items: Sequence[T]) -> tuple[T, ...]:
        """Every ``count``-th item from ``index`` on: over all shards each item once, sizes that
        differ by at most one.
        """
        return tuple(items[self.index :: self.count])

    def within(self, outer: "Shard") -> "Shard":
        """This shard of what ``outer`` takes: every process of every task of an array."""
        return Shard(outer.index * self.count + self.index, outer.count * self.count)

    def __str__(self) -> str:
        """``2/3``, as on the command line."""
        return f"{self.index + 1}/{self.count}"


WHOLE = Shard()
"""Everything, for a process that works alone."""


def find_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """The part of this process: ``text`` (as in 2/3, counted from 1), else what torchrun and Slurm
    say, else everything.

    torchrun: RANK of WORLD_SIZE. Slurm: the task of an array, and within it the process of an
    ``srun`` step. A process of torchrun in an array has a part of its task's part. Raises
    ``InputError`` for numbers that fit no list of shards.
    """
    if text is not None:
        index, slash, count = text.partition("/")
        if (
            not slash
            or not all(n.isascii() and n.isdecimal() for n in (index, count))
            or int(count) < 1
        ):
            raise InputError(
                f"shard is {text!r}; write this one and their number, as in 1/3, 2/3 and 3/3."
            )
        return Shard(int(index) - 1, int(count))
    process = torchrun_process(environment) or _step(environment) or WHOLE
    return process.within(_array(environment) or WHOLE)


def torchrun_process(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """This process among those that torchrun started, if it did."""
    return _pair(environment, "RANK", "WORLD_SIZE")


def _pair(environment: Mapping[str, str], index: str, count: str) -> Shard | None:
    if index not in environment and count not in environment:
        return None
    numbers = [_number(environment, name) for name in (index, count)]
    if not 0 <= numbers[0] < numbers[1]:
        raise InputError(
            f"{index} is {numbers[0]} but {count} is {numbers[1]}; set both right, or give --shard."
        )
    return Shard(*numbers)


def _step(environment: Mapping[str, str]) -> Shard | None:
    """Only ``srun`` sets the number of a step's tasks; a batch script outside it is one process
    whatever it reserved.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    return _pair(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")


def _array(environment: Mapping[str, str]) -> Shard | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    this, count, least, most = (
        _number(environment, f"SLURM_ARRAY_TASK_{n}") for n in ("ID", "COUNT", "MIN", "MAX")
    )
    step = (most - least) // (count - 1) if count > 1 else 1
    if count < 1 or step < 1 or least + step * (count - 1) != most or (this - least) % step:
        raise InputError(
            f"the Slurm array has {count} tasks numbered from {least} to {most}, with gaps "
            "of different lengths; number "
            "them evenly, or give --shard."
        )
    return Shard((this - least) // step, count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdecimal()):
        raise InputError(
            f"the environment variable {name} is {text!r}, expected a whole number; set "
            "it, or give --shard."
        )
    return int(text)


def check_ids(ids: Sequence[str]) -> None:
    """Refuse a list that names a clip twice."""
    twice = (
        next((id for id in ids if ids.count(id) > 1), None) if len(set(ids)) < len(ids) else None
    )
    if twice is not None:
        raise InputError(f"the clip {twice!r} is named twice; name every clip once.")


def note_missing(folder: Path, id: str, reason: str) -> None:
    """Leave word in ``folder`` that ``id`` could not be done, and why."""
    write_json(_note(folder, id), {"id": id, "reason": reason})


def forget_missing(folder: Path, ids: Sequence[str]) -> None:
    """Take back what was noted of ``ids``, because they are tried again. The folder of notes stays:
    others may be writing.
    """
    for id in ids:
        _note(folder, id).unlink(missing_ok=True)


def why_missing(folder: Path, id: str) -> str | None:
    """What was noted of ``id``, if anything."""
    path = _note(folder, id)
    if not path.exists():
        return None
    value = read_json(path)
    reason = value.get("reason") if isinstance(value, dict) else None
    if not isinstance(reason, str):
        raise InputError(f"{path} should hold the reason why a clip is missing; remove it.")
    return reason


def _note(folder: Path, id: str) -> Path:
    return folder / NOTES / f"{slug(id)}.json"
