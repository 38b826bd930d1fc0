"""Values that projection and rasterisers pass on: Gaussians of a moment, how they are projected,
splats of a view.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.renderers.gaussians.rotations import covariance_matrix, upper_triangle
from fsm.renderers.gaussians.spherical_harmonics import rotate_sh


class GaussianFields:
    """Selection and moving over the first axis of every tensor field."""

    def _mapped(self, fn):
        fields = dict(zip(self.names(), self.tensors(), strict=True))
        return dataclasses.replace(self, **{k: fn(t) for k, t in fields.items()})  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return self.means.shape[0]  # pyright: ignore[reportAttributeAccessIssue]

    def __getitem__(self, index: slice | Int[Tensor, " m"] | Bool[Tensor, " *n"]):
        """Those chosen by a slice, indices or a mask."""
        return self._mapped(lambda t: t[index])

    def to(self, device: torch.device | str):
        """All tensors on ``device``."""
        return self._mapped(lambda t: t.to(device))

    def detach(self):
        """The same values without a graph."""
        return self._mapped(lambda t: t.detach())

    @classmethod
    def names(cls) -> list[str]:
        """Names of the tensor fields in their order."""
        return [f.name for f in dataclasses.fields(cls) if f.name != "follow"]  # pyright: ignore[reportArgumentType]

    def tensors(self) -> list[Tensor]:
        """The tensor fields in their order, [n ...] each."""
        return [getattr(self, name) for name in self.names()]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.sh.shape[1]) - 1  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Gaussians3D(GaussianFields):
    """n Gaussians of one moment."""

    means: Float[Tensor, "n 3"]
    """Centres."""
    covariances: Float[Tensor, "n 6"]
    """Upper triangle of the covariance: xx, xy, xz, yy, yz, zz."""
    opacities: Float[Tensor, " n"]
    """In [0, 1]."""
    sh: Float[Tensor, "n k 3"]
    """Spherical harmonics of degree d, k = (d + 1)²; sRGB seen from a direction is max(0, 0.5 + Σ
    sh Y).
    """

    def transformed(
        self, rotation: Float[Tensor, "3 3"], translation: Float[Tensor, " 3"], scale: float
    ) -> "Gaussians3D":
        """The same Gaussians where p has become ``scale`` · (``rotation`` p + ``translation``)."""
        turned = rotation @ covariance_matrix(self.covariances) @ rotation.T
        return Gaussians3D(
            scale * (self.means @ rotation.T + translation),
            upper_triangle(turned) * scale**2,
            self.opacities,
            rotate_sh(self.sh, rotation),
        )

    @staticmethod
    def cat(parts: "list[Gaussians3D]") -> "Gaussians3D":
        """Join; all parts must have the same degree of spherical harmonics."""
        return Gaussians3D(
            *(
                torch.cat([getattr(p, f.name) for p in parts])
                for f in dataclasses.fields(Gaussians3D)
            )
        )


@dataclass(frozen=True)
class Projection:
    """How Gaussians are projected; the defaults are gsplat's."""

    near: float = 0.01
    """Smallest z-depth kept, in the Gaussians' unit of length."""
    far: float = 1e10
    """Largest z-depth kept."""
    blur: float = 0.3
    """Variance in px² added to every ellipse: no splat is thinner than a pixel."""
    antialiased: bool = False
    """Dim widened splats so that they keep their total (Mip-Splatting, arXiv 2311.16493)."""
    radius_clip: float = 0.0
    """Splats whose larger radius is at most this many pixels are left out."""


GSPLAT = Projection()


@dataclass(frozen=True)
class Splats:
    """m splats of one view, those of its Gaussians that may show in it, in the Gaussians' order."""

    centres: Float[Tensor, "m 2"]
    """Pixels (x, y); the first pixel's centre is (0.5, 0.5)."""
    conics: Float[Tensor, "m 3"]
    """Upper triangle xx, xy, yy of the inverse 2D covariance, px^-2."""
    depths: Float[Tensor, " m"]
    """z-depth of the centre."""
    opacities: Float[Tensor, " m"]
    """Alpha at the centre, in [0, 1]."""
    colours: Float[Tensor, "m 3"]
    """sRGB, at least 0."""
    radii: Float[Tensor, "m 2"]
    """Half width and half height in px of the box outside which alpha is below 1/255; no gradient.
    """
    dropped: int
    """Gaussians left out because a value was not finite or made no ellipse."""
