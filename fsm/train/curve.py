"""A picture of a training log."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fsm.errors import require
from fsm.files import atomic_file

PANELS = {
    "psnr": "training PSNR [dB]",
    "depth": "relative error of inverse depth",
    "colour": "distance of colours, learning stereo",
    "lpips": "LPIPS",
    "grad_norm": "gradient norm",
    "pull_ratio": "elastic pull / update",
    "lr": "learning rate",
    "tokens_per_second": "tokens per second",
    "utilisation": "share of the matrix peak",
}


def plot_curve(log: Path, picture: Path, smooth: int = 15) -> None:
    """Plot every column of a log.jsonl over steps, faint, with a running mean over ``smooth``
    entries.
    """
    require("train", "matplotlib")
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    entries: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    shown = [name for name in PANELS if sum(name in e for e in entries) > 1]
    figure, axes = plt.subplots(
        2, -(-len(shown) // 2), figsize=(11, 5), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, shown, strict=False):
        steps, values = np.array([(e["step"], e[name]) for e in entries if name in e]).T
        axis.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=0.8)
        width = min(smooth, len(values))
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], mean, color="tab:blue")
        axis.set_title(PANELS[name], fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    with atomic_file(picture) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)
