"""A few rigid motions that explain tracks of points.

Poses are fitted to neighbouring tracks (Procrustes by SVD), at first from moment to moment, then in
turn with the shape of the group, and smoothed over time. The largest set of tracks that follows one
such motion is a group (RANSAC). The next one is sought among the rest.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.motion.quaternions import matrices, of_matrices
from fsm.renderers.motion.tracks import PointTracks
from fsm.renderers.motion.trajectories import Trajectories

PRIOR = 1e-6  # weight of the earlier rotation where points leave one open
ROUNDS = 4
CHUNK = 4096


@dataclass(frozen=True)
class RigidConfig:
    """How tracks are grouped."""

    most: int = 8
    """Groups at most."""
    least: int = 8
    """Tracks that a group has at least."""
    tolerance: float = 0.01
    """Error of a point's place under its group's motion, as a share of its distance from the
    camera.
    """
    trials: int = 64
    """Motions tried for each group."""
    neighbours: int = 8
    """Tracks that a tried motion is fitted to."""
    smoothness: float = 0.01
    """Weight of squared second differences beside squared residuals of a pose."""
    seed: int = 0
    """Of the tracks that motions are tried on."""

    def __post_init__(self) -> None:
        counts = (self.most, self.least, self.trials, self.neighbours)
        if min(counts) < 1 or self.neighbours < 3 or self.least < 3:
            raise InputError(
                f"rigid motions: most, least, trials and neighbours are {counts}; choose positive "
                "numbers, at least 3 tracks and neighbours."
            )
        if not (self.tolerance > 0 and self.smoothness >= 0):
            raise InputError(
                "rigid motions: tolerance must be above 0 and smoothness not below it; change them."
            )


@dataclass(frozen=True)
class RigidMotions:
    """g rigid motions and the tracks that follow them."""

    trajectories: Trajectories
    """Knots at the tracks' moments."""
    group: Int[Tensor, " n"]
    """Motion of each track; -1 where none fits."""
    shape: Float[Tensor, "n 3"]
    """Where each track's point is before its motion is applied; 0 where ``group`` is -1."""

    def shares(
        self, points: Float[Tensor, "m 3"], times: Float[Tensor, " m"], blend: float
    ) -> Float[Tensor, "m g"]:
        """Shares of the motions in points given at their own times: by the distance to the nearest
        point of each group, which fall off over ``blend``.
        """
        quats, shifts = self.trajectories.poses(times)
        local = (matrices(quats).mT @ (points[:, None] - shifts)[..., None])[..., 0]
        away = []
        for g in range(len(self.trajectories)):
            own = self.shape[self.group == g]
            away.append(torch.cat([torch.cdist(c, own).amin(-1) for c in local[:, g].split(CHUNK)]))
        return torch.softmax(-(torch.stack(away, -1) / blend).square(), -1)


@torch.no_grad()
def rigid_motions(tracks: PointTracks, config: RigidConfig | None = None) -> RigidMotions | None:
    """Rigid motions of ``tracks``; None where nothing moves or too few tracks agree on a motion."""
    config = RigidConfig() if config is None else config
    points, seen = tracks.points.double(), tracks.seen & tracks.points.isfinite().all(-1)
    points = torch.where(seen[..., None], points, torch.zeros_like(points))
    allowed = config.tolerance * tracks.distances.double()
    free = (_extent(points, seen) > allowed) & (seen.sum(0) >= 2)
    generator = torch.Generator().manual_seed(config.seed)
    groups: list[Tensor] = []
    while len(groups) < config.most and int(free.sum()) >= config.least:
        found = _largest(points, seen, free, allowed, config, tracks.times, generator)
        if int(found.sum()) < config.least:
            break
        groups.append(found)
        free &= ~found
    if not groups:
        return None
    fits = [_fit(points, seen, members, config, tracks.times) for members in groups]
    off = torch.stack([_misfit(points, seen, *fit) for fit in fits])
    # points that rest follow none, though a motion may pass by
    off[:, ~(torch.stack(groups).any(0) | free)] = torch.inf
    nearest = torch.where(off.amin(0) <= allowed, off.argmin(0), -1)
    kept = [g for g in range(len(groups)) if int((nearest == g).sum()) >= config.least]
    if not kept:
        return None
    off = off[kept]
    group = torch.where(off.amin(0) <= allowed, off.argmin(0), -1)
    fits = [_fit(points, seen, group == g, config, tracks.times) for g in range(len(kept))]
    shape = torch.zeros_like(points[0])
    for g, fit in enumerate(fits):
        shape[group == g] = _shape(points, seen, *fit)[group == g]
    return _result(fits, group, shape, tracks)


Poses = tuple[Tensor, Tensor]
"""Rotations [k 3 3] and translations [k 3]."""


def _result(fits: list[Poses], group: Tensor, shape: Tensor, tracks: PointTracks) -> RigidMotions:
    """The motions about the centres of their groups."""
    centres = torch.stack([shape[group == g].mean(0) for g in range(len(fits))])
    quats = torch.stack([of_matrices(rotation) for rotation, _ in fits], 1)
    moved = [t + r @ c - c for (r, t), c in zip(fits, centres, strict=True)]
    to = tracks.points
    trajectories = Trajectories(
        tracks.times, quats.to(to), torch.stack(moved, 1).to(to), centres.to(to)
    )
    return RigidMotions(trajectories, group.to(to.device), shape.to(to))


def _extent(points: Float[Tensor, "k n 3"], seen: Bool[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """Diagonal of the box that holds what is seen of each track."""
    if len(points) == 0:
        return points.new_zeros(points.shape[1])
    hidden = ~seen[..., None]
    box = points.masked_fill(hidden, -torch.inf).amax(0)
    box = box - points.masked_fill(hidden, torch.inf).amin(0)
    return torch.where(seen.any(0), box.norm(dim=-1), 0.0)


def _procrustes(
    a: Float[Tensor, "*b n 3"],
    b: Float[Tensor, "*b n 3"],
    weight: Float[Tensor, "*b n"],
    prior: Float[Tensor, "*b 3 3"],
) -> Poses:
    """Rotation and translation that lead ``a`` to ``b``, [*b 3 3] and [*b 3]; where points leave
    the rotation open it is ``prior``.
    """
    total = weight.sum(-1, keepdim=True).clamp_min(1e-12)
    from_, to = ((weight[..., None] * p).sum(-2) / total for p in (a, b))
    cross = ((b - to[..., None, :]) * weight[..., None]).mT @ (a - from_[..., None, :])
    spread = ((a - from_[..., None, :]).square().sum(-1) * weight).sum(-1)
    cross = cross + (PRIOR * spread + 1e-12)[..., None, None] * prior
    u, _, vh = torch.linalg.svd(cross)
    sign = torch.ones_like(cross[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation = (u * sign[..., None, :]) @ vh
    return rotation, to - (rotation @ from_[..., None])[..., 0]


def _steps(points: Tensor, seen: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations and translations from each moment to the next by the tracks ``index``, and which
    are known: by three tracks at least.
    """
    both = seen[:-1, index] & seen[1:, index]
    eye = torch.eye(3).to(points).expand(len(both), 3, 3)
    turn, shift = _procrustes(points[:-1, index], points[1:, index], both.to(points), eye)
    return turn, shift, both.sum(-1) >= 3


def _largest(
    points: Tensor,
    seen: Tensor,
    free: Tensor,
    allowed: Tensor,
    config: RigidConfig,
    times: Tensor,
    generator: torch.Generator,
) -> Bool[Tensor, " n"]:
    """The largest set of ``free`` tracks that follows the motion of some neighbouring ones."""
    there = free.nonzero()[:, 0]
    p, s = points[:, there], seen[:, there]

    def agree(inside: Tensor) -> Tensor:
        judged = s & (s[:, inside].sum(-1) >= 3)[:, None]
        off = _misfit(p, judged, *_fit(p, s, inside, config, times))
        return (judged.sum(0) >= 2) & (off <= allowed[there])

    best, most = torch.zeros_like(there, dtype=torch.bool), 0
    for seed in torch.randperm(len(there), generator=generator)[: config.trials].tolist():
        common = s & s[:, seed, None]
        apart = ((p - p[:, seed, None]).norm(dim=-1) * common).sum(0) / common.sum(0).clamp_min(1)
        apart = torch.where(common.sum(0) >= 2, apart, torch.inf)
        near = apart.topk(min(config.neighbours, len(there)), largest=False)
        inside = torch.zeros_like(best)
        inside[near.indices[near.values.isfinite()]] = True
        inside = agree(inside)
        if int(inside.sum()) > most:
            best, most = inside, int(inside.sum())
    # tracks beyond the moments known so far are judged once these are known
    for _ in range(ROUNDS):
        grown = agree(best)
        if int(grown.sum()) <= most:
            break
        best, most = grown, int(grown.sum())
    found = torch.zeros_like(free)
    found[there[best]] = True
    return found


def _fit(
    points: Tensor, seen: Tensor, members: Tensor, config: RigidConfig, times: Tensor
) -> Poses:
    """Poses of a group at all moments: of a shape that is the mean of what is seen."""
    turns, shifts, known = _steps(points, seen, members.nonzero()[:, 0])
    rotation = torch.eye(3).to(points).repeat(len(points), 1, 1)
    translation = points.new_zeros(len(points), 3)
    for j in range(len(turns)):
        turn, shift = (turns[j], shifts[j]) if known[j] else (torch.eye(3).to(points), 0.0)
        rotation[j + 1], translation[j + 1] = turn @ rotation[j], turn @ translation[j] + shift
    p, s = points[:, members], seen[:, members]
    for _ in range(ROUNDS):
        shape = _shape(p, s, rotation, translation).expand_as(p)
        fitted = _procrustes(shape, p, s.to(p), rotation)
        known = s.sum(-1) >= 3
        rotation = torch.where(known[:, None, None], fitted[0], rotation)
        translation = torch.where(known[:, None], fitted[1], translation)
    known = s.sum(-1) >= 3
    if not bool(known.any()):
        return rotation, translation
    # a moment that shows too few takes the pose of the nearest one that does not
    gap = (times[:, None] - times[None, known]).abs()
    nearest = known.nonzero()[:, 0][gap.argmin(-1)]
    rotation, translation = rotation[nearest], translation[nearest]
    centre = _shape(p, s, rotation, translation).mean(0)
    quats = of_matrices(rotation)
    signs = torch.ones_like(quats[:, :1])
    signs[1:] = torch.where((quats[1:] * quats[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    path = torch.cat([quats * signs.cumprod(0), translation + rotation @ centre], -1)
    path = _smoothed(path, times.double(), torch.where(known, 1.0, 1e-3).to(path), config)
    rotation = matrices(path[:, :4] / path[:, :4].norm(dim=-1, keepdim=True))
    return rotation, path[:, 4:] - rotation @ centre


def _shape(points: Tensor, seen: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Where each track's point was before the poses, [n 3]: the mean over what is seen."""
    local = (points - translation[:, None]) @ rotation
    return (local * seen[..., None]).sum(0) / seen.sum(0).clamp_min(1)[:, None]


def _misfit(points: Tensor, seen: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    """Root mean square distance of each track from a rigid shape under the poses, [n]."""
    shape = _shape(points, seen, rotation, translation)
    off = shape @ rotation.mT + translation[:, None] - points
    squares = (off.square().sum(-1) * seen).sum(0) / seen.sum(0).clamp_min(1)
    return squares.sqrt()


def _smoothed(path: Tensor, times: Tensor, weight: Tensor, config: RigidConfig) -> Tensor:
    """The path [k c] near ``path`` whose slope changes little from moment to moment."""
    k = len(path)
    if k < 3 or config.smoothness == 0:
        return path
    gap = times.diff() / times.diff().mean()
    row = torch.arange(k - 2)
    bend = path.new_zeros(k - 2, k)
    bend[row, row], bend[row, row + 2] = 1.0 / gap[:-1], 1.0 / gap[1:]
    bend[row, row + 1] = -1.0 / gap[:-1] - 1.0 / gap[1:]
    system = weight.diag() + config.smoothness * bend.T @ bend
    return torch.linalg.solve(system, weight[:, None] * path)
