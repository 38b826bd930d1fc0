"""What a scene folder holds: ``scene.json`` and ``gaussians.safetensors``.

Gaussians that are there at all times and still have no row in the fields of time: a bit says which
they are. In compact files another bit says which are balls that move or pass. Those have a size, a
velocity and a duration in place of four scales and two quaternions.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_folder, read_json, read_safetensors, write_json
from fsm.renderers.gaussians.balls import Balls
from fsm.renderers.gaussians.coding import deflated, described, inflated
from fsm.renderers.gaussians.follow import Follow
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, check_finite
from fsm.renderers.motion.quaternions import unit
from fsm.renderers.motion.trajectories import Trajectories

FORMAT = 3
FILE = "gaussians.safetensors"
OF_TIME = ("times", "time_scales", "right")
"""Fields without rows of Gaussians that are there at all times and still."""
STEPS = 32767
"""Unit quaternions of compact files are integers of this many steps."""
SMALLEST_SCALE = 1e-30
ROUND = 0.1
"""A covariance is that of a ball where its entries are this share of it off, at most."""
LASTING = 0.01
"""Largest square of the size of a ball over that of its duration."""
MOMENTS = 2**16
"""Steps of a unit of model time in compact files."""
COLOURS = 256
"""Steps of a unit of spherical harmonics in compact files."""
OPACITIES = 512
"""Steps of opacity in compact files."""
DROPPED = {torch.float32: 8, torch.float16: 2}
"""Bits of a centre and of the values of a ball that compact files leave out."""
BALLS = ("ball.sizes", "ball.velocities", "ball.durations")
FOLLOW = (
    "follow.times",
    "follow.quats",
    "follow.translations",
    "follow.centres",
    "follow.weights",
    "follow.index",
)


def write_scene(
    path: Path | str,
    gaussians: Gaussians4D,
    tensors: dict[str, Tensor],
    meta: dict[str, Any],
    *,
    compact: bool = False,
) -> None:
    """Write Gaussians, other ``tensors`` and a description to a folder, whole or not at all."""
    from safetensors.torch import save_file

    packed = _packed(gaussians.detach(), compact)
    if compact:
        coded = {k: t for k, t in packed.items() if t.dtype != torch.uint8 and t.numel()}
        coded = {k: t for k, t in coded.items() if not k.startswith("follow.")}
        meta = {**meta, "coded": {k: described(t) for k, t in coded.items()}}
        with ThreadPoolExecutor() as pool:
            packed |= zip(coded, pool.map(deflated, coded.values()), strict=True)
    tensors = tensors | packed
    with atomic_folder(path) as folder:
        save_file(
            {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, folder / FILE
        )
        write_json(folder / "scene.json", {"format": FORMAT, **meta})


def read_scene(folder: Path) -> tuple[Gaussians4D, dict[str, Tensor], dict[str, Any]]:
    """Gaussians, all tensors of the file and the description. Damaged ones are ``InputError``."""
    where = folder / "scene.json"
    meta = read_json(where)
    _check_meta(meta, where)
    file = folder / FILE
    tensors = read_safetensors(file)
    try:
        for name, what in _coded(meta, where).items():
            tensors[name] = inflated(tensors[name], what, f"{file}: {name}")
        fields = tensors if meta["format"] == 1 else _unpacked(tensors, str(file))
        _check_shapes(fields, str(file))
        gaussians = Gaussians4D(
            *(fields[name].float() for name in Gaussians4D.names()),
            follow=_follow(tensors, len(fields["means"]), str(file)),
        )
    except KeyError as error:
        raise InputError(f"{file} lacks the tensor {error}; make the scene again.") from error
    check_finite(gaussians, str(file))
    return gaussians, tensors, meta


def _packed(g: Gaussians4D, compact: bool) -> dict[str, Tensor]:
    """The tensors of the file."""
    still = g.is_static & (g.times == 0)
    fields = dict(zip(g.names(), g.tensors(), strict=True))
    fields["still"] = _bits(still)
    if not compact:
        fields |= {name: fields[name][~still] for name in OF_TIME}
    else:
        ball, balls = _balls(g, still)
        other = ~ball & ~still
        fields |= {"balls": _bits(ball), **balls}
        fields["times"] = (fields["times"][~still] * MOMENTS).round() / MOMENTS
        fields["time_scales"] = fields["time_scales"][other]
        logarithms = fields["scales"][~ball].clamp_min(SMALLEST_SCALE).log()
        fields["scales"] = logarithms.half()
        for name, rows in (("left", ~ball), ("right", other)):
            fields[name] = (unit(fields[name][rows]) * STEPS).round().to(torch.int16)
        fields["opacities"] = ((fields["opacities"] * OPACITIES).round() / OPACITIES).half()
        fields["sh"] = (fields["sh"] * COLOURS).round().clamp(-STEPS, STEPS).to(torch.int16)
        fields["means"] = _shortened(fields["means"].float())
    if g.follow is not None:
        t = g.follow.trajectories
        centres = t.quats.new_zeros(len(t), 3) if t.centres is None else t.centres
        values = (t.times, t.quats, t.translations, centres, g.follow.weights, g.follow.index)
        fields |= dict(zip(FOLLOW, values, strict=True))
        if compact:
            fields["follow.weights"] = fields["follow.weights"].half()
            fields["follow.index"] = fields["follow.index"].to(torch.int32)
    return fields


def _balls(g: Gaussians4D, still: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Which Gaussians are balls that move or pass, and the fields of those."""
    moving = g.condition()
    squares = moving.covariances[:, [0, 3, 5]]
    size = squares.mean(-1)
    off = torch.maximum(
        (squares - size[:, None]).abs().amax(-1),
        moving.covariances[:, [1, 2, 4]].abs().amax(-1),
    )
    velocities = moving.velocities.half()
    sound = (velocities.isfinite().all(-1) & ~g.time_scales.isinf()) & (size > 0)
    long = size <= LASTING * moving.time_variances
    ball = (off <= ROUND * size) & long & sound & ~still & ~g.follows
    values = (
        size[ball].log().mul(0.5).half(),
        velocities[ball],
        moving.time_variances[ball].log().mul(0.5).half(),
    )
    return ball, dict(zip(BALLS, map(_shortened, values), strict=True))


def _of_balls(tensors: dict[str, Tensor], n: int, where: str) -> tuple[Tensor, Balls] | None:
    """Which of n Gaussians are balls, and the shapes of those; None where the file knows none."""
    if "balls" not in tensors:
        return None
    ball = _flags(tensors["balls"], n, f"{where}: balls")
    m = int(ball.sum())
    for name, shape in zip(BALLS, ((m,), (m, 3), (m,)), strict=True):
        _check_shape(tensors[name], shape, f"{where}: {name}")
    sizes, velocities, durations = (tensors[name].float() for name in BALLS)
    none = sizes.new_zeros(m)
    return ball, Balls(
        velocities, velocities, none, durations.exp(), sizes.exp(), none, velocities[:, None]
    )


def _unpacked(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The fields of ``Gaussians4D`` from the tensors of a file."""
    means = tensors["means"]
    n = len(means) if means.ndim else -1
    still = _flags(tensors["still"], n, f"{where}: still")
    found = _of_balls(tensors, n, where)
    ball = torch.zeros_like(still) if found is None else found[0]
    fields = {name: tensors[name] for name in Gaussians4D.names()}
    if found is not None or fields["left"].dtype == torch.int16:
        fields["scales"] = fields["scales"].float().exp()
        fields |= {name: fields[name].float() / STEPS for name in ("left", "right")}
    if fields["sh"].dtype == torch.int16:
        fields["sh"] = fields["sh"].float() / COLOURS
    rows = {
        "scales": (~ball, means.new_zeros(n, 3)),
        "left": (~ball, means.new_zeros(n, 4)),
        "times": (~still, means.new_zeros(n)),
        "time_scales": (~still & ~ball, means.new_full((n,), math.inf)),
    }
    for name, (which, whole) in rows.items():
        _check_shape(fields[name], (int(which.sum()), *whole.shape[1:]), f"{where}: {name}")
        whole[which] = fields[name].to(whole)
        fields[name] = whole
    right = fields["left"].clone()
    _check_shape(fields["right"], (int((~still & ~ball).sum()), 4), f"{where}: right")
    right[~still & ~ball] = fields["right"].to(right)
    fields["right"] = right
    if found is not None:
        shapes = found[1].gaussians()
        for name in ("scales", "time_scales", "left", "right"):
            fields[name][ball] = getattr(shapes, name)
    return fields


def _check_shape(values: Tensor, expected: tuple[int, ...], where: str) -> None:
    if tuple(values.shape) != expected:
        raise InputError(
            f"{where} has shape {tuple(values.shape)}, expected {expected}; make the scene again."
        )


def _coded(meta: dict[str, Any], where: Path) -> dict[str, Any]:
    """The tensors that are deflated, and what each was."""
    coded = meta.get("coded", {})
    if not isinstance(coded, dict):
        raise InputError(f"{where}: coded is {coded!r}, expected names; make the scene again.")
    return coded


def _shortened(values: Tensor) -> Tensor:
    """Values rounded to fewer bits, which deflate well."""
    whole = torch.int32 if values.dtype == torch.float32 else torch.int16
    dropped = DROPPED[values.dtype]
    bits = values.contiguous().view(whole)
    return ((bits + (1 << (dropped - 1))) & -(1 << dropped)).view(values.dtype)


def _bits(flags: Tensor) -> Tensor:
    """[n] bool as bytes, the first in the lowest bit."""
    padded = torch.nn.functional.pad(flags.cpu().to(torch.uint8), (0, -len(flags) % 8))
    return (padded.reshape(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def _flags(bits: Tensor, n: int, where: str) -> Tensor:
    """Inverse of ``_bits``; ``InputError`` where they are not those of n flags."""
    if bits.dtype != torch.uint8 or bits.shape != ((n + 7) // 8,):
        raise InputError(
            f"{where} has shape {tuple(bits.shape)} of {bits.dtype}, expected "
            f"{((n + 7) // 8,)} of torch.uint8; make the scene again."
        )
    return ((bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten()[:n].bool()


def _follow(tensors: dict[str, Tensor], n: int, where: str) -> Follow | None:
    if FOLLOW[0] not in tensors:
        return None
    times, quats, translations, centres, weights, index = (tensors[name] for name in FOLLOW)
    k, m, g = times.numel(), index.numel(), weights.shape[-1] if weights.ndim else -1
    shapes = ((k,), (k, g, 4), (k, g, 3), (g, 3), (m, g), (m,))
    for name, shape in zip(FOLLOW, shapes, strict=True):
        found = tuple(tensors[name].shape)
        if found != shape or k == 0:
            raise InputError(
                f"{where}: {name} has shape {found}, expected {shape} with a knot at least; make "
                "the scene again."
            )
    knots = (t.float() for t in (times, quats, translations, centres))
    trajectories = Trajectories(*knots)
    return Follow(trajectories, weights.float(), index.long()).check(n, where)


def _check_shapes(tensors: dict[str, Tensor], where: str) -> None:
    """Raise ``InputError`` where the shapes of a scene's Gaussians do not go together."""
    n = len(tensors["means"]) if tensors["means"].ndim else -1
    tails = {
        "means": (3,),
        "times": (),
        "scales": (3,),
        "time_scales": (),
        "left": (4,),
        "right": (4,),
        "opacities": (),
    }
    for name, tail in tails.items():
        found = tuple(tensors[name].shape)
        if found != (n, *tail):
            raise InputError(
                f"{where}: {name} has shape {found}, expected {(n, *tail)}; make the scene again."
            )
    sh = tuple(tensors["sh"].shape)
    if len(sh) != 3 or sh[0] != n or sh[1] not in (1, 4, 9, 16) or sh[2] != 3:
        raise InputError(
            f"{where}: sh has shape {sh}, expected ({n}, 1 | 4 | 9 | 16, 3); make the scene again."
        )


def _check_meta(meta: Any, where: Path) -> None:
    if not isinstance(meta, dict) or meta.get("kind") != "gaussians":
        raise InputError(
            f"{where} is not a Gaussian scene (field kind); expected one written by this package."
        )
    if meta.get("format") not in range(1, FORMAT + 1):
        raise InputError(
            f"{where} has format {meta.get('format')!r}, this version reads 1 to {FORMAT}; make it "
            "again."
        )
    for name in ("hw", "projection"):
        if name not in meta:
            raise InputError(f"{where} lacks the field {name!r}; make the scene again.")
