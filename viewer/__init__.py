"""Interactive viewer."""

if __name__ != "fsm.viewer":
    raise ImportError("import this package as fsm.viewer; install the checkout first with `pip install -e .`")
