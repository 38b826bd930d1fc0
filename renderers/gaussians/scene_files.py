"""What a scene folder holds: ``scene.json`` and ``gaussians.safetensors``.

Gaussians that are there at all times and still have no row in the fields of time: a bit says which
they are.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.files import atomic_folder, read_json, read_safetensors, write_json
from fsm.renderers.gaussians.follow import Follow
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, check_finite
from fsm.renderers.motion.quaternions import unit
from fsm.renderers.motion.trajectories import Trajectories

FORMAT = 2
FORMATS = (1, FORMAT)
FILE = "gaussians.safetensors"
OF_TIME = ("times", "time_scales", "right")
"""Fields without rows of Gaussians that are there at all times and still."""
STEPS = 32767
"""Unit quaternions of compact files are integers of this many steps."""
SMALLEST_SCALE = 1e-30
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

    tensors = tensors | _packed(gaussians.detach(), compact)
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
    fields |= {name: fields[name][~still] for name in OF_TIME}
    fields["still"] = _bits(still)
    if compact:
        logarithms = fields["scales"].clamp_min(SMALLEST_SCALE).log()
        fields["scales"] = logarithms.half()
        fields |= {
            name: (unit(fields[name]) * STEPS).round().to(torch.int16) for name in ("left", "right")
        }
        fields |= {name: fields[name].half() for name in ("opacities", "sh")}
    if g.follow is not None:
        t = g.follow.trajectories
        centres = t.quats.new_zeros(len(t), 3) if t.centres is None else t.centres
        values = (t.times, t.quats, t.translations, centres, g.follow.weights, g.follow.index)
        fields |= dict(zip(FOLLOW, values, strict=True))
        if compact:
            fields["follow.weights"] = fields["follow.weights"].half()
            fields["follow.index"] = fields["follow.index"].to(torch.int32)
    return fields


def _unpacked(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The fields of ``Gaussians4D`` from the tensors of a file."""
    n = len(tensors["left"]) if tensors["left"].ndim else -1
    bits = tensors["still"]
    if bits.dtype != torch.uint8 or bits.shape != ((n + 7) // 8,):
        raise InputError(
            f"{where}: still has shape {tuple(bits.shape)} of {bits.dtype}, expected "
            f"{((n + 7) // 8,)} of torch.uint8; make the scene again."
        )
    still = _flags(bits, n)
    fields = {name: tensors[name] for name in Gaussians4D.names()}
    if fields["left"].dtype == torch.int16:
        fields["scales"] = fields["scales"].float().exp()
        fields |= {name: fields[name].float() / STEPS for name in ("left", "right")}
    if fields["left"].shape != (n, 4):
        # said by the check of shapes
        return fields
    moving = int((~still).sum())
    whole = {
        "times": fields["means"].new_zeros(n),
        "time_scales": fields["means"].new_full((n,), math.inf),
        "right": fields["left"].clone(),
    }
    for name, rows in whole.items():
        expected = (moving, *rows.shape[1:])
        if fields[name].shape != expected:
            raise InputError(
                f"{where}: {name} has shape {tuple(fields[name].shape)}, expected {expected}; "
                "make the scene again."
            )
        rows[~still] = fields[name].to(rows)
    return fields | whole


def _bits(flags: Tensor) -> Tensor:
    """[n] bool as bytes, the first in the lowest bit."""
    padded = torch.nn.functional.pad(flags.cpu().to(torch.uint8), (0, -len(flags) % 8))
    return (padded.reshape(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def _flags(bits: Tensor, n: int) -> Tensor:
    """Inverse of ``_bits``."""
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
    if meta.get("format") not in FORMATS:
        raise InputError(
            f"{where} has format {meta.get('format')!r}, this version reads "
            f"{' and '.join(map(str, FORMATS))}; make it again."
        )
    for name in ("hw", "projection"):
        if name not in meta:
            raise InputError(f"{where} lacks the field {name!r}; make the scene again.")
