"""Per-scene refinement: feed-forward Gaussians are the start, gradient steps on the input frames do
the rest.
"""

from fsm.refine.beside import Beside
from fsm.refine.config import BesideConfig, Density, Rates, RefineConfig
from fsm.refine.hold_back import Chosen, held_back
from fsm.refine.initialise import constant_background, random_gaussians
from fsm.refine.run import Refined, refine
from fsm.refine.starts import Start, best_start, from_model, never_worse

__all__ = [
    "Beside",
    "BesideConfig",
    "Chosen",
    "Density",
    "Rates",
    "RefineConfig",
    "Refined",
    "Start",
    "best_start",
    "constant_background",
    "from_model",
    "held_back",
    "never_worse",
    "random_gaussians",
    "refine",
]
