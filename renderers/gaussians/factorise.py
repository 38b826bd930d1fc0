"""Covariances back to rotations and scales, which is how splat files keep them.

A covariance has many factorisations: axes can be permuted and mirrored, and equal scales leave them
free to turn. Files that follow each other in time must all take the same one, or viewers that blend
between them show flicker. Hence one canonical choice.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.motion.quaternions import of_matrices

# eigenvalues closer than this share of the largest differ by no more than rounding in float32
EQUAL = 2.0**-22
# of the largest scale; float32 covariances say nothing about thinner ones
THINNEST = 1e-6
# Scales are above 0, because files keep their logarithm.
SMALLEST = 1e-20
# The axes' signs are chosen for the largest w; the other weights see to it that right angles and
# diagonals are no ties.
PREFERENCE = (1.0, 0.0331, 0.0197, 0.0113)
# Directions that fix a turn which the covariance leaves free; the second where the first lies along
# the axis of that turn.
ANCHORS = ((0.5291, 0.6173, 0.5822), (-0.6429, 0.7211, -0.2584))


def rotations_and_scales(
    covariances: Float[Tensor, "n 6"],
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 3"]]:
    """Unit quaternions (wxyz, w >= 0) and standard deviations (largest first, above 0) of
    covariances xx, xy, xz, yy, yz, zz.

    Depends on each covariance alone: the same covariance gives the same bits, one changed by
    rounding the same to rounding, but for isolated cases (eigenvalues that differ by just about
    ``EQUAL``, rotations half way between two choices of signs). Eigenvalues that rounding made
    negative count as the thinnest. Not finite covariances are an ``InputError``. No gradient.
    """
    bad = ~torch.isfinite(covariances).all(-1)
    if bool(bad.any()):
        raise InputError(
            f"{int(bad.sum())} covariances are NaN or infinite; drop those Gaussians "
            "before factorising."
        )
    values, axes = torch.linalg.eigh(covariance_matrix(covariances.detach().double()))
    values, axes = _settled(values.flip(-1), axes.flip(-1))
    axes = torch.cat(
        [axes[..., :2], axes[..., 2:] * torch.linalg.det(axes).sign()[:, None, None]], dim=-1
    )
    scales = values.clamp_min(0.0).sqrt()
    scales = torch.maximum(scales, THINNEST * scales[:, :1]).clamp_min(SMALLEST)
    return _upright(of_matrices(axes)).to(covariances), scales.to(covariances)


def _settled(values: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Where eigenvalues are equal to rounding: their mean, and axes that depend on what the
    covariance does determine.
    """
    room = EQUAL * values[:, :1].abs()
    first, last = ((values[:, i] - values[:, i + 1]).unsqueeze(-1) <= room for i in (0, 1))
    free = (values[:, :1] - values[:, 2:]) <= room
    # around the shortest axis, around the longest
    u, v = (_frame(axes[..., i]) for i in (2, 0))
    disc = torch.stack([*u, axes[..., 2]], dim=-1)
    needle = torch.stack([axes[..., 0], *v], dim=-1)
    axes = torch.where(first[..., None], disc, torch.where(last[..., None], needle, axes))
    axes = torch.where(free[..., None], torch.eye(3).to(axes), axes)
    a, b, c = values.unbind(-1)
    both, tail = (
        torch.stack([(a + b) / 2, (a + b) / 2, c], -1),
        torch.stack([a, (b + c) / 2, (b + c) / 2], -1),
    )
    values = torch.where(first, both, torch.where(last, tail, values))
    return torch.where(free, values.mean(-1, keepdim=True), values), axes


def _frame(axis: Tensor) -> tuple[Tensor, Tensor]:
    """Two directions square to ``axis`` and each other; they do not depend on its sign beyond their
    own.
    """
    one, other = (axis.new_tensor(a).expand_as(axis) for a in ANCHORS)
    along = (one / one.norm(dim=-1, keepdim=True) * axis).sum(-1, keepdim=True).abs() > 0.9
    anchor = torch.where(along, other, one)
    u = anchor - (anchor * axis).sum(-1, keepdim=True) * axis
    u = u / u.norm(dim=-1, keepdim=True)
    return u, torch.linalg.cross(axis, u)


def _upright(q: Tensor) -> Tensor:
    """The one of q, qi, qj, qk (two axes mirrored) that turns least, with w >= 0."""
    w, x, y, z = q.unbind(-1)
    options = [
        torch.stack(o, -1) for o in ((w, x, y, z), (-x, w, z, -y), (-y, -z, w, x), (-z, y, -x, w))
    ]
    options = torch.stack(options, 1)
    options = options * torch.where(options[..., :1] < 0, -1.0, 1.0)
    best = (options @ q.new_tensor(PREFERENCE)).argmax(-1)
    return options[torch.arange(len(best), device=best.device), best]
