"""Depth to a fraction of a pixel: what sweeps found, moved along each ray to where the frames'
colours agree best.

Frames that were taken close together tell a wall from one well behind it by tenths of a pixel; a
camera several times as far beside the path sees several times as much. Sweeps try depths at a
fraction of the resolution and answer with a mean. Here every pixel takes Gauss-Newton steps on the
differences from what the other frames show at its depth, summed over a window (Lucas and Kanade
1981, along epipolar lines). What differs much counts little (Geman and McClure 1987), and a step is
taken by as much as the frames agree better after it. Nothing is learnt here.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.cost_volume import FARTHEST, MOST_CHANNELS
from fsm.renderers.stereo.sources import (
    averaged,
    camera_rays,
    cameras_from,
    plane_pixels,
    sample_frames,
)
from fsm.views import Views

STEPS = 3
WINDOW = 11  # side over which a pixel's equations are summed
LIGHT = 9  # side over which the mean is taken from the colours before they are compared
OUTLIER = 0.1  # difference of colours, from 0 to 1, beyond which a sample counts ever less
# squared change of colour per ratio of inverse depth: below it a window has no texture to follow
DAMPING = 0.001
# misfit, from 0 to 1, of a reference that does not show the point: neither good nor bad
UNSEEN = 0.5
# gain in misfit at which a step is taken by nearly three quarters: a yes or no would turn rounding
# into depth
SURE = 0.001
LARGEST_STEP = 0.15  # ratio of inverse depth per step


@torch.no_grad()
@full_precision
def aligned(
    views: Views, references: Views, chosen: Int[Tensor, "b v k"], rho: Float[Tensor, "b v 1 h w"]
) -> Float[Tensor, "b v 1 h w"]:
    """Inverse depth of ``views``, near ``rho``, at which the chosen references look most like them;
    model units, no gradient.
    """
    used, chosen = chosen.unique(return_inverse=True)  # of a long clip a few frames are asked
    views, references = _unlit(views), _unlit(references[used])
    maps = maps_of(references)
    sums = averaged(equations(views, references, maps, chosen, rho), WINDOW)
    for _ in range(STEPS):
        along, square, misfit = sums.split(1, dim=2)
        step = (-along / (square + DAMPING)).clamp(-LARGEST_STEP, LARGEST_STEP)
        moved = rho + step * (rho.clamp_min(0.0) + FARTHEST)
        found = averaged(equations(views, references, maps, chosen, moved), WINDOW)
        better = torch.sigmoid((misfit - found[:, :, 2:]) / SURE)
        # Equations between the two places are taken to lie between theirs: that saves a pass over
        # the frames.
        rho, sums = torch.lerp(rho, moved, better), torch.lerp(sums, found, better.expand_as(sums))
    return rho


def _unlit(views: Views) -> Views:
    """Without what changes slowly across the picture: light that comes and goes is no reason to
    move a surface.
    """
    assert views.rgb is not None
    return dataclasses.replace(views, rgb=views.rgb - averaged(views.rgb, LIGHT))


def maps_of(references: Views) -> Float[Tensor, "b n hn wn 16"]:
    """Colours, their changes per pixel to the right, those downwards, and zeros: compiled code
    reads a pixel as one vector.
    """
    assert references.rgb is not None
    maps = torch.cat(
        [references.rgb, *torch.gradient(references.rgb, dim=(-1, -2))], dim=2
    ).movedim(2, -1)
    return F.pad(maps, (0, MOST_CHANNELS - maps.shape[-1])).contiguous()


def equations(
    views: Views,
    references: Views,
    maps: Float[Tensor, "b n hn wn 16"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
) -> Float[Tensor, "b v 3 h w"]:
    """Of every pixel, means over references and colours: w s d, w s² and the misfit, from 0 to 1.

    d is the difference of colour from a reference at ``rho``, s its change per ratio of inverse
    depth, w what it counts. ``maps`` are those of the references (``maps_of``). Float32 on the CPU
    is computed by compiled code, all else by ``plain_equations``.
    """
    assert views.rgb is not None
    given = (
        views.rgb,
        views.c2w,
        views.intrinsics,
        maps,
        references.c2w,
        references.intrinsics,
        rho,
    )
    if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in given):
        from fsm.renderers.stereo.subpixel_cpu import equations_on_cpu

        return equations_on_cpu(views, references, maps, chosen, rho)
    return plain_equations(views, references, maps, chosen, rho)


def plain_equations(
    views: Views,
    references: Views,
    maps: Float[Tensor, "b n hn wn 16"],
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
) -> Float[Tensor, "b v 3 h w"]:
    """``equations`` in torch, on any device and in any precision."""
    assert views.rgb is not None
    pixels = plane_pixels(views.without_rgb(), references.without_rgb(), chosen, rho)[:, :, :, 0]
    samples, inside = sample_frames(maps[..., :9].movedim(-1, 2), chosen, pixels)
    colour, right, down = samples.split(3, dim=3)
    x, y = _moves(views, references, chosen, rho).movedim(-1, 0)[:, :, :, :, None]
    difference, slope = colour - views.rgb[:, :, None], right * x + down * y
    ratio = difference.square().mean(3, keepdim=True) / OUTLIER**2
    weight = inside / (1.0 + ratio)
    along, square = (
        torch.where(weight > 0, weight * slope * t, 0.0).mean((2, 3)) for t in (difference, slope)
    )
    misfit = (weight * ratio + UNSEEN * (1.0 - inside)).mean((2, 3))
    return torch.stack([along, square, misfit], dim=2)


def _moves(views: Views, references: Views, chosen, rho) -> Float[Tensor, "b v k h w 2"]:
    """Pixels by which each reference sees a point move per ratio of inverse depth."""
    camera = cameras_from(views, references, chosen)[..., None, None]
    turn, offset, focal = (
        camera[:, :, :, :9].unflatten(3, (3, 3)),
        camera[:, :, :, 9:12],
        camera[:, :, :, 12:14],
    )
    point = (turn * camera_rays(views)[:, :, None, None]).sum(4) + offset * rho[:, :, None]
    depth = point[:, :, :, 2:]
    move = (offset[:, :, :, :2] - point[:, :, :, :2] / depth * offset[:, :, :, 2:]) / depth * focal
    return (move * (rho.clamp_min(0.0) + FARTHEST)[:, :, None]).movedim(3, -1)
