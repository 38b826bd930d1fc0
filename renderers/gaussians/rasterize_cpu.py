"""The rasteriser for processors: splats to pictures and gradients back, compiled for this machine
by numba.

Same rules and results as ``rasterize_plain`` (to float32 rounding), the same bits for any
number of threads. It uses as many threads as torch (``torch.set_num_threads``), and may be called
from several threads and from forked processes.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsm.errors import InputError
from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.gaussians import rasterize_backward_kernels as backward_kernels
from fsm.renderers.gaussians import rasterize_kernels as kernels
from fsm.renderers.gaussians import rasterize_list_kernels as lists
from fsm.renderers.gaussians.types import Splats


def composite(
    splats: Splats, hw: tuple[int, int]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
    """Colour over black, alpha, and depth weighted by alpha (not divided by it). Differentiable in
    all but the radii.

    Splats are blended from the nearest on, equal depths in the splats' order. What lies outside a
    splat's ``radii`` is not looked at. Float32 on the processor only, otherwise ``InputError``.
    """
    fields = (splats.centres, splats.conics, splats.depths, splats.opacities, splats.colours)
    for tensor in (*fields, splats.radii):
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise InputError(
                f"backend cpu takes float32 on the cpu, found {tensor.dtype} on "
                f"{tensor.device}; convert it."
            )
    picture = _Composite.apply(*fields, splats.radii, hw)
    return picture[:3], picture[3:4], picture[4:5]


def pairs_evaluated(splats: Splats, hw: tuple[int, int]) -> int:
    """How many pairs of a splat and a pixel ``composite`` looks at, empty ones in its 4 x 4 blocks
    included.
    """
    fields = (
        splats.centres,
        splats.conics,
        splats.depths,
        splats.opacities,
        splats.colours,
        splats.radii,
    )
    _, blocks = _forward([_array(t) for t in fields], np.empty((5, *hw), np.float32), keep=False)
    return kernels.BLOCK * blocks


class _Composite(torch.autograd.Function):
    """Centres, conics, depths, opacities, colours -> picture [5 h w]: colour, alpha, depth ·
    alpha.
    """

    @staticmethod
    def forward(ctx, centres, conics, depths, opacities, colours, radii, hw):  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs = [_array(t) for t in (centres, conics, depths, opacities, colours, radii)]
        h, w = hw
        picture = np.empty((5, h, w), np.float32)
        keep = any(ctx.needs_input_grad)
        kept, _ = _forward(inputs, picture, keep)
        if keep:
            ctx.save_for_backward(conics, opacities)
            ctx.kept = kept
        return torch.from_numpy(picture)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        conics, opacities = ctx.saved_tensors
        return (
            *_backward(_array(conics), _array(opacities), _array(gradient), *ctx.kept),
            None,
            None,
        )


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array, not filled, that starts where a cache line does: vectors of 64 bytes must not
    straddle two.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)


def _forward(
    inputs: list[np.ndarray], picture: np.ndarray, keep: bool
) -> tuple[tuple[np.ndarray, ...], int]:
    """Blend into ``picture``; returns what gradients need and how many blocks were looked at.

    Gradients need records, starts of the tiles' lists, the lists, the last light and where pixels
    ended.
    """
    n, (_, h, w) = workers(), picture.shape
    depths = inputs[2]
    columns = -(-w // lists.TILE)
    tiles = columns * -(-h // lists.TILE)
    records = _aligned((len(depths), lists.WIDTH), np.float32)
    places = np.empty((n, tiles), np.int64)
    starts = np.empty(tiles + 1, np.int64)
    on_threads(lists.pack_and_count, n, n, *inputs, h, w, records, places)
    found = places.sum(1)
    lists.place(places, starts)
    entries = np.empty(starts[-1], np.int64)
    given = (
        columns,
        records,
        records.view(np.int32),
        depths.view(np.int32),
        places,
        np.cumsum(found) - found,
        entries,
    )
    on_threads(lists.list_tiles, n, n, *given)
    scratch = np.empty((n, int(np.diff(starts).max())), np.int64)
    shape = (tiles if keep else 1, kernels.PIXELS)
    lights, ends = _aligned(shape, np.float32), _aligned(shape, np.int32)
    states = _aligned((n, kernels.TABLES + kernels.PIXELS * (kernels.GATHERED + 1)), np.float32)
    counter = np.zeros(1 + n, np.int64)
    flat = records.reshape(-1)
    on_threads(
        kernels.blend,
        n,
        counter,
        starts,
        entries,
        scratch,
        states,
        flat,
        h,
        w,
        picture,
        int(keep),
        lights,
        ends,
    )
    return (records, starts, entries, lights, ends), int(counter[1:].sum())


def _backward(
    conics: np.ndarray,
    opacities: np.ndarray,
    gradient: np.ndarray,
    records: np.ndarray,
    starts: np.ndarray,
    entries: np.ndarray,
    lights: np.ndarray,
    ends: np.ndarray,
) -> list[Tensor]:
    """Gradients of centres, conics, depths, opacities and colours."""
    n, m = workers(), len(records)
    rows = records.view(np.int32)
    states = _aligned((n, kernels.TABLES + kernels.PIXELS * backward_kernels.GIVEN), np.float32)
    sums = _aligned((len(entries) * backward_kernels.SUMS,), np.float32)
    counter = np.zeros(1, np.int64)
    given = (
        counter,
        starts,
        entries,
        states,
        records.reshape(-1),
        lights,
        ends,
        gradient,
        rows.reshape(-1),
        sums,
    )
    on_threads(backward_kernels.blend_backward, n, *given)
    out = [np.empty((m, *tail), np.float32) for tail in ((2,), (3,), (), (), (3,))]
    on_threads(backward_kernels.gather_gradients, n, n, rows, sums, conics, opacities, *out)
    return [torch.from_numpy(a) for a in out]
