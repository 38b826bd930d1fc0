"""The network of the perceptual loss: which one ``lpips: auto`` means, and that a run keeps the one
it began with.
"""

import dataclasses
from pathlib import Path

from fsm.config import from_dict
from fsm.errors import InputError
from fsm.evaluate.lpips import LPIPS
from fsm.files import read_json
from fsm.train.config import TrainConfig

ORDER = ("vgg", "alex", "squeeze")


def load_perceptual(config: TrainConfig) -> LPIPS | None:
    """The network that the loss uses, if it ever does; ``InputError`` where its weights are
    missing.
    """
    return LPIPS.load(config.optim.lpips) if _used(config) else None  # pyright: ignore[reportArgumentType]


def resolved(config: TrainConfig, out: Path) -> TrainConfig:
    """``lpips: auto`` replaced by what the run in ``out`` began with, else by the first of vgg,
    alex, squeeze with weights here.

    The answer goes into the run's config.json, so that another machine looks for the same network
    or refuses. Without any weights ``InputError``.
    """
    if config.optim.lpips != "auto" or not _used(config):
        return config
    path = out / "config.json"
    begun = path.exists() and (out / "state.pt").exists()
    stored = from_dict(TrainConfig, read_json(path), str(path)).optim.lpips if begun else "auto"
    net = stored if stored in ORDER else _first()
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lpips=net))


def check_same(config: TrainConfig, path: Path, before: str | None, here: str | None) -> None:
    """Refuse a run that was trained with other weights of its network (their fingerprints)."""
    if before != here:
        raise InputError(
            f"{path} was trained with other weights of LPIPS ({config.optim.lpips}) than those "
            f"found here ({before}, not {here}); put the same file in place."
        )


def _used(config: TrainConfig) -> bool:
    optim = config.optim
    return optim.lpips != "none" and optim.lpips_weight > 0.0 and optim.l2_warmup < optim.steps


def _first() -> str:
    reason = ""
    for net in ORDER:
        try:
            LPIPS.load(net)
        except InputError as error:
            reason = str(error)
        else:
            return net
    raise InputError(
        f"optim.lpips is auto, but none of {', '.join(ORDER)} has weights here: {reason} "
        "Set optim.lpips=none to train without."
    )
