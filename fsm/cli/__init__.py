"""The command line. ``fsm --help`` must answer at once: nothing here imports torch before a command
runs.
"""

from fsm.cli.main import main

__all__ = ["main"]
