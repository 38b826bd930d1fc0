"""From a scene memory to pictures: decoder heads, the Scene protocol, camera paths and video."""

if __name__ != "fsm.renderers":
    raise ImportError(
        "import this package as fsm.renderers; install the checkout first with `pip install -e .`"
    )
