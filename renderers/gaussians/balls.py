"""Gaussians that are balls and move at constant velocity: what a pixel becomes.

Velocity and a round cross-section are exactly what two quaternions and four scales can say: rotate
time towards the direction of motion by φ = atan |v|, and shorten the axis along it by cos φ, which
conditioning on time undoes (``moving_rotation``).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.spherical_harmonics import SH_C0
from fsm.renderers.gaussians.types import GaussianFields
from fsm.renderers.motion.quaternions import multiply

# Brightest difference of colours from their mean, from 0 to 1, in a square that is one Gaussian.
SAME_COLOUR = 0.02
# Farthest over nearest depth in such a square.
SAME_DEPTH = 1.03
# Difference of motion in such a square, while a Gaussian lasts, over the size of one.
SAME_MOTION = 1.0


@dataclass(frozen=True)
class Balls(GaussianFields):
    """Balls as time passes, [n] of them or [v h w] of the pixels of views."""

    means: Float[Tensor, "*n 3"]
    """Centres at ``times``."""
    velocities: Float[Tensor, "*n 3"]
    """Change of the centre per unit of time."""
    times: Float[Tensor, " *n"]
    """When each is fully there."""
    durations: Float[Tensor, " *n"]
    """Standard deviation of the weight over time; infinite: there at all times."""
    sizes: Float[Tensor, " *n"]
    """Standard deviation in space."""
    opacities: Float[Tensor, " *n"]
    """In [0, 1]."""
    sh: Float[Tensor, "*n k 3"]
    """As in ``Gaussians3D``."""

    @staticmethod
    def cat(parts: "list[Balls]") -> "Balls":
        """Join along the first axis."""
        return Balls(*(torch.cat(f) for f in zip(*(p.tensors() for p in parts), strict=True)))

    @full_precision
    def gaussians(self) -> Gaussians4D:
        """The same by the free parameters of 4D Gaussians; differentiable."""
        left, right, stretch = moving_rotation(self.velocities)
        sizes = self.sizes[:, None]
        return Gaussians4D(
            self.means,
            self.times,
            torch.cat([sizes / stretch, sizes, sizes], dim=-1),
            self.durations * stretch[:, 0],
            left,
            right,
            self.opacities,
            self.sh,
        )


@full_precision
def merged(
    balls: Balls,
    kept: Bool[Tensor, "v h w"],
    depth: Float[Tensor, "v h w"],
    pixel: Float[Tensor, "v h w"],
    side: int,
) -> Balls:
    """The ``kept`` ones of the pixels of views, where squares of ``side`` pixels without texture
    are one ball each.

    ``pixel`` is the standard deviation of the pixel filter at each ball, in model units: the merged
    one is as much larger as leaves the picture as it is.
    """
    h, w = kept.shape[1:]
    if side == 1 or h % side or w % side:
        return balls[kept]

    def squares(maps: Tensor) -> Tensor:
        cut = maps.unflatten(2, (w // side, side)).unflatten(1, (h // side, side))
        return cut.transpose(2, 3).flatten(3, 4)

    of = {name: squares(t) for name, t in zip(balls.names(), balls.tensors(), strict=True)}
    mean = {name: t.mean(3) for name, t in of.items()}
    far, smallest = squares(depth), squares(pixel).square().mean(3)
    colours = (of["sh"] - mean["sh"][:, :, :, None]).abs().amax((-1, -2, -3)) * SH_C0
    motions = (of["velocities"] - mean["velocities"][:, :, :, None]).norm(dim=-1).amax(-1)
    lasting = of["durations"].isinf()
    alike = (
        squares(kept).all(-1)
        & (colours < SAME_COLOUR)
        & (far.amax(-1) < SAME_DEPTH * far.amin(-1))
        & (motions <= SAME_MOTION * mean["sizes"] / mean["durations"])
        & (lasting.all(-1) | ~lasting.any(-1))
    )
    area = side**2 * (mean["sizes"].square() + smallest) - smallest
    mean["sizes"] = area.sqrt()
    single = kept & ~alike.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return Balls.cat([balls[single], Balls(**mean)[alike]])


def moving_rotation(
    velocity: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 4"], Float[Tensor, "n 1"]]:
    """Left and right quaternions (wxyz) that give a Gaussian this velocity, and 1 / cos φ.

    With scales (s cos φ, s, s) and temporal scale τ / cos φ the Gaussian moves at ``velocity``, is
    a ball of size s (to the order of s / τ |v|) and lasts τ: the first axis lies along ±velocity,
    then time is turned towards it by φ.
    """
    stretch = (1.0 + velocity.square().sum(-1, keepdim=True)).sqrt()
    half = ((1.0 + 1.0 / stretch) / 2.0).sqrt()  # cos φ/2
    turn = velocity / (2.0 * stretch * half)  # sin φ/2 along the direction of motion
    x, y, z = velocity.split(1, dim=-1)
    length = velocity.square().sum(-1, keepdim=True).add(1e-12).sqrt()
    sign = torch.where(x < 0, -1.0, 1.0) / length
    # the first axis onto ±velocity
    align = torch.cat([1.0 + x * sign, torch.zeros_like(x), -z * sign, y * sign], dim=-1)
    boost, back = torch.cat([half, turn], dim=-1), torch.cat([half, -turn], dim=-1)
    return multiply(boost, align), multiply(back, align), stretch
