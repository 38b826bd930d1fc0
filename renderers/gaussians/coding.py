"""Tensors as deflated bytes: what compact scene files hold.

Bytes of one significance stand together, component by component. Those of neighbouring pixels are
alike, which deflate makes use of.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from fsm.errors import InputError

LEVEL = 1
"""Of deflate: higher ones take much longer and save little."""
TYPES = {"float32": torch.float32, "float16": torch.float16, "int16": torch.int16}


def deflated(values: Shaped[Tensor, "n *c"]) -> UInt8[Tensor, " m"]:
    """The values as bytes, smaller; there must be some."""
    rows = values.detach().cpu().contiguous().numpy()
    planes = rows.view(np.uint8).reshape(len(rows), -1, values.dtype.itemsize)
    data = zlib.compress(planes.transpose(2, 1, 0).tobytes(), LEVEL)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def described(values: Shaped[Tensor, "n *c"]) -> list[Any]:
    """Type and shape, which ``inflated`` needs beside the bytes."""
    return [str(values.dtype).removeprefix("torch."), list(values.shape)]


def inflated(data: Shaped[Tensor, " b"], described: Any, where: str) -> Shaped[Tensor, "n *c"]:
    """Inverse of ``deflated``; damaged data are ``InputError``, and take no more memory than the
    description says.
    """
    try:
        name, shape = described
        dtype, shape = TYPES[name], [int(side) for side in shape]
        if min(shape) < 1 or data.dtype != torch.uint8:
            raise ValueError
        size = math.prod(shape) * dtype.itemsize
        # deflate makes nothing smaller than a thousandth
        if size > 1032 * len(data) + 1032:
            raise ValueError
        raw = bytearray(zlib.decompressobj().decompress(data.numpy().tobytes(), size + 1))
        if len(raw) != size:
            raise ValueError
    except (TypeError, ValueError, KeyError, zlib.error) as error:
        raise InputError(f"{where} is damaged; make the scene again.") from error
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1, shape[0])
    rows = np.ascontiguousarray(planes.transpose(2, 1, 0)).reshape(-1)
    return torch.from_numpy(rows.view(name).reshape(shape))
