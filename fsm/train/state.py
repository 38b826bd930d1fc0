"""What a training goes on from: its config, state.pt, and the weights it starts with."""

import sys
from pathlib import Path

from torch import Tensor

from fsm.checkpoint import load_weights
from fsm.config import from_dict, to_dict
from fsm.model import FSM
from fsm.runs import Run
from fsm.train.config import TrainConfig

SHARING = ("parallel", "token_parallel")
"""Options that say how processes share the work, and change nothing about the curve."""


def training_run(config: TrainConfig, out: Path) -> Run:
    """The run of a training in its folder: config.json and state.pt."""
    return Run(out, to_dict(config), "config.json", "state.pt", SHARING)


def claim(run: Run) -> None:
    """Write config.json; ``InputError`` where the run that the folder holds has another one."""
    run.claim(lambda stored, where: to_dict(from_dict(TrainConfig, stored, where)))


def start_from(model: FSM, weights: dict[str, Tensor], where: str) -> None:
    """Copy the whole encoder, and what the decoders have in common; an encoder of another shape is
    an ``InputError``.
    """
    own = model.state_dict()
    load_weights(model.encoder, _part(weights, "encoder."), f"the encoder of {where}")
    shared = {k: t for k, t in weights.items() if k in own and t.shape == own[k].shape}
    model.load_state_dict({**model.state_dict(), **shared})
    fresh = len(own) - len(shared)
    if fresh:
        print(
            f"started from {where}: {len(shared)} tensors taken, {fresh} of the decoder are new",
            file=sys.stderr,
        )


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
