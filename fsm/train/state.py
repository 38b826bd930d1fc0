"""What a training goes on from: its config, state.pt, and the weights it starts with."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsm.checkpoint import load_weights
from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.files import atomic_file, read_json, read_plain, write_json
from fsm.model import FSM
from fsm.train.config import TrainConfig

SHARING = ("parallel", "token_parallel")
"""Options that say how processes share the work, and change nothing about the curve."""


def keep_config(config: TrainConfig, out: Path) -> None:
    """Write config.json; ``InputError`` where the run that ``out`` holds has another one."""
    path, values = out / "config.json", to_dict(config)
    if path.exists() and (out / "state.pt").exists():
        # Through the config, so that an option newer than the run has its default and is no
        # difference.
        stored = to_dict(from_dict(TrainConfig, read_json(path), str(path)))
        changed = [k for k in values if k not in SHARING and values[k] != stored[k]]
        if changed:
            raise InputError(
                f"{path} was written by another config (differs in {', '.join(changed)}); "
                "choose another folder."
            )
    write_json(path, values)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write plain values and tensors, whole or not at all."""
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def load_state(
    path: Path, model: FSM, optimizer: torch.optim.Optimizer, device: str
) -> dict[str, Any]:
    """Load model and optimiser from a state, and return the rest: ``ema``, ``step``, ``skipped``
    and, in all but old ones, ``lpips``. ``InputError`` where it does not fit.
    """
    state = read_plain(path, device)
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rest = {key: state[key] for key in ("ema", "step", "skipped")}
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{path} cannot be resumed from ({reason}); move it away to start over."
        ) from error
    return rest | ({"lpips": state["lpips"]} if "lpips" in state else {})


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
