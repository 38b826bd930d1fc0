"""``projection.project_gaussians`` in torch: short, differentiable, any device and precision."""

import torch
from jaxtyping import Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.gaussians.constants import GUARD, LEAST_ALPHA, SLACK
from fsm.renderers.gaussians.spherical_harmonics import colours_from_sh
from fsm.renderers.gaussians.types import GSPLAT, Gaussians3D, Projection, Splats
from fsm.views import Views


@full_precision
def project_gaussians(
    gaussians: Gaussians3D, camera: Views, projection: Projection = GSPLAT
) -> Splats:
    """See ``projection.project_gaussians``."""
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
