"""Gaussians in space and time: what the Gaussian decoder predicts, what files hold, what
rasterisers draw.

Three forms of one scene, each a value:

* ``Gaussians4D``: free parameters. A 4x4 rotation from two quaternions, four scales, a centre in
  space and in time.
* ``MovingGaussians``: the same as time passes. Conditioning a 4D Gaussian on time gives a centre
  that moves at constant velocity, a covariance that does not change, and a weight that is a
  Gaussian of time (4D-GS, arXiv 2310.10642, Eq. 4-5).
* ``Gaussians3D``: those of one moment.

Axes of the 4x4 rotation are (x, y, z, t). A vector is the quaternion t + xi + yj + zk and is
rotated as  left · v · conj(right): with left = right this is the ordinary rotation of space and
time stays what it is. Quaternions are wxyz and need not be unit.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.gaussians.spherical_harmonics import SH_C0, rotate_sh

LONGEST, SHORTEST = (
    1e6,
    1e-9,
)  # temporal scales are held between, so that "always" (infinity) and 0 have finite arithmetic
LEAST_VARIANCE, LEAST_NORM = 1e-30, 1e-24  # of time; of a quaternion, squared
MIN_WEIGHT = 0.05  # Gaussians whose temporal weight is below are not there (FSM, released setting)


class _Fields:
    """Selection and moving over the first axis of every tensor field."""

    def _mapped(self, fn):
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        return dataclasses.replace(self, **{k: fn(t) for k, t in fields.items()})  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return self.means.shape[0]  # pyright: ignore[reportAttributeAccessIssue]

    def __getitem__(self, index: slice | Int[Tensor, " m"] | Bool[Tensor, " n"]):
        """Those chosen by a slice, indices or a mask."""
        return self._mapped(lambda t: t[index])

    def to(self, device: torch.device | str):
        """All tensors on ``device``."""
        return self._mapped(lambda t: t.to(device))

    def detach(self):
        """The same values without a graph."""
        return self._mapped(lambda t: t.detach())

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.sh.shape[1]) - 1  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Gaussians3D(_Fields):
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
class MovingGaussians(_Fields):
    """n Gaussians as time passes: ``at`` is a shift and a weight."""

    means: Float[Tensor, "n 3"]
    """Centres at ``times``."""
    velocities: Float[Tensor, "n 3"]
    """Change of the centre per unit of time."""
    times: Float[Tensor, " n"]
    """When each is fully there."""
    time_variances: Float[Tensor, " n"]
    """Squared standard deviation of the weight over time."""
    covariances: Float[Tensor, "n 6"]
    """Spatial covariance given the time: xx, xy, xz, yy, yz, zz."""
    opacities: Float[Tensor, " n"]
    """At ``times``."""
    sh: Float[Tensor, "n k 3"]
    """As in ``Gaussians3D``."""

    def weights(self, time: float | Float[Tensor, ""]) -> Float[Tensor, " n"]:
        """How much each is there at ``time``, in [0, 1]."""
        return torch.exp(-0.5 * (time - self.times).square() / self.time_variances)

    def at(self, time: float | Float[Tensor, ""], min_weight: float = MIN_WEIGHT) -> Gaussians3D:
        """Those there at ``time``: temporal weight at least ``min_weight`` (0 keeps all n).
        Differentiable.
        """
        if _compiled(self) and not _needs_graph(self, time):
            from fsm.renderers.gaussians.gaussians4d_cpu import moving_at

            return moving_at(self, float(time), min_weight)
        return plain_at(self, time, min_weight)


@dataclass(frozen=True)
class Gaussians4D(_Fields):
    """n Gaussians in space and time by their free parameters."""

    means: Float[Tensor, "n 3"]
    """Spatial centres."""
    times: Float[Tensor, " n"]
    """Temporal centres."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the first three rotated axes, above 0."""
    time_scales: Float[Tensor, " n"]
    """Standard deviation along the rotated time axis. Infinite: there at all times. 0: at its
    instant only. The sign is ignored.
    """
    left: Float[Tensor, "n 4"]
    """Left quaternion of the rotation, wxyz."""
    right: Float[Tensor, "n 4"]
    """Right quaternion of the rotation, wxyz; equal to ``left`` where nothing moves."""
    opacities: Float[Tensor, " n"]
    """In [0, 1]."""
    sh: Float[Tensor, "n k 3"]
    """As in ``Gaussians3D``."""

    @staticmethod
    def static(
        means: Float[Tensor, "n 3"],
        quats: Float[Tensor, "n 4"],
        scales: Float[Tensor, "n 3"],
        opacities: Float[Tensor, " n"],
        sh: Float[Tensor, "n k 3"],
    ) -> "Gaussians4D":
        """Ordinary 3D Gaussians, there at all times."""
        always = torch.full_like(opacities, math.inf)
        return Gaussians4D(
            means, torch.zeros_like(opacities), scales, always, quats, quats, opacities, sh
        )

    @staticmethod
    def cat(parts: "list[Gaussians4D]") -> "Gaussians4D":
        """Join; all parts must have the same degree of spherical harmonics."""
        return Gaussians4D(
            *(
                torch.cat([getattr(p, f.name) for p in parts])
                for f in dataclasses.fields(Gaussians4D)
            )
        )

    @property
    def is_static(self) -> Bool[Tensor, " n"]:
        """Which are plain 3D Gaussians, there at all times."""
        return torch.isinf(self.time_scales) & (self.left == self.right).all(-1)

    @full_precision
    def condition(self) -> MovingGaussians:
        """Centre, velocity, covariance and weight as functions of time. Differentiable.

        Float32 on the CPU is computed by compiled code, all else by ``plain_condition``.
        """
        if _compiled(self):
            from fsm.renderers.gaussians.gaussians4d_cpu import condition

            return condition(self)
        return plain_condition(self)

    def at(self, time: float | Float[Tensor, ""], min_weight: float = MIN_WEIGHT) -> Gaussians3D:
        """Those there at ``time``; see ``MovingGaussians.at``. Condition once and keep the result
        to ask for many times.
        """
        if _compiled(self) and not _needs_graph(self, time):
            from fsm.renderers.gaussians.gaussians4d_cpu import free_at

            return free_at(self, float(time), min_weight)
        return self.condition().at(time, min_weight)


def plain_condition(g: Gaussians4D) -> MovingGaussians:
    """``Gaussians4D.condition`` in torch.

    The conditional covariance is Σxx - Σxt Σtx / Σtt. Written out as sums over pairs of axes
    (Cauchy-Binet) it has no
    difference left: with rows L of the scaled rotation,  Σ|t = Σ_{k<l} w w^T / Σtt,  w = L_xk
    L_tl - L_xl L_tk. The plain formula loses all digits for thin Gaussians that move fast.
    """
    lasting = g.time_scales.abs().clamp(SHORTEST, LONGEST)
    scales = torch.cat([g.scales, lasting[:, None]], dim=-1)
    rotation = rotation_4d(g.left, g.right)
    scaled = rotation * scales[:, None]  # [n 4 4], rows x y z t
    space, time = scaled[:, :3], scaled[:, 3]
    safe = time.square().sum(-1).clamp_min(LEAST_VARIANCE)
    velocities = (space * time[:, None]).sum(-1) / safe[:, None]
    k, l = torch.triu_indices(4, 4, 1, device=scales.device).unbind(0)
    # Scales are taken out of the minors and divided first: their product overflows where a time
    # scale is "always".
    minors = rotation[:, :3, k] * rotation[:, 3:, l] - rotation[:, :3, l] * rotation[:, 3:, k]
    w = minors * (scales[:, k] * (scales[:, l] / safe.sqrt()[:, None]))[:, None]
    x, y, z = w.unbind(1)
    covariances = torch.stack(
        [(a * b).sum(-1) for a, b in ((x, x), (x, y), (x, z), (y, y), (y, z), (z, z))], -1
    )
    return MovingGaussians(g.means, velocities, g.times, safe, covariances, g.opacities, g.sh)


def plain_at(g: MovingGaussians, time: float | Float[Tensor, ""], min_weight: float) -> Gaussians3D:
    """``MovingGaussians.at`` in torch, differentiable."""
    dt, weight = time - g.times, g.weights(time)
    there = g
    if min_weight > 0.0:
        index = (weight >= min_weight).nonzero()[:, 0]  # NaN is not there
        there, dt, weight = g[index], dt[index], weight[index]
    means = there.means + there.velocities * dt[:, None]
    return Gaussians3D(means, there.covariances, there.opacities * weight, there.sh)


def _tensors(gaussians: MovingGaussians | Gaussians4D) -> list[Tensor]:
    return [getattr(gaussians, f.name) for f in dataclasses.fields(gaussians)]


def _compiled(gaussians: MovingGaussians | Gaussians4D) -> bool:
    """Whether compiled code does the work."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in _tensors(gaussians))


def _needs_graph(gaussians: MovingGaussians | Gaussians4D, time: float | Tensor) -> bool:
    """Whether a gradient may be asked for."""
    return torch.is_grad_enabled() and any(
        torch.is_tensor(t) and t.requires_grad for t in [*_tensors(gaussians), time]
    )


def rotation_4d(left: Float[Tensor, "n 4"], right: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4 4"]:
    """Matrix of v -> left · v · conj(right) on axes (x, y, z, t), both quaternions normalised (zero
    ones count as identity).
    """
    a, b, c, d = _unit_quaternion(left).unbind(-1)
    p, q, r, s = _unit_quaternion(right).unbind(-1)
    multiply_left = [[a, -d, c, b], [d, a, -b, c], [-c, b, a, d]]
    multiply_right = [[p, -s, r], [s, p, -q], [-r, q, p], [q, r, s]]
    lhs, rhs = (
        torch.stack([torch.stack(row, -1) for row in m], -2)
        for m in (multiply_left, multiply_right)
    )
    # What mixes space and time, in differences that are exactly zero where the quaternions are
    # equal, however sums are ordered.
    odd = torch.stack([a * q - b * p, a * r - c * p, a * s - d * p], -1)
    even = torch.stack([d * r - c * s, b * s - d * q, c * q - b * r], -1)
    space = torch.cat([lhs @ rhs, (even - odd)[..., None]], -1)
    time = torch.cat([even + odd, (a * p + b * q + c * r + d * s)[..., None]], -1)
    return torch.cat([space, time[..., None, :]], -2)


def rotation_3d(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of wxyz quaternions (normalised here; zero ones count as identity)."""
    return rotation_4d(quats, quats)[:, :3, :3]


def covariance_matrix(upper: Float[Tensor, "n 6"]) -> Float[Tensor, "n 3 3"]:
    """Full symmetric matrices from upper triangles."""
    return upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].view(-1, 3, 3)


def upper_triangle(matrix: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 6"]:
    """Inverse of ``covariance_matrix``."""
    return matrix.flatten(1)[:, [0, 1, 2, 4, 5, 8]]


def colour_to_sh(rgb: Float[Tensor, "n 3"]) -> Float[Tensor, "n 1 3"]:
    """The degree-0 coefficients that look like sRGB ``rgb`` from everywhere."""
    return ((rgb - 0.5) / SH_C0)[:, None]


def check_finite(gaussians: Gaussians4D, where: str) -> None:
    """Raise ``InputError`` naming the first field that holds NaN or (time scales excepted) infinite
    values.
    """
    for field in dataclasses.fields(gaussians):
        values = getattr(gaussians, field.name)
        bad = ~torch.isfinite(values) if field.name != "time_scales" else torch.isnan(values)
        if bool(bad.any()):
            raise InputError(
                f"{where}: {int(bad.sum())} values of {field.name} are NaN or infinite; "
                "drop those Gaussians."
            )


def _unit_quaternion(q: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    norm = q.square().sum(-1, keepdim=True)
    usable = norm > LEAST_NORM
    identity = torch.zeros_like(q)
    identity[:, 0] = 1.0
    return torch.where(
        usable, q / torch.where(usable, norm, torch.ones_like(norm)).sqrt(), identity
    )
