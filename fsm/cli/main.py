"""``fsm COMMAND``: one entry point, one file per command.

A command is a frozen dataclass in ``fsm/cli/<command>.py``:

* Its docstring, one line, is its line in ``fsm --help``; each field is a flag and the string under
  it, one short line, that flag's help. ``fsm.cli.common.flag`` names a flag's value, and its
  default where that is not the field's own.
* ``run(self) -> int | None`` does the work and returns the exit status (None is 0). torch and
  all that imports it is imported inside ``run``, so that ``fsm --help`` stays under a second.
* A command that renders has ``backend: Backend``, and passes it to ``open_scene`` or
  ``with_backend``.
* Bad input is raised as ``InputError`` from wherever it is found; this module prints it. No command
  catches it.
* Commands that write outputs put their resolved settings beside them with
  ``fsm.cli.common.save_settings``.

It is then listed in ``COMMANDS``. A command with presets may be any callable that ``tyro.cli``
accepts whose value has ``run``.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import fsm
from fsm.cli.compare import Compare
from fsm.cli.convert import Convert
from fsm.cli.demo import Demo
from fsm.cli.doctor import Doctor
from fsm.cli.evaluate import Eval
from fsm.cli.export import Export
from fsm.cli.inspect import Inspect
from fsm.cli.layers import LayersCommand
from fsm.cli.poses import Poses
from fsm.cli.reconstruct import Reconstruct
from fsm.cli.refine import Refine
from fsm.cli.render import Render
from fsm.cli.train import Train
from fsm.cli.view import View
from fsm.errors import InputError

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "poses": Poses,
    "inspect": Inspect,
    "reconstruct": Reconstruct,
    "refine": Refine,
    "render": Render,
    "layers": LayersCommand,
    "export": Export,
    "view": View,
    "eval": Eval,
    "compare": Compare,
    "train": Train,
    "convert": Convert,
    "doctor": Doctor,
}
"""Name to command, in the order of ``fsm --help``."""

DESCRIPTION = """A posed video in, a scene memory out, any camera at any moment rendered from it.
"fsm COMMAND --help" explains a command, "fsm --version" prints the version;
"--debug" with any command shows the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Status 0: done; 1: the command's own verdict; 2: bad input or usage; 130:
    interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments in (["--version"], ["-V"]):
        print(f"fsm {fsm.__version__}")
        return 0
    debug = "--debug" in arguments
    warnings.formatwarning = _one_line
    try:
        command = _parse([a for a in arguments if a != "--debug"] or ["--help"])
        return command.run() or 0
    except InputError as error:
        if debug:
            raise
        _complain(str(error))
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        if debug or error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("interrupted")
        return 130


def _parse(arguments: list[str]) -> Any:
    import tyro

    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="fsm",
        description=DESCRIPTION,
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
    )


def _one_line(message: Warning | str, *args: Any, **kwargs: Any) -> str:
    """A warning without the place in the source that it comes from."""
    return f"warning: {' '.join(str(message).split())}\n"


def _complain(sentence: str) -> None:
    """One line on stderr, red on a terminal."""
    line = f"error: {' '.join(sentence.split())}"
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[31m{line}\033[0m" if red else line, file=sys.stderr)
