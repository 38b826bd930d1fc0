"""Near and far: which depths are shown, and between which the colour map of depth runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.views import Rendering


@dataclass(frozen=True)
class Limits:
    """A range of z-depths in the clip's unit of length; all of them where not given."""

    near: float = 0.0
    far: float = math.inf

    @staticmethod
    def of(pair: Sequence[float | int], what: str) -> "Limits":
        """From two numbers as a panel has them: near and far, each 0 for no limit. ``what`` names
        them in errors.
        """
        near, far = (float(x) for x in pair)
        limits = Limits(near, math.inf if far == 0 else far)
        if not (math.isfinite(near) and 0 <= near < limits.far):
            raise InputError(
                f"{what}: {near:g} to {far:g} is no range; choose near < far, or 0 for no limit."
            )
        return limits

    @property
    def open(self) -> bool:
        """Whether they leave nothing out."""
        return self.near == 0 and self.far == math.inf


def within(
    picture: Float[Tensor, "3 h w"], rendering: Rendering, limits: Limits
) -> Float[Tensor, "3 h w"]:
    """``picture`` of the first view of ``rendering`` [v], black where its depth is outside
    ``limits`` or there is none.

    The very same picture where the limits are open; a rendering without depth is an ``InputError``
    where they are not.
    """
    if limits.open:
        return picture
    if rendering.depth is None:
        raise InputError("this scene's model renders no depth to limit; set near and far to 0.")
    depth = rendering.depth[0].to(picture.device)
    inside = depth.isfinite() & (depth > 0) & (depth >= limits.near) & (depth <= limits.far)
    return torch.where(inside, picture, torch.zeros_like(picture))
