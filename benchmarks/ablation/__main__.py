"""``python -m benchmarks.ablation``: ``train`` and score the variants whose results are missing in
a folder, or ``report`` what is there.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fsm.errors import InputError


@dataclass(frozen=True)
class Train:
    """Train and score the variants of the ablation; resumes."""

    folder: tyro.conf.Positional[Path]
    """Runs, results and what they share."""
    train: str
    """List of clips to train on."""
    test: str
    """List of clips to score on."""
    preset: str = "ablation-small"
    """Preset or YAML file that every variant shares."""
    start_steps: int = 0
    """Steps of a common start of each seed (plain LaCT, random numbers of chunks); 0: random
    weights.
    """
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of each variant."""
    only: tuple[str, ...] = ()
    """Names of variants; all by default."""
    worlds: tuple[int, ...] = (900001, 900002, 900003, 900004)
    """Seeds of procedural worlds whose streams are scored, too."""
    set: tuple[str, ...] = ()
    """Overrides of the preset, such as optim.steps=1000."""
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Do only part I of N of the runs, into the folder that all parts share."""
    threads: int | None = None
    """CPU threads."""

    def run(self) -> None:
        """Do what is missing."""
        import torch

        from benchmarks.ablation.driver import Suite, run
        from benchmarks.ablation.variants import find_variants
        from fsm.config import from_dict, to_dict
        from fsm.shards import find_shard
        from fsm.train.config import TrainConfig, load_preset, overridden

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        base = from_dict(
            TrainConfig, overridden(to_dict(load_preset(self.preset)), self.set), self.preset
        )
        suite = Suite(self.folder, base, self.train, self.test, self.start_steps, self.worlds)
        run(suite, find_variants(self.only), self.seeds, find_shard(self.shard))


@dataclass(frozen=True)
class Report:
    """Tables and curves from results alone; nothing is trained or scored."""

    folder: tyro.conf.Positional[Path]
    """Settings and results; tables.md and curves.png go beside them."""

    def run(self) -> None:
        """Write them and say where."""
        if importlib.util.find_spec("matplotlib") is None:
            raise InputError(
                "curves need matplotlib, which is not installed; pip install 'fsm-toolkit[train]'."
            )
        from benchmarks.ablation.report import write_report

        print("ablation in {} and {}".format(*write_report(self.folder)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 0: done; 2: bad input; 130: interrupted, to be continued by the same command."""
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            {"train": Train, "report": Report},
            prog="python -m benchmarks.ablation",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        command.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
