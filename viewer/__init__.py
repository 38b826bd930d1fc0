"""Interactive viewer: ``Viewer(scene).run()`` serves a scene to the browser."""

if __name__ != "fsm.viewer":
    raise ImportError(
        "import this package as fsm.viewer; install the checkout first with `pip install -e .`"
    )

from fsm.viewer.gallery.entries import Gallery
from fsm.viewer.gallery.server import GalleryViewer
from fsm.viewer.server import Viewer

__all__ = ["Gallery", "GalleryViewer", "Viewer"]
