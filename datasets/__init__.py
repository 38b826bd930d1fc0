"""Posed clips from disk, and a procedural one from nothing."""

if __name__ != "fsm.datasets":
    raise ImportError(
        "import this package as fsm.datasets; install the checkout first with `pip install -e .`"
    )
