"""Depth to a fraction of a pixel: Gauss-Newton steps along each ray to where colours agree best.

Frames taken close together tell a wall from one well behind it by tenths of a pixel, while a camera
several times as far from them sees several times as much. Sweeps try depths at a fraction of the
resolution and answer with a mean. Here every pixel takes steps on its differences from the source
views, summed over a window (Lucas and Kanade 1981, along epipolar lines). Large differences count
little (Geman and McClure 1987), and a step is taken by as much as the views agree better after it.
Nothing is learnt here.
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.kernels.dispatch import runs_compiled
from fsm.rays import full_precision
from fsm.renderers.stereo.config import StereoConfig, SubpixelConfig
from fsm.renderers.stereo.sources import SourceViews, compiles
from fsm.renderers.stereo.subpixel_plain import plain_equations
from fsm.renderers.stereo.windows import window_mean
from fsm.views import Views


@torch.no_grad()
@full_precision
def aligned_depth(
    sources: SourceViews, rho: Float[Tensor, "b v 1 h w"], config: StereoConfig
) -> Float[Tensor, "b v 1 h w"]:
    """Inverse depth near ``rho`` at which the source views agree best with the reference view;
    model units, no gradient.
    """
    rules, farthest = config.subpixel, config.sweep.farthest
    sources = dataclasses.replace(
        sources,
        reference=_detrended(sources.reference, rules.detrend_window),
        views=_detrended(sources.views, rules.detrend_window),
    )
    maps = gradient_maps(sources.frames)

    def summed(rho: Tensor) -> Tensor:
        unit = rho.clamp_min(0.0) + farthest
        return window_mean(equations(sources, maps, rho, unit, rules), rules.window)

    sums = summed(rho)
    for _ in range(rules.steps):
        along, square, misfit = sums.split(1, dim=2)
        step = -along / (square + rules.damping)
        step = step.clamp(-rules.largest_step, rules.largest_step)
        moved = rho + step * (rho.clamp_min(0.0) + farthest)
        found = summed(moved)
        better = torch.sigmoid((misfit - found[:, :, 2:]) / rules.acceptance)
        # Equations between the two places are taken to lie between theirs: that saves a pass over
        # the frames.
        rho, sums = torch.lerp(rho, moved, better), torch.lerp(sums, found, better.expand_as(sums))
    return rho


def _detrended(views: Views, side: int) -> Views:
    """Pictures without what changes slowly across them."""
    assert views.rgb is not None
    return dataclasses.replace(views, rgb=views.rgb - window_mean(views.rgb, side))


def gradient_maps(frames: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n 9 h w"]:
    """Colours, their changes per pixel to the right, and those downwards."""
    if min(frames.shape[-2:]) > 1 and runs_compiled(constants=(frames,)):
        from fsm.renderers.stereo.windows_cpu import gradient_maps_on_cpu

        return gradient_maps_on_cpu(frames)
    return plain_gradient_maps(frames)


def plain_gradient_maps(frames: Float[Tensor, "b n 3 h w"]) -> Float[Tensor, "b n 9 h w"]:
    """``gradient_maps`` in torch."""
    down, right = torch.gradient(frames, dim=(-2, -1))
    return torch.cat([frames, right, down], dim=2)


def equations(
    sources: SourceViews,
    maps: Float[Tensor, "b n 9 hn wn"],
    rho: Float[Tensor, "b v 1 h w"],
    unit: Float[Tensor, "b v 1 h w"],
    config: SubpixelConfig,
) -> Float[Tensor, "b v 3 h w"]:
    """Of every pixel, means over source views and colours: w s d, w s² and the misfit, from 0 to 1.

    d is the difference of colour from a source view at ``rho``, s its change per ``unit`` of
    inverse depth, w its weight. ``maps`` are those of all views (``gradient_maps``). Float32 on the
    CPU is computed by compiled code, without gradients.
    """
    given = (sources.pictures, *sources.cameras.tensors(), sources.rays, maps, rho, unit)
    if compiles(sources.reference.hw, *given):
        from fsm.renderers.stereo.subpixel_cpu import equations_on_cpu

        return equations_on_cpu(sources, maps, rho, unit, config)
    return plain_equations(sources, maps, rho, unit, config)
