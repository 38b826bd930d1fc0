"""Results for people: a table in the terminal, a LaTeX row, one self-contained HTML page, a contact
sheet.
"""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fsm.evaluate.metrics import HIGHER_IS_BETTER, MASKED, METRIC_NAMES, ImageScore
from fsm.evaluate.pictures import (
    ERROR_GAIN,
    TITLES,
    contact_sheet,
    error_map,
    load_pictures,
    to_bytes,
)
from fsm.evaluate.results import MODEL_ROW, EvaluationResult, SceneResult
from fsm.files import atomic_file, slug

if TYPE_CHECKING:
    from rich.table import Table

DIGITS = {name: 2 if name.startswith("psnr") else 3 for name in METRIC_NAMES}
ARROWS = {
    "psnr": "PSNR ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "depth": "depth error ↓",
    "psnr_moving": "PSNR ↑ moving",
    "psnr_standing": "PSNR ↑ standing",
    "lpips_moving": "LPIPS ↓ moving",
    "lpips_standing": "LPIPS ↓ standing",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222;
  max-width: 1100px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem }
table { border-collapse: collapse; margin: .8rem 0 }
th { text-align: right; font-weight: 500; color: #666 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td, th { padding: .3rem .9rem; border-bottom: 1px solid #e6e6e6;
  text-align: right; font-variant-numeric: tabular-nums }
tr.model td { background: #f6f8fb }
.warn { background: #fff4e0; padding: .6rem .9rem; border-radius: 6px }
.grid { display: flex; flex-wrap: wrap; gap: 10px; margin: 0 0 14px } figure { margin: 0 }
figure img { display: block; width: 160px; border-radius: 4px }
figcaption { font-size: 12px; color: #666 }
details { color: #555; margin: .6rem 0 } summary { cursor: pointer } code { font-size: 13px }
"""


def print_table(result: EvaluationResult) -> None:
    """Mean scores per row in the terminal, best in bold, missing scenes named below; moving and
    standing pixels in a table of their own.
    """
    from rich.console import Console
    from rich.markup import escape

    mean, console = result.mean, Console()
    shown = measured(mean)
    whole, parts = ([m for m in shown if (m in MASKED) is masked] for masked in (False, True))
    table = _printed_table(result, whole)
    table.title = escape(_title(result))
    caption = escape(f"{_counted(result)}\nLPIPS: {result.header['metrics']['lpips']}")
    if parts:
        console.print(table)
        table = _printed_table(result, parts)
    table.caption = caption
    console.print(table)
    for scene in result.missing:
        console.print(f"[red]missing[/red] {escape(scene.id)}: {escape(scene.reason)}")


def _printed_table(result: EvaluationResult, columns: Sequence[str]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("")
    mean = result.mean
    best = best_rows(mean)
    for metric in columns:
        table.add_column(ARROWS[metric], justify="right")
    for row, score in mean.items():
        cells = [printed(score, m) for m in columns]
        marked = [
            f"[bold]{c}[/bold]" if row in best[m] else c
            for m, c in zip(columns, cells, strict=True)
        ]
        table.add_row(escape(_label(result, row)), *marked)
    return table


def measured(mean: dict[str, ImageScore]) -> tuple[str, ...]:
    """Metrics to show: depth and those of moving and standing pixels only where a row has them, the
    others always.
    """
    return tuple(
        m
        for m in METRIC_NAMES
        if m not in ("depth", *MASKED) or any(getattr(s, m) is not None for s in mean.values())
    )


def best_rows(mean: dict[str, ImageScore]) -> dict[str, tuple[str, ...]]:
    """For each metric the rows that share its best printed value (none where fewer than two were
    measured).
    """
    best: dict[str, tuple[str, ...]] = {}
    for metric in METRIC_NAMES:
        values = {
            row: round(v, DIGITS[metric])
            for row, s in mean.items()
            if (v := getattr(s, metric)) is not None
        }
        top = (max if HIGHER_IS_BETTER[metric] else min)(values.values(), default=None)
        best[metric] = tuple(
            row for row, value in values.items() if value == top and len(values) > 1
        )
    return best


def latex_row(result: EvaluationResult, row: str = MODEL_ROW) -> str:
    """One row of a LaTeX table: name and all metrics that were measured; the best of all rows in
    bold.
    """
    mean = result.mean
    best, score = best_rows(mean), mean[row]
    cells = []
    for metric in measured(mean):
        number = printed(score, metric)
        cells.append(rf"\textbf{{{number}}}" if row in best[metric] else number)
    special = {c: rf"\{c}" for c in "&%$#_{}"} | {
        "~": r"\textasciitilde{}",
        "^": r"\^{}",
        "\\": r"\textbackslash{}",
    }
    name = "".join(special.get(c, c) for c in _label(result, row))
    return " & ".join([name, *cells]) + r" \\"


def write_report(result: EvaluationResult, out: Path | str) -> Path:
    """Write ``report.html`` (pictures inside) and ``contact_sheet.png`` into the folder
    ``evaluate`` wrote to.
    """
    out = Path(out)
    page = out / "report.html"
    sections = "\n".join(_scene_section(result, scene, out) for scene in result.scenes)
    with atomic_file(page) as temporary:
        temporary.write_text(_page(result, sections), encoding="utf-8")
    sheet = overview(result, out)
    if sheet is not None:
        with atomic_file(out / "contact_sheet.png") as temporary:
            temporary.write_bytes(_png(sheet))
    return page


def overview(result: EvaluationResult, out: Path, columns: int = 8) -> np.ndarray | None:
    """Contact sheet [h w 3] with the middle kept target of up to ``columns`` scenes; None where no
    pictures were kept.
    """
    scenes = [s for s in result.scenes if s.pictures][:columns]
    if not scenes:
        return None
    rows = {}
    for row in ("truth", *result.rows):
        parts = [load_pictures(out / "pictures" / slug(s.id), _middle(s), row) for s in scenes]
        rows[TITLES.get(row, result.label(row))] = torch.cat(parts)
    first = result.rows[0]
    titles = list(rows)
    rows[f"error of {_label(result, first)} (x{ERROR_GAIN:g})"] = error_map(
        rows[titles[1]], rows[titles[0]]
    )
    return contact_sheet(rows, [s.id for s in scenes])


def _middle(scene: SceneResult) -> list[int]:
    return [scene.pictures[len(scene.pictures) // 2]]


def _page(result: EvaluationResult, sections: str) -> str:
    said = result.header["metrics"]
    notes = [
        _counted(result),
        *(f"{ARROWS[m]}: {said[m]}" for m in measured(result.mean) if m in said),
    ]
    if any(m in MASKED for m in measured(result.mean)) and "masked" in said:
        notes.append(said["masked"])
    notes += _speed(result)
    warning = "".join(
        f'<p class="warn">Missing: <b>{html.escape(m.id)}</b>: {html.escape(m.reason)}</p>'
        for m in result.missing
    )
    latex = html.escape("\n".join(latex_row(result, row) for row in result.rows))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(_title(result))}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(_title(result))}</h1>
{_table(result, result.mean)}
{warning}
<p>{"<br>".join(html.escape(n) for n in notes)}</p>
<details><summary>Settings</summary>
<pre><code>{html.escape(_plain(result.header))}</code></pre></details>
<details><summary>LaTeX</summary><pre><code>{latex}</code></pre></details>
{sections}
</body></html>
"""


def _scene_section(result: EvaluationResult, scene: SceneResult, out: Path) -> str:
    folder = out / "pictures" / slug(scene.id)
    pictures = {
        row: load_pictures(folder, scene.pictures, row)
        for row in ("truth", *scene.scores)
        if scene.pictures
    }
    strips = []
    for i, frame in enumerate(scene.pictures):
        k = scene.target_index.index(frame)
        cells = [_figure(pictures["truth"][i], f"ground truth, frame {frame}")]
        for row, scores in scene.scores.items():
            cells.append(
                _figure(pictures[row][i], f"{_label(result, row)}, {scores[k].psnr:.1f} dB")
            )
        first = next(iter(scene.scores))
        error = error_map(pictures[first][i : i + 1], pictures["truth"][i : i + 1])[0]
        cells.insert(2, _figure(error, f"its error, x{ERROR_GAIN:g}"))
        strips.append(f'<div class="grid">{"".join(cells)}</div>')
    seen = (
        f"{len(scene.input_index)} inputs, {len(scene.target_index)} targets of {scene.frames} "
        "frames"
    )
    heading = f"<h2>{html.escape(scene.id)}</h2><div>{seen}</div>"
    return f"{heading}{_table(result, scene.mean)}{''.join(strips)}"


def _table(result: EvaluationResult, mean: dict[str, ImageScore]) -> str:
    columns, best = measured(mean), best_rows(mean)
    lines = ["<tr><th></th>" + "".join(f"<th>{ARROWS[m]}</th>" for m in columns) + "</tr>"]
    for row, score in mean.items():
        numbers = [(m, printed(score, m)) for m in columns]
        cells = "".join(
            f"<td><b>{n}</b></td>" if row in best[m] else f"<td>{n}</td>" for m, n in numbers
        )
        kind = ' class="model"' if row == MODEL_ROW else ""
        lines.append(f"<tr{kind}><td>{html.escape(_label(result, row))}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _figure(image: torch.Tensor, caption: str) -> str:
    data = base64.b64encode(_png(to_bytes(image))).decode()
    text = html.escape(caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" '
        f'alt="{text}"><figcaption>{text}</figcaption></figure>'
    )


def _png(image: np.ndarray) -> bytes:
    import cv2

    ok, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    assert ok, "PNG of an 8-bit image always encodes"
    return data.tobytes()


def _speed(result: EvaluationResult) -> list[str]:
    timings = result.timings
    peak = f"Peak memory {timings.peak_memory_mb:.0f} MB."
    if timings.encode_seconds is None:
        return [peak]
    encode, render, model = (
        timings.encode_seconds,
        timings.render_seconds_per_frame,
        result.header["model"],
    )
    where = f"on {model['device']} in {model['dtype']}"
    return [
        f"Median {encode:.3g} s to read a clip, {render:.3g} s a rendered frame, {where}. {peak}"
    ]


def _title(result: EvaluationResult) -> str:
    protocol = result.header["protocol"]
    subject = result.label(MODEL_ROW) if MODEL_ROW in result.rows else "Baselines"
    return f"{subject}, protocol {protocol['name']} at {protocol['hw'][0]}x{protocol['hw'][1]}"


def _counted(result: EvaluationResult) -> str:
    images = sum(len(s.target_index) for s in result.scenes)
    expected = len(result.scenes) + len(result.missing)
    return f"Mean over {len(result.scenes)} of {expected} scenes, {images} images."


def _label(result: EvaluationResult, row: str) -> str:
    return TITLES.get(row, result.label(row))


def printed(score: ImageScore, metric: str) -> str:
    """A metric as reports print it; a dash where it was not measured."""
    value = getattr(score, metric)
    return "-" if value is None else f"{value:.{DIGITS[metric]}f}"


def _plain(value: Any, indent: int = 0) -> str:
    """Nested header as indented ``name: value`` lines."""
    if not isinstance(value, dict):
        return str(value)
    lines = []
    for key, inner in value.items():
        text = _plain(inner, indent + 1)
        lines.append(f"{'  ' * indent}{key}:{chr(10) if isinstance(inner, dict) else ' '}{text}")
    return "\n".join(lines)
