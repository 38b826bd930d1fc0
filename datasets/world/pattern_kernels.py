"""The formulas of ``patterns`` compiled for sixteen points at once.

Every function below is the code of its namesake in ``patterns`` with other globals, those of this
module: the vocabulary of ``fsm.kernels.simd`` and the compiled functions themselves.
"""

import inspect
from types import FunctionType
from typing import Any

from fsm.datasets.world import patterns
from fsm.datasets.world.patterns import ACROSS, ALONG, INTO, MIX, OCTAVES, PER_BIT, REMIX
from fsm.kernels.compiled import part
from fsm.kernels.simd import (
    absolute,
    any_of,
    floor,
    least,
    most,
    real,
    root,
    select,
    shifted,
    whole,
)

# The names that the formulas look up in this module.
VOCABULARY = (absolute, any_of, floor, least, most, real, root, select, shifted, whole)
NUMBERS = (ACROSS, ALONG, INTO, MIX, OCTAVES, PER_BIT, REMIX)


def _compiled(formula: Any) -> Any:
    """A function for kernels with the code of ``formula`` and the globals of this module."""
    function = inspect.unwrap(formula)
    return part(FunctionType(function.__code__, globals(), function.__name__))


cell_hash, again, chance = (
    _compiled(f) for f in (patterns.cell_hash, patterns.again, patterns.chance)
)
limited, covered, kept = (_compiled(f) for f in (patterns.limited, patterns.covered, patterns.kept))
corner, noise = _compiled(patterns.corner), _compiled(patterns.noise)
octaves, octave_values = _compiled(patterns.octaves), _compiled(patterns.octave_values)
squares, ink = _compiled(patterns.squares), _compiled(patterns.ink)
clouds, stripes, checks, bricks, cells, leaves, dots, letters = map(_compiled, patterns.PATTERNS)


@part
def pattern(kind, u, v, footprint, seed, first, second):
    """The pattern number ``kind`` of ``patterns.PATTERNS``."""
    if kind == 0:
        return clouds(u, v, footprint, seed, first, second)
    if kind == 1:
        return stripes(u, v, footprint, seed, first, second)
    if kind == 2:
        return checks(u, v, footprint, seed, first, second)
    if kind == 3:
        return bricks(u, v, footprint, seed, first, second)
    if kind == 4:
        return cells(u, v, footprint, seed, first, second)
    if kind == 5:
        return leaves(u, v, footprint, seed, first, second)
    if kind == 6:
        return dots(u, v, footprint, seed, first, second)
    return letters(u, v, footprint, seed, first, second)
