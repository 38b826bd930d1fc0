"""What a run says while it goes: lines of JSON, TensorBoard, a bar on the terminal."""

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fsm.files import atomic_file

Entry = Mapping[str, int | float]


class Log:
    """JSON lines, and TensorBoard where it is installed; lines past the resumed step, and one cut
    short, are dropped.
    """

    def __init__(self, out: Path, step: int) -> None:
        path = out / "log.jsonl"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            with atomic_file(path) as temporary:
                temporary.write_text("".join(kept))
        # Open for the whole run; ``close`` closes it.
        self.handle = open(path, "a", buffering=1)  # noqa: SIM115
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(out, purge_step=step)

    def write(self, entry: Entry) -> None:
        """One line."""
        # JSON has no NaN
        plain = {k: round(v, 8) if math.isfinite(v) else None for k, v in entry.items()}
        self.handle.write(json.dumps(plain) + "\n")
        if self.board is not None:
            for name, value in entry.items():
                self.board.add_scalar(name, value, int(entry["step"]))

    def close(self) -> None:
        """After the last line."""
        self.handle.close()
        if self.board is not None:
            self.board.close()


def report_saved(entry: Entry, total: int, shown: bool) -> None:
    """A line for a checkpoint, where there is no terminal to see the bar on."""
    if shown and not os.isatty(2):
        print(f"step {entry['step']} of {total}: {described(entry)}", file=sys.stderr)


def described(entry: Entry) -> str:
    """The few numbers of a step that one watches."""
    error = (
        f"{entry['psnr']:.2f} dB" if "psnr" in entry else f"colours off by {entry['colour']:.4f}"
    )
    text = f"{error}, {entry['seconds']:.2f} s/step"
    if "utilisation" in entry:
        text += f", {entry['tokens_per_second']:,.0f} tokens/s, {entry['utilisation']:.0%} of peak"
    return text
