"""Gaussians as one camera sees them: centres, ellipses, depths and colours in pixels. Plain torch,
differentiable.

EWA splatting (Zwicker 2001) with the rules of gsplat 1.5, so that all rasterisers draw the same
splats: the Jacobian of the projection is taken at a point held to 1.3 times the field of view, the
ellipse is widened by ``blur`` px² (0.3), what lies nearer than ``near`` is not drawn, alpha below
1/255 counts as nothing.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.gaussians.gaussians4d import Gaussians3D
from fsm.renderers.gaussians.spherical_harmonics import SH_C0, basis
from fsm.views import Views

LEAST_ALPHA = 1.0 / 255.0
# the Jacobian is taken at most this share of the half field of view outside the picture
GUARD = 0.3
MOST_ALPHA = 0.999
LAST_TRANSMITTANCE = 1e-4  # a pixel is finished before its transmittance falls to this
# squared standard deviations added to every splat's box: room for the rounding of those who draw it
SLACK = 2e-3


@dataclass(frozen=True)
class Projection:
    """How Gaussians are projected; the defaults are gsplat's."""

    near: float = 0.01
    """Smallest z-depth drawn, in the Gaussians' unit of length."""
    far: float = 1e10
    """Largest z-depth drawn."""
    blur: float = 0.3
    """Variance in px² added to every ellipse: no splat is thinner than a pixel."""
    antialiased: bool = False
    """Dim widened splats so that they keep their total (Mip-Splatting, arXiv 2311.16493)."""
    radius_clip: float = 0.0
    """Splats whose larger radius is at most this many pixels are not drawn."""


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


@full_precision
def project_gaussians(
    gaussians: Gaussians3D, camera: Views, projection: Projection = GSPLAT
) -> Splats:
    """Splats of ``gaussians`` in the one view ``camera`` [1], both in the same space.

    Not finite and degenerate Gaussians are counted in ``Splats.dropped`` and get no gradient; those
    outside the picture or nearer than ``near`` are left out silently.
    """
    c2w, k = camera.c2w[0], camera.intrinsics[0]
    usable, dropped = usable_gaussians(gaussians)
    g = gaussians[usable]
    rotation = c2w[:3, :3].T
    local = (g.means - c2w[:3, 3]) @ rotation.T
    ahead = ((local[:, 2] >= projection.near) & (local[:, 2] <= projection.far)).nonzero()[:, 0]
    g, local = g[ahead], local[ahead]
    x, y, z = local.unbind(-1)
    xx, xy, yy = _ellipses(g.covariances, local, rotation, k, camera.hw)
    plain = (xx * yy - xy * xy).clamp_min(0.0)
    # that of the widened ellipse, never below it
    determinant = plain + projection.blur * (xx + yy + projection.blur)
    xx, yy = xx + projection.blur, yy + projection.blur
    opacities = g.opacities
    if projection.antialiased:
        opacities = opacities * (plain / determinant).clamp_min(1e-12).sqrt().to(x)
    centres = torch.stack([x / z * k[0] + k[2], y / z * k[1] + k[3]], dim=-1)
    radii = (
        _reach(opacities.detach())[:, None] * torch.stack([xx, yy], dim=-1).detach().sqrt()
    ).to(x)
    sound = torch.isfinite(radii).all(-1) & torch.isfinite(centres).all(-1) & (determinant > 0)
    shown = (
        sound & _in_picture(centres, radii, camera.hw) & (radii.amax(-1) > projection.radius_clip)
    )
    shown = shown.nonzero()[:, 0]
    determinant = determinant[shown]
    conics = (torch.stack([yy[shown], -xy[shown], xx[shown]], dim=-1) / determinant[:, None]).to(x)
    colours = colours_from_sh(g.sh[shown], g.means[shown] - c2w[:3, 3])
    return Splats(
        centres[shown],
        conics,
        z[shown],
        opacities[shown],
        colours,
        radii[shown],
        dropped + int((~sound).sum()),
    )


def usable_gaussians(g: Gaussians3D) -> tuple[Int[Tensor, " m"], int]:
    """Indices of Gaussians with finite values and a covariance that is one, and the number of all
    others.
    """
    finite = (
        torch.isfinite(g.means).all(-1)
        & torch.isfinite(g.covariances).all(-1)
        & torch.isfinite(g.opacities)
    )
    finite &= torch.isfinite(g.sh).flatten(1).all(-1) & (g.covariances[:, [0, 3, 5]] >= 0).all(-1)
    index = finite.nonzero()[:, 0]
    return index, len(g) - len(index)


def _reach(opacities: Tensor) -> Tensor:
    """Standard deviations at which alpha has fallen to what counts as nothing; 0 where it does from
    the start.
    """
    within = (2.0 * torch.log((opacities / LEAST_ALPHA).clamp_min(1.0)) + SLACK).sqrt()
    return torch.where(opacities >= LEAST_ALPHA, within, torch.zeros_like(within))


def _ellipses(covariances: Tensor, local: Tensor, rotation: Tensor, k: Tensor, hw: tuple[int, int]):
    """Entries xx, xy, yy of the projected covariances in px², float64: needles are differences of
    large numbers.
    """
    fx, fy, cx, cy = k.unbind()
    x, y, z = local.unbind(-1)
    h, w = hw
    guard_x, guard_y = GUARD * 0.5 * w / fx.abs(), GUARD * 0.5 * h / fy.abs()
    low_x, high_x = torch.aminmax(torch.stack([-cx / fx, (w - cx) / fx]))
    low_y, high_y = torch.aminmax(torch.stack([-cy / fy, (h - cy) / fy]))
    tx = (x / z).clamp(low_x - guard_x, high_x + guard_x)
    ty = (y / z).clamp(low_y - guard_y, high_y + guard_y)
    # Rows of the Jacobian times the rotation: the two gradients of the pixel position over world
    # space.
    u = ((rotation[0] - tx[:, None] * rotation[2]) * (fx / z)[:, None]).double()
    v = ((rotation[1] - ty[:, None] * rotation[2]) * (fy / z)[:, None]).double()
    a, b, c, d, e, f = covariances.double().unbind(-1)

    def times(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, q, r = row.unbind(-1)
        return a * p + b * q + c * r, b * p + d * q + e * r, c * p + e * q + f * r

    def dot(row: Tensor, vector: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        p, q, r = row.unbind(-1)
        return p * vector[0] + q * vector[1] + r * vector[2]

    su, sv = times(u), times(v)
    return dot(u, su), dot(u, sv), dot(v, sv)


def _in_picture(centres: Tensor, radii: Tensor, hw: tuple[int, int]) -> Tensor:
    size = centres.new_tensor([hw[1], hw[0]])
    return ((centres + radii > 0) & (centres - radii < size) & (radii > 0)).all(-1)


def colours_from_sh(
    sh: Float[Tensor, "m k 3"], directions: Float[Tensor, "m 3"]
) -> Float[Tensor, "m 3"]:
    """sRGB of spherical harmonics seen along ``directions`` (camera to Gaussian, any length):
    max(0, 0.5 + Σ sh Y).
    """
    degree = math.isqrt(sh.shape[1]) - 1
    if degree == 0:
        return (0.5 + SH_C0 * sh[:, 0]).clamp_min(0.0)
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return (0.5 + (basis(unit, degree)[:, :, None] * sh).sum(1)).clamp_min(0.0)
