"""Depth of the input frames from one another: a plane sweep over all depths, one about its answer,
then fractions of a pixel.

Both decoders begin with it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.renderers.stereo.cost_volume import PlaneSweep, Swept
from fsm.renderers.stereo.sources import witnesses
from fsm.renderers.stereo.subpixel import aligned
from fsm.views import Views

MORE = 2  # times as many witnesses for the last fraction of a pixel: noise is averaged out


class Stereo(nn.Module):
    """Inverse depth of every pixel of a view, model units, coarse to fine."""

    def __init__(self, references: int, planes: int, fine_planes: int) -> None:
        super().__init__()
        self.references = references
        self.sweeps = nn.ModuleList([PlaneSweep(planes)])
        if fine_planes:
            self.sweeps.append(PlaneSweep(fine_planes, stride=2, about=True))

    def forward(self, views: Views, references: Views) -> list[Swept]:
        """The answers of all sweeps for ``views`` [b v], which have pictures, beside ``references``
        [b n], among which they may be.

        The last answer is the best.
        """
        asked = witnesses(views, references, self.references)
        answers: list[Swept] = []
        for sweep in self.sweeps:
            answers.append(
                sweep(views, references, asked, about=answers[-1].rho if answers else None)
            )
        return answers

    @torch.no_grad()
    def inverse_depth(self, views: Views, references: Views) -> Float[Tensor, "b v 1 h w"]:
        """The best answer, to a fraction of a pixel; a constant for autograd."""
        found = self(views, references)[-1].rho.float()
        return aligned(
            views, references, witnesses(views, references, MORE * self.references), found
        )
