"""Rotations of space, and of space and time, from quaternions; covariances as upper triangles.

A vector (x, y, z, t) is the quaternion t + xi + yj + zk. Quaternions are wxyz and need not be unit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.gaussians.constants import LEAST_NORM


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


def _unit_quaternion(q: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    norm = q.square().sum(-1, keepdim=True)
    usable = norm > LEAST_NORM
    identity = torch.zeros_like(q)
    identity[:, 0] = 1.0
    return torch.where(
        usable, q / torch.where(usable, norm, torch.ones_like(norm)).sqrt(), identity
    )
