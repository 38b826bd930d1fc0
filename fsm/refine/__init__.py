"""Per-scene refinement: feed-forward Gaussians are the start, gradient steps on the input frames do
the rest.
"""

from fsm.refine.config import Density, Rates, RefineConfig
from fsm.refine.hold_back import Chosen, held_back
from fsm.refine.initialise import constant_background, random_gaussians
from fsm.refine.run import Refined, refine

__all__ = [
    "Chosen",
    "Density",
    "Rates",
    "RefineConfig",
    "Refined",
    "constant_background",
    "held_back",
    "random_gaussians",
    "refine",
]
