"""``trace`` compiled: sixteen pixels of a 4 x 4 block at once, only the bodies that a block may
see.

First every block finds what its pixel centres see. Blocks that see one surface, borders included,
are lit there; others send four rays through every pixel, and every surface that they meet is lit
once per pixel.
"""

import numpy as np

from fsm.datasets.world.description import BODIES, LOOK, SURFACES
from fsm.datasets.world.hit_kernels import first_hit, may_see, ray
from fsm.datasets.world.light_kernels import lit
from fsm.datasets.world.surface_kernels import described, sky
from fsm.datasets.world.surfaces import SKY
from fsm.datasets.world.tables import BODY, BOUND, FRAME, LENS
from fsm.datasets.world.trace import EDGE_RAYS
from fsm.kernels.compiled import kernel, part
from fsm.kernels.simd import (
    block_x,
    block_y,
    fill,
    item,
    lanes_of,
    load,
    root,
    select,
    store,
    trailing_zeros,
)

BLOCK = 16
RAYS = EDGE_RAYS * EDGE_RAYS


@part
def _colour(bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, t, name):
    """What sixteen rays bring back from the surface number ``name``."""
    zero = fill(np.float32(0.0))
    gloss, nx, ny, nz = zero, zero, zero, zero
    pixel = 2.0 / (abs(item(frames, e + LENS)) + abs(item(frames, e + LENS + 1)))
    if name == SKY:
        r, g, b = sky(looks, l, rx, ry, rz, pixel)
    else:
        r, g, b, gloss, nx, ny, nz = described(
            bodies, first, frames, e, looks, l, name, rx, ry, rz, t, pixel
        )
    return lit(
        bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, t, name,
        r, g, b, gloss, nx, ny, nz,
    )  # fmt: skip


@part
def _uniform(surface, f, left, top):
    """Whether a block and the pixels around it all show one surface."""
    seen = surface[f, top, left]
    for y in range(max(top - 1, 0), min(top + 5, surface.shape[1])):
        for x in range(max(left - 1, 0), min(left + 5, surface.shape[2])):
            if surface[f, np.uintp(y), np.uintp(x)] != seen:
                return False
    return True


@part
def _find(bodies, first, everyone, all_of, frames, e, f, depth, surface, near, out):
    """What the centres of all pixels of a frame see."""
    for top in range(0, depth.shape[1], 4):
        for left in range(0, depth.shape[2], 4):
            count = may_see(bodies, first, everyone, all_of, left, top, near)
            rx, ry, rz = ray(frames, e, block_x() + left, block_y() + top)
            t, seen = first_hit(bodies, first, near, count, frames, e, rx, ry, rz)
            store(out, 0, t)
            store(out, BLOCK, seen)
            for lane in range(BLOCK):
                y, x = np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))
                depth[f, y, x], surface[f, y, x] = out[lane], out[BLOCK + lane]


@part
def _same(a, b):
    """Where numbers are equal."""
    return (a >= b) & (a <= b)


@part
def _sample(bodies, first, everyone, all_of, frames, e, left, top, near, samples):
    """Send EDGE_RAYS² rays through every pixel of a block: their directions, depths and surfaces,
    sixteen by sixteen.
    """
    count = may_see(bodies, first, everyone, all_of, left, top, near)
    for i in range(RAYS):
        x, y = (i % EDGE_RAYS + 0.5) / EDGE_RAYS - 0.5, (i // EDGE_RAYS + 0.5) / EDGE_RAYS - 0.5
        rx, ry, rz = ray(frames, e, block_x() + (left + x), block_y() + (top + y))
        t, seen = first_hit(bodies, first, near, count, frames, e, rx, ry, rz)
        at = 5 * BLOCK * i
        store(samples, at, rx)
        store(samples, at + BLOCK, ry)
        store(samples, at + 2 * BLOCK, rz)
        store(samples, at + 3 * BLOCK, t)
        store(samples, at + 4 * BLOCK, seen)


@part
def _gathered(samples, name):
    """For every pixel, the last of its rays that met the surface ``name``, and the share of them
    that did.
    """
    rx, ry, rz, t = (
        load(samples, 0),
        load(samples, BLOCK),
        load(samples, 2 * BLOCK),
        load(samples, 3 * BLOCK),
    )
    share, one = fill(np.float32(0.0)), fill(np.float32(1.0 / RAYS))
    for i in range(RAYS):
        at = 5 * BLOCK * i
        its = _same(load(samples, at + 4 * BLOCK), name)
        rx, ry = select(its, load(samples, at), rx), select(its, load(samples, at + BLOCK), ry)
        rz, t = (
            select(its, load(samples, at + 2 * BLOCK), rz),
            select(its, load(samples, at + 3 * BLOCK), t),
        )
        share = share + select(its, one, share * 0.0)
    return rx, ry, rz, t, share


@part
def _blend(bodies, first, everyone, all_of, frames, e, looks, l, samples):
    """Linear colour of a sampled block: every surface is lit once per pixel and counts by its share
    of the rays.
    """
    zero = fill(np.float32(0.0))
    r, g, b = zero, zero, zero
    for i in range(RAYS):
        at = (5 * i + 4) * BLOCK
        # those not yet blended, whose surface is not negative
        left = lanes_of(load(samples, at) >= 0.0)
        while left:
            name = samples[at + trailing_zeros(left)]
            rx, ry, rz, t, share = _gathered(samples, name)
            for j in range(i, RAYS):
                seen = load(samples, (5 * j + 4) * BLOCK)
                store(samples, (5 * j + 4) * BLOCK, select(_same(seen, name), zero - 1.0, seen))
            left = lanes_of(load(samples, at) >= 0.0)
            r1, g1, b1 = _colour(
                bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, t, int(name)
            )
            there = share > 0.0
            r, g = r + select(there, r1 * share, zero), g + select(there, g1 * share, zero)
            b = b + select(there, b1 * share, zero)
    return r, g, b


@part
def _light(
    bodies, first, everyone, all_of, frames, e, f, looks, l,
    depth, surface, near, out, samples, left, top,
):  # fmt: skip
    """Linear colour of a block: one ray per pixel where it shows one surface, else a blend of
    several.
    """
    if _uniform(surface, f, left, top):
        for lane in range(BLOCK):
            out[lane] = depth[f, np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))]
        rx, ry, rz = ray(frames, e, block_x() + left, block_y() + top)
        name = int(surface[f, top, left])
        return _colour(
            bodies, first, everyone, all_of, frames, e, looks, l, rx, ry, rz, load(out, 0), name
        )
    _sample(bodies, first, everyone, all_of, frames, e, left, top, near, samples)
    return _blend(bodies, first, everyone, all_of, frames, e, looks, l, samples)


@kernel(
    "void(int64, int64, float32[:, :, ::1], float32[:, ::1], float32[:, :, ::1], int32[::1], "
    "float32[:, :, :, ::1], float32[:, :, ::1], float32[:, :, ::1])"
)
def trace_frames(worker, workers, bodies, frames, looks, world, rgb, depth, surface):
    """Pictures, z-depth and numbers of surfaces; heights and widths are multiples of four."""
    everyone, near = np.empty(BODIES + 1, np.int64), np.empty(BODIES + 1, np.int64)
    out, samples = np.empty(3 * BLOCK, np.float32), np.empty(5 * BLOCK * RAYS, np.float32)
    for f in range(worker, len(world), workers):
        first, e, l = f * BODIES * BODY, f * FRAME, world[f] * SURFACES * LOOK
        all_of = 0
        for k in range(BODIES):
            everyone[all_of] = k
            all_of += item(bodies, first + k * BODY + BOUND) > 0.0
        _find(bodies, first, everyone, all_of, frames, e, f, depth, surface, near, out)
        for top in range(0, depth.shape[1], 4):
            for left in range(0, depth.shape[2], 4):
                r, g, b = _light(
                    bodies, first, everyone, all_of, frames, e, f, looks, l,
                    depth, surface, near, out, samples, left, top,
                )  # fmt: skip
                store(out, 0, root(r))
                store(out, BLOCK, root(g))
                store(out, 2 * BLOCK, root(b))
                for lane in range(BLOCK):
                    y, x = np.uintp(top + (lane >> 2)), np.uintp(left + (lane & 3))
                    for channel in range(3):
                        rgb[f, channel, y, x] = out[channel * BLOCK + lane]
