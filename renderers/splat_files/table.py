"""What splat files hold: Gaussians of one moment before activation, so that reading and writing
again changes no bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.film.splines import quaternions
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.spherical_harmonics import rotate_sh

LARGEST_LOG_SCALE = math.log(torch.finfo(torch.float32).max)
SMALLEST_SCALE = torch.finfo(torch.float32).tiny
# written for opacity 1: float32 activates it to exactly 1, and it is finite
LARGEST_LOGIT = 88.0


@dataclass(frozen=True)
class SplatTable:
    """n Gaussians in OpenCV axes (y points down in most files), fields as standard PLY files keep
    them.
    """

    means: Float[Tensor, "n 3"]
    """Centres."""
    quats: Float[Tensor, "n 4"]
    """Rotations, wxyz, of any length."""
    log_scales: Float[Tensor, "n 3"]
    """Natural logarithm of the standard deviations; -inf: 0."""
    logits: Float[Tensor, " n"]
    """Opacity is their sigmoid; ±inf: 0 and 1."""
    sh: Float[Tensor, "n k 3"]
    """Spherical harmonics as in ``Gaussians3D``."""
    antialiased: bool = False
    """Trained with splats dimmed where they are widened (``Projection.antialiased``); PLY and
    .splat cannot say.
    """

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: slice | Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "SplatTable":
        """Those chosen by a slice, indices or a mask."""
        tensors = (
            t[index] for t in (self.means, self.quats, self.log_scales, self.logits, self.sh)
        )
        return SplatTable(*tensors, antialiased=self.antialiased)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.sh.shape[1]) - 1

    @staticmethod
    def of(
        means: Float[Tensor, "n 3"],
        quats: Float[Tensor, "n 4"],
        scales: Float[Tensor, "n 3"],
        opacities: Float[Tensor, " n"],
        sh: Float[Tensor, "n k 3"],
        antialiased: bool = False,
    ) -> "SplatTable":
        """From activated values. Scales of 0 and opacities of 0 and 1 get the nearest finite
        numbers.
        """
        log_scales = scales.clamp_min(SMALLEST_SCALE).double().log().float()
        logits = torch.logit(opacities.double()).clamp(-LARGEST_LOGIT, LARGEST_LOGIT).float()
        return SplatTable(means, quats, log_scales, logits, sh, antialiased)

    def gaussians(self) -> Gaussians4D:
        """Activated: Gaussians that are there at all times."""
        return Gaussians4D.static(
            self.means, self.quats, self.log_scales.exp(), torch.sigmoid(self.logits), self.sh
        )

    def rotated(self, rotation: Float[Tensor, "3 3"]) -> "SplatTable":
        """The same Gaussians where p has become ``rotation`` p; the identity changes no bit."""
        if torch.equal(rotation, torch.eye(3).to(rotation)):
            return self
        return SplatTable(
            self.means @ rotation.T.to(self.means),
            turned(self.quats, rotation),
            self.log_scales,
            self.logits,
            rotate_sh(self.sh, rotation),
            self.antialiased,
        )

    def invalid(self) -> Bool[Tensor, " n"]:
        """Which hold a value that no Gaussian can have: NaN, or infinite other than opacity 0 or 1
        and scale 0.
        """
        return torch.stack(list(self._faults().values())).any(0)

    def check(self, where: str) -> "SplatTable":
        """Itself; ``InputError`` naming the first field with invalid values."""
        for name, bad in self._faults().items():
            if bool(bad.any()):
                raise InputError(
                    f"{where}: {name} is NaN or infinite for {int(bad.sum())} of "
                    f"{len(self)} Gaussians, first number "
                    f"{int(bad.nonzero()[0])}; `fsm export {where} -o CLEAN.ply "
                    "--drop-invalid` leaves them out."
                )
        return self

    def _faults(self) -> dict[str, Tensor]:
        return {
            "position": ~torch.isfinite(self.means).all(-1),
            "rotation": ~torch.isfinite(self.quats).all(-1),
            "scale": ~(self.log_scales < LARGEST_LOG_SCALE).all(-1),
            "opacity": torch.isnan(self.logits),
            "colour": ~torch.isfinite(self.sh).flatten(1).all(-1),
        }


def turned(quats: Float[Tensor, "n 4"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "n 4"]:
    """Quaternions (wxyz, lengths kept) followed by a rotation matrix."""
    a, b, c, d = quaternions(rotation.double()).to(quats).unbind(-1)
    w, x, y, z = quats.unbind(-1)
    product = (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )
    return torch.stack(product, dim=-1)


def up_rotation(up: str) -> Float[Tensor, "3 3"]:
    """Rotation that brings the up of OpenCV axes (-y) to the axis ``up``: x, y, z, -x, -y or -z.

    ``y`` is the half turn about x that takes OpenCV axes to OpenGL's; ``-y`` changes nothing.
    """
    rows: dict[str, Sequence[Sequence[float]]] = {
        "-y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        "y": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
        "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
        "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
        "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
        "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    }
    if up not in rows:
        raise InputError(f"up is {up!r}; choose one of {', '.join(rows)}.")
    return torch.tensor(rows[up], dtype=torch.float32)
