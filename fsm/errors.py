"""The one exception that means: the input is wrong, and here is what to do about it."""


class InputError(ValueError):
    """Bad input from the user's side: one sentence naming file, field, what was found and what to
    do.

    The command line prints the sentence without a traceback and exits with status 2.
    """
