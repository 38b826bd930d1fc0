"""Which frame of which clip a view is, so that a frame a scene was made from is never scored as
held out.

Ids are rows of two whole numbers: a digest of the clip and the frame's number in it. Both are -1
for a view that is no frame of a clip.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fsm.errors import InputError

SHOWN = 8
"""Frames that an error message names."""
_DIGEST_BYTES = 6  # numbers that JSON readers keep exactly


def clip_frame_ids(name: str, time: Float[Tensor, " v"]) -> Int64[Tensor, "v 2"]:
    """Ids of all frames of the clip ``name`` taken at ``time`` (seconds).

    They follow from the name and the times alone: where its files lie, at which size they are read
    and how poses are repaired makes no difference.
    """
    moments = (time.double() * 1e4).round().long().tolist()
    digest = hashlib.sha256(f"{name}\n{moments}".encode()).digest()[:_DIGEST_BYTES]
    clip = torch.full((len(time),), int.from_bytes(digest, "big"))
    return torch.stack([clip, torch.arange(len(time))], dim=-1)


def no_frames(shape: Sequence[int]) -> Int64[Tensor, "*b 2"]:
    """Ids of views that are no frames of a clip; ``shape`` is that of the views [*b]."""
    return torch.full((*shape, 2), -1)


def among(ids: Int64[Tensor, "n 2"], others: Int64[Tensor, "m 2"]) -> Bool[Tensor, " n"]:
    """Which of ``ids`` are also in ``others``; views that are no frames never are."""
    same = (ids[:, None].cpu() == others[None].cpu()).all(-1).any(1)
    return same & (ids[:, 0].cpu() >= 0)


def joined(first: Int64[Tensor, "n 2"], second: Int64[Tensor, "m 2"]) -> Int64[Tensor, "k 2"]:
    """The frames of both, each once, in order."""
    return torch.cat([first.cpu(), second.cpu()]).unique(dim=0)


def frames_from_json(value: Any, where: str) -> Int64[Tensor, "n 2"] | None:
    """The field ``frames_seen`` of the file ``where``; None where it has none, ``InputError`` where
    it holds anything but pairs of whole numbers.
    """
    if value is None:
        return None
    pairs = isinstance(value, list) and all(isinstance(v, list) and len(v) == 2 for v in value)
    if not pairs or not all(type(n) is int and abs(n) < 1 << 62 for v in value for n in v):
        raise InputError(
            f"{where}: frames_seen should hold pairs of whole numbers; make the scene again."
        )
    return torch.tensor(value, dtype=torch.int64).reshape(-1, 2)


def check_unseen(
    targets: Int64[Tensor, "n 2"] | None, seen: Int64[Tensor, "m 2"] | None, source: str
) -> None:
    """Raise ``InputError`` where one of the ``targets`` of the clip ``source`` is among the frames
    ``seen``.

    Views without ids (None) are no frames of a clip: nothing can have seen them.
    """
    if targets is None or seen is None:
        return
    shared = targets[among(targets, seen)][:, 1].tolist()
    if shared:
        raise InputError(
            f"{source}: the scene has seen the frames {sorted(shared)[:SHOWN]}, so they cannot be "
            "held out; make the scene without them, or hold out others."
        )
