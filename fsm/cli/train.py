"""``fsm train``: one script for CPU, one GPU and torchrun."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fsm.cli.common import choose_device, flag


@dataclass(frozen=True)
class Train:
    """Train a model from a preset (resumes where the output folder left off)."""

    preset: tyro.conf.Positional[Annotated[str, flag("PRESET", "")]]
    """tiny, tiny-lrm, small, ablation, ablation-small, base, base-lrm, or a YAML file of the same
    form.
    """
    output: Annotated[Path | None, flag("FOLDER", "runs/PRESET", short="-o")] = None
    """Run folder: config.json, log.jsonl, state.pt, model/."""
    set: Annotated[tuple[str, ...], flag("KEY=VALUE ...", "none")] = ()
    """Overrides of the preset, such as optim.steps=1000 data.batch=2."""
    data: Annotated[tuple[str, ...], flag("CLIPS[:WEIGHT] ...", "the preset's")] = ()
    """Clip lists, files or folders (or `world`) with their weights, in place of the
    preset's sources.
    """
    stop_after: Annotated[int | None, flag("STEPS", "the end")] = None
    """End early after this many further steps."""
    threads: Annotated[int | None, flag("N", "torch's")] = None
    """CPU threads."""
    device: Annotated[str, flag("DEVICE")] = "auto"
    """auto, cpu or cuda."""

    def run(self) -> None:
        """Train and say where; of several processes, the first one says it."""
        import importlib.util

        import torch

        from fsm.config import from_dict, to_dict
        from fsm.shards import WHOLE, torchrun_process
        from fsm.train.config import TrainConfig, load_preset, overridden
        from fsm.train.curve import plot_curve
        from fsm.train.loop import train
        from fsm.train.throughput import summary

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        values = overridden(to_dict(load_preset(self.preset)), self.set)
        if self.data:
            values["data"]["sources"] = [_source(s) for s in self.data]
        config = from_dict(TrainConfig, values, self.preset)
        out = self.output or Path("runs") / Path(self.preset).stem
        train(config, out, choose_device(self.device), self.stop_after)
        if (torchrun_process() or WHOLE).index:
            return
        if importlib.util.find_spec("matplotlib"):
            plot_curve(out / "log.jsonl", out / "curve.png")
        speed = summary(out / "log.jsonl", config.precision)
        if speed is not None:
            print(speed)
        print(f"model in {out / 'model'}, log in {out / 'log.jsonl'}")


def _source(text: str) -> dict[str, object]:
    """A path and the weight after its last colon, where that is a number."""
    path, _, weight = text.rpartition(":")
    try:
        return {"path": path, "weight": float(weight)} if path else {"path": text}
    except ValueError:
        return {"path": text}
