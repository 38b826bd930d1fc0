"""``fsm compare``: several evaluations as one table and one picture per protocol."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fsm.cli.common import check_output, flag


@dataclass(frozen=True)
class Compare:
    """Put evaluations side by side: a Markdown table and contact sheets."""

    results: tyro.conf.Positional[Annotated[tuple[str, ...], flag("[NAME=]FOLDER", "")]]
    """What `fsm eval -o FOLDER` wrote; NAME replaces the model's own."""
    output: Annotated[Path, flag("FOLDER", short="-o")] = Path("outputs/compare")
    """Where table.md and a PNG per protocol go."""
    pictures: Annotated[int, flag("N")] = 6
    """Clips in each picture; 0 for none."""

    def run(self) -> None:
        """Read, compare, print the table, and say where it is."""
        from fsm.errors import InputError
        from fsm.evaluate.compare import columns, load_run, write_comparison

        check_output(self.output)
        if not self.results:
            raise InputError("compare needs at least one folder of results; run fsm eval first.")
        if self.pictures < 0:
            raise InputError(f"pictures is {self.pictures}; it must be at least 0.")
        table = columns([load_run(path) for path in self.results])
        print(write_comparison(table, self.output, self.pictures))
        print(f"table.md and pictures in {self.output}/")
