"""Train on procedural worlds

Train a small model from random weights. No download is needed: every sample is a fresh world.

* A preset is a YAML file in `configs/`. `overridden` changes single values, like `--set`.
* A stopped run resumes from its folder to the same bits.
* `OUT/model` holds the averaged weights. Every command takes that folder as a model.
"""

from pathlib import Path

import tyro

from fsm.config import from_dict, to_dict
from fsm.train.config import TrainConfig, load_preset, overridden
from fsm.train.loop import train

SMALL = (
    "stages=[]",
    "model.encoder.layers=2",
    "model.encoder.block.dim=128",
    "data.batch=1",
    "data.inputs=[4]",
    "data.chunks=[2]",
    "data.targets=2",
    "data.window=[12,16]",
    "optim.lpips=none",
    "optim.warmup=2",
    "log_every=1",
)


def main(size: int = 64, steps: int = 20, out: Path = Path("outputs/07")) -> Path:
    """Train for STEPS steps on pictures of SIZE pixels and return the model's folder."""
    changes = (*SMALL, f"data.hw=[{size},{size}]", f"optim.steps={steps}")
    values = overridden(to_dict(load_preset("tiny")), changes)
    train(from_dict(TrainConfig, values, "example"), out, device="cpu")
    print(f"model in {out / 'model'}; try: fsm demo --model {out / 'model'}")
    return out / "model"


if __name__ == "__main__":
    tyro.cli(main)
