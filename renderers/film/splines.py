"""Smooth curves through timed poses: cubic Hermite splines for positions and for sign-aligned
quaternions.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hermite(
    knots: Float[Tensor, "k"], values: Float[Tensor, "k d"], at: Float[Tensor, "n"]
) -> Float[Tensor, "n d"]:
    """Curve with continuous velocity through ``values`` at strictly increasing ``knots``; held
    constant outside them.

    Catmull-Rom for uneven knots: the tangent at a knot is the secant between its two neighbours, so
    the overshoot stays bounded however uneven the knots are. Straight lines are reproduced exactly.
    """
    if len(knots) == 1:
        return values.expand(len(at), -1)
    step = knots.diff()[:, None]
    secant = values.diff(dim=0) / step
    inner = (values[2:] - values[:-2]) / (knots[2:] - knots[:-2])[:, None]
    tangent = torch.cat([secant[:1], inner, secant[-1:]])
    i, u, h = _locate(knots, at)
    start, end = values[i], values[i + 1]
    # weight of the start value; the end's is 1 - fall
    fall = (1 + 2 * u) * (1 - u) ** 2
    return (
        start * fall
        + end * (1 - fall)
        + h * u * (1 - u) * ((1 - u) * tangent[i] - u * tangent[i + 1])
    )


def linear(
    knots: Float[Tensor, "k"], values: Float[Tensor, "k d"], at: Float[Tensor, "n"]
) -> Float[Tensor, "n d"]:
    """Straight lines between ``values`` at strictly increasing ``knots``; held constant outside
    them.
    """
    if len(knots) == 1:
        return values.expand(len(at), -1)
    i, u, _ = _locate(knots, at)
    return values[i] * (1 - u) + values[i + 1] * u


def pose_spline(
    knots: Float[Tensor, "k"], c2w: Float[Tensor, "k 4 4"], at: Float[Tensor, "n"]
) -> Float[Tensor, "n 4 4"]:
    """Rigid poses along the smooth curve through ``c2w`` at ``knots``; computed and returned in
    float64.

    Rotations follow the same spline on unit quaternions of aligned sign, normalised: unlike slerp
    between neighbours, the angular velocity does not jump at the knots.
    """
    c2w = c2w.double()
    q = aligned(quaternions(c2w[:, :3, :3]))
    pose = torch.eye(4, dtype=torch.float64, device=c2w.device).repeat(len(at), 1, 1)
    pose[:, :3, :3] = rotations(F.normalize(hermite(knots.double(), q, at.double()), dim=-1))
    pose[:, :3, 3] = hermite(knots.double(), c2w[:, :3, 3], at.double())
    return pose


def aligned(q: Float[Tensor, "k 4"]) -> Float[Tensor, "k 4"]:
    """Flip signs so that each quaternion lies in the half space of its predecessor: the short way
    round.
    """
    flips = ((q[1:] * q[:-1]).sum(-1) < 0).cumsum(0) % 2 == 1
    return torch.cat([q[:1], torch.where(flips[:, None], -q[1:], q[1:])])


def quaternions(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Unit quaternions (w, x, y, z) of rotation matrices.

    The four candidates, each scaled by another component, are one quaternion; the best conditioned
    one is taken.
    """
    m = rotation
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    rows = [
        torch.stack([1 + xx + yy + zz, wx, wy, wz], dim=-1),
        torch.stack([wx, 1 + xx - yy - zz, xy, xz], dim=-1),
        torch.stack([wy, xy, 1 - xx + yy - zz, yz], dim=-1),
        torch.stack([wz, xz, yz, 1 - xx - yy + zz], dim=-1),
    ]
    candidates = torch.stack(rows, dim=-2)
    best = candidates.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    return F.normalize(chosen, dim=-1)


def rotations(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = q.unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _locate(knots: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interval index [n], position in it from 0 to 1 [n 1] and its length [n 1]; arguments held
    inside the knots.
    """
    at = at.clamp(knots[0], knots[-1])
    i = torch.searchsorted(knots, at, right=True).sub(1).clamp(0, len(knots) - 2)
    h = (knots[i + 1] - knots[i])[:, None]
    return i, (at - knots[i])[:, None] / h, h
