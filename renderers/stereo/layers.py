"""What stands and what moves: depth, motion and which of the two, of every pixel of a view."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.regularise import resampled
from fsm.renderers.stereo.sources import gather
from fsm.views import Views


@dataclass(frozen=True)
class Layers:
    """Maps of views [b v] in model units and model axes."""

    inverse_depth: Float[Tensor, "b v 1 h w"]
    """Inverse z-depth."""
    moving: Float[Tensor, "b v 1 h w"]
    """Probability that what a pixel shows moves; what stands has no time."""
    velocity: Float[Tensor, "b v 3 h w"]
    """Of what moves, per unit of model time."""
    confidence: Float[Tensor, "b v 1 h w"]
    """Probability, as far as the cost volume tells, that depth lies between two depth planes."""

    @property
    def standing(self) -> Float[Tensor, "b v 1 h w"]:
        """Probability that what a pixel shows stands still."""
        return 1.0 - self.moving

    def __getitem__(self, index: Sequence[int] | slice | Tensor) -> "Layers":
        """Those of some views."""
        return self._mapped(lambda t: t[:, index])

    def gathered(self, index: Tensor) -> "Layers":
        """Those of the views [b v k], as [b vk]."""
        return self._mapped(lambda t: gather(t, index).flatten(1, 2))

    def split(self) -> list["Layers"]:
        """One value per view."""
        return [self[i : i + 1] for i in range(self.inverse_depth.shape[1])]

    def resized(self, hw: tuple[int, int]) -> "Layers":
        """The same maps at another size, bilinear."""
        return self._mapped(lambda t: resampled(t.flatten(0, 1), hw).unflatten(0, t.shape[:2]))

    @staticmethod
    def cat(parts: Sequence["Layers"]) -> "Layers":
        """Join along the views."""
        fields = [f.name for f in dataclasses.fields(Layers)]
        return Layers(*(torch.cat([getattr(p, n) for p in parts], dim=1) for n in fields))

    @full_precision
    def motion(self, views: Views) -> Float[Tensor, "b v 3 h w"]:
        """Velocity times inverse depth in the axes of ``views``, whose maps these are, as
        ``SourceViews.project`` takes it; nothing where a pixel stands.
        """
        turned = torch.einsum("bvji,bvjhw->bvihw", views.c2w[..., :3, :3], self.velocity)
        return turned * self.inverse_depth * self.moving

    def _mapped(self, fn) -> "Layers":
        return Layers(*(fn(getattr(self, f.name)) for f in dataclasses.fields(self)))
