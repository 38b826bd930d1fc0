"""The exceptions that mean: the input is wrong, and here is what to do about it."""

import importlib.util


class InputError(ValueError):
    """Bad input from the user's side: one sentence naming file, field, what was found and what to
    do.

    The command line prints the sentence without a traceback and exits with status 2.
    """


class MissingExtra(InputError, ImportError):
    """An optional package is not installed; the sentence says how to install it."""


def require(extra: str, *modules: str) -> None:
    """Check that the ``modules`` of an optional extra are installed.

    Raises ``MissingExtra`` with the command that installs them.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"{' and '.join(missing)} not installed; run `pip install 'fsm-toolkit[{extra}]'`, "
            f"or `pip install -e '.[{extra}]'` in a clone."
        )
