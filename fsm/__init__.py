"""FSM toolkit: a posed video in, a compact scene memory out, any camera at any moment rendered from
it.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsm.errors import InputError
    from fsm.memory_scene import MemoryScene
    from fsm.model import FSM
    from fsm.views import Rendering, SceneFrame, Views

__version__ = "0.1.0"
__all__ = ["FSM", "InputError", "MemoryScene", "Rendering", "SceneFrame", "Views", "__version__"]

_HOME = {
    "FSM": "fsm.model",
    "InputError": "fsm.errors",
    "MemoryScene": "fsm.memory_scene",
    "Rendering": "fsm.views",
    "SceneFrame": "fsm.views",
    "Views": "fsm.views",
}


def __getattr__(name: str):
    # Loaded on first use: `import fsm` and `fsm --help` must not wait for torch.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fsm' has no attribute {name!r}")
