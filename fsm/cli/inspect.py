"""``fsm inspect``: what a clip holds and whether its cameras are plausible."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fsm.cli.common import flag

if TYPE_CHECKING:
    from fsm.datasets.base import Clip
    from fsm.datasets.inspect import ClipReport


@dataclass(frozen=True)
class Inspect:
    """Print what a clip holds and whether its poses fit its pictures (exit status 1 if not)."""

    clip: tyro.conf.Positional[Annotated[str, flag("CLIP", "")]]
    """Clip file or folder, or `demo`, or `world:SEED`."""
    id: Annotated[str | None, flag("NAME", "the only clip")] = None
    """Which clip, where there are several."""
    static: bool = False
    """Take all frames for one moment: nothing moves, and there is no clock."""
    fix_poses: bool = False
    """Take the nearest rotation of scaled or sheared poses."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Inspect and print."""
        from fsm.datasets.inspect import inspect_clip
        from fsm.datasets.open import kind_of, open_clip, open_dataset

        clip = open_clip(self.clip, self.id, self.fix_poses, self.static)
        dataset = open_dataset(self.clip, self.fix_poses, self.static)
        about = {"format": kind_of(dataset), "split": _split(clip, dataset.ids)}
        report = inspect_clip(clip)
        if self.json:
            print(json.dumps(about | dataclasses.asdict(report), indent=1))
        else:
            _print_table(report, about)
        return 1 if report.verdict.startswith(("inconsistent", "looks like")) else 0


def _split(clip: "Clip", ids: Sequence[str]) -> str | None:
    """How a clip, or the data set it is of, is split; None where it is not."""
    if clip.index_plan is not None:
        inputs, targets = clip.index_plan.input_index, clip.index_plan.target_index
        return f"{len(inputs)} inputs, {len(targets)} targets"
    return f"{', '.join(ids)}; this is {clip.id}" if "train" in ids and len(ids) > 1 else None


def _print_table(report: "ClipReport", about: Mapping[str, str | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    h, w = report.hw
    rate = "" if report.fps is None else f", {report.fps:.4g} fps"
    over = ", static" if report.static else f" over {report.duration:.3f} s{rate}"
    rig = [("rig", f"{report.cameras} cameras x {report.moments} moments")]
    rows = [
        ("read as", about["format"]),
        ("frames", f"{report.frames}{over}"),
        *(rig if report.cameras > 1 and not report.static else ()),
        *([("split", about["split"])] if about["split"] is not None else ()),
        ("size", f"{w} x {h} pixels"),
        ("field of view", f"{report.hfov_deg:.1f} degrees horizontally"),
        (
            "baseline",
            f"{report.baseline:.4g} from the first camera, {report.extent:.4g} between the "
            "furthest two",
        ),
        ("largest step", f"{report.largest_step:.4g} to frame {report.largest_step_frame}"),
        ("matches", f"{report.matches} over {report.pairs} pairs of frames"),
    ]
    if report.parallax_px is not None:
        rows.append(("parallax", f"{report.parallax_px:.2f} px"))
    readings = (
        ("poses as stored", report.sampson_px),
        ("y and z flipped", report.sampson_flipped_px),
        ("inverted", report.sampson_inverted_px),
    )
    rows += [
        (name, f"{value:.2f} px off the epipolar lines")
        for name, value in readings
        if value is not None
    ]
    colour = {"consistent": "green", "cannot tell": "yellow"}.get(
        report.verdict.split(":")[0], "red"
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    table.add_row("verdict", f"[{colour}]{report.verdict}[/]")
    Console(highlight=False).print(table)
