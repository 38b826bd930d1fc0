"""What several commands share. Light imports only."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

import fsm
from fsm.errors import InputError
from fsm.files import atomic_file

if TYPE_CHECKING:
    from fsm.model import FSM
    from fsm.views import Views

T = TypeVar("T")
Backend = Literal["auto", "gsplat", "cpu", "plain"]
"""Values of ``--backend``, a flag of every command that renders; ``open_scene`` and
``with_backend`` take it. The same as ``fsm.renderers.gaussians.rasterize.Backend``, which imports
torch.
"""


def flag(metavar: str, default: str | None = None, short: str | None = None) -> Any:
    """How a field shows in ``--help``, for ``Annotated``: its value, its default in words (or ""),
    a short name.
    """
    aliases = None if short is None else [short]
    if default is None:
        return tyro.conf.arg(metavar=metavar, aliases=aliases)
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, aliases=aliases, help_behavior_hint=hint)


def save_settings(path: Path, command: Any, **resolved: Any) -> None:
    """Write a command's settings as YAML: each flag, with ``resolved`` in place of what was left
    open.
    """
    import yaml

    values = {f.name: getattr(command, f.name) for f in dataclasses.fields(command)} | resolved
    document = {
        "fsm": fsm.__version__,
        "command": type(command).__name__.lower(),
        **{k: _plain(v) for k, v in values.items()},
    }
    with atomic_file(path) as temporary:
        temporary.write_text(
            yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )


def choose_device(name: str) -> str:
    """``auto`` is cuda where it is available, else cpu; a CUDA device that is not there is an
    ``InputError``.

    Of several processes on a machine (torchrun, srun) each takes the next of its CUDA devices.
    """
    import torch

    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        place = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
        return "cuda" if place is None else f"cuda:{int(place) % torch.cuda.device_count()}"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise InputError(
            f"device is {name!r}; choose auto, cpu or cuda (cuda:1 for the second)."
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {name!r} but no CUDA device is available; choose cpu.")
    return name


def check_backend(backend: Backend, device: str) -> None:
    """Refuse, before any work is done, a backend that was asked for and cannot work on ``device``;
    which one ``auto`` is depends on the scene.
    """
    if backend != "auto":
        import torch

        from fsm.renderers.gaussians.rasterize import choose_backend

        choose_backend(backend, torch.device(device))


def chosen_layer(scene: Any, layer: Literal["static", "moving", "all"], path: Path) -> Any:
    """A layer of a scene of Gaussians; ``InputError`` where another scene is asked for one."""
    from fsm.renderers.gaussians.scene import GaussianScene

    if layer == "all":
        return scene
    if not isinstance(scene, GaussianScene):
        raise InputError(
            f"{path} is a scene memory, which has no layers of Gaussians; leave --layer out."
        )
    return scene.layer(layer)


def check_output(path: Path) -> None:
    """Refuse, before any work is done, an output folder that could not be written to."""
    place = path.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise InputError(f"output is {path}, but {place} is not a folder; choose another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"output is {path}, but {place} may not be written to; choose another place."
        )


def parse_size(size: str | None, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of ``WIDTHxHEIGHT`` or of ``HEIGHT`` alone, which keeps the aspect of
    ``default``.
    """
    if size is None:
        return default
    numbers = size.lower().split("x")
    if not 1 <= len(numbers) <= 2 or not all(
        n.isascii() and n.isdecimal() and 0 < int(n) <= 16384 for n in numbers
    ):
        raise InputError(
            f"size is {size!r}; write WIDTHxHEIGHT in pixels (as in 640x360) or the height alone."
        )
    height = int(numbers[-1])
    return height, int(numbers[0]) if len(numbers) == 2 else max(
        1, round(height * default[1] / default[0])
    )


MOST_HEIGHT = 512
"""Pixels: the height of the working size where none is asked for, of clips that are higher."""
WORTH_SAYING = 5.0
"""Seconds: shorter waits are not announced."""
FEW = 3
"""Frames that the time of reading is measured on."""


def working_hw(size: str | None, native: tuple[int, int]) -> tuple[int, int]:
    """Height and width to work at: ``size``, or the clip's ``native`` one up to ``MOST_HEIGHT``
    pixels high.
    """
    return parse_size(size or str(min(native[0], MOST_HEIGHT)), native)


def announce_time(seconds: float, hw: tuple[int, int], size: str | None) -> None:
    """Say in one line how long is still to wait, and with which smaller ``--size`` it is less where
    none was asked for; nothing where it is short.
    """
    if seconds < WORTH_SAYING:
        return
    amount = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    smaller = max(1, hw[0] // 2)
    offer = f"; --size {smaller} takes about a quarter" if size is None else ""
    print(f"takes about {amount} at {hw[1]}x{hw[0]}{offer}", flush=True)


def reading_seconds(model: "FSM", inputs: "Views") -> float:
    """About how long ``model`` takes to read ``inputs`` [v], by how long it takes to read a few."""
    import time

    if len(inputs) < 4 * FEW:
        return 0.0
    model.reconstruct(inputs[:1])  # the first one compiles
    began = time.perf_counter()
    model.reconstruct(inputs[:FEW])
    return (time.perf_counter() - began) * len(inputs) / FEW


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
