"""Interactive viewer: ``Viewer(scene).run()`` serves a scene to the browser."""

if __name__ != "fsm.viewer":
    raise ImportError(
        "import this package as fsm.viewer; install the checkout first with `pip install -e .`"
    )

from fsm.errors import require

require("viewer", "viser", "websockets", "splines")

from fsm.viewer.gallery.entries import Gallery  # noqa: E402
from fsm.viewer.gallery.server import GalleryViewer  # noqa: E402
from fsm.viewer.server import Viewer  # noqa: E402

__all__ = ["Gallery", "GalleryViewer", "Viewer"]
