"""Gaussians to start from where a model finds depth and motion: what stands as one surface that is
always there, what moves for a moment and with its velocity.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.memory_scene import MemoryScene
from fsm.rays import full_precision
from fsm.refine.initialise import constant_background, foreground
from fsm.refine.parameters import FreeGaussians
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.renderers.gaussians.types import Projection
from fsm.renderers.stereo.fusion import Surfaces
from fsm.renderers.stereo.layers import Layers
from fsm.renderers.stereo.sources import camera_rays
from fsm.views import Views

# Standard deviations in pixels: of one among those of other frames, of one that shows its surface
# alone.
FOOTPRINT, ALONE = 0.35, 0.5
OPACITY_LOGIT = 3.0
RHO_LIMITS = (1e-3, 20.0)  # inverse depth in model units: never at infinity, never in the camera
PROJECTION = Projection(blur=0.1)  # the usual pixel filter would blur Gaussians of this size


def layered_scene(memory: MemoryScene) -> GaussianScene:
    """Gaussians of the pixels of the frames that ``memory`` was read from, in its model space.

    ``InputError`` where its model finds no depth, and where all pixels are background.
    """
    frame = memory.unbatched_frame
    views = frame.to_model(memory.observed)
    gaussians = layered_gaussians(views, *memory.surfaces())
    background = constant_background(views)
    if background is None:
        assert views.rgb is not None
        background = views.rgb.mean((0, 2, 3))
    inputs = memory.observed
    return GaussianScene(
        gaussians.gaussians(),
        frame,
        inputs.without_rgb(),
        background=background,
        projection=PROJECTION,
        frames_seen=memory.frames_seen,
    )


@torch.no_grad()
@full_precision
def layered_gaussians(views: Views, layers: Layers, surfaces: Surfaces) -> FreeGaussians:
    """A Gaussian of every kept pixel of ``views`` [v] (model space, with rgb) that is no
    background; ``layers`` and ``surfaces`` are theirs, of batch one.

    What stands is always there and still. What moves has its velocity, and lasts (standard
    deviation) until the next frame.
    """
    assert views.rgb is not None
    standing = surfaces.standing[0]
    depth = 1.0 / layers.inverse_depth[0].clamp(*RHO_LIMITS)
    rays = torch.einsum(
        "vij,vjhw->vihw", views.c2w[:, :3, :3], camera_rays(views.batched())[0] * depth
    )
    means = views.c2w[:, :3, 3, None, None] + rays
    pixel = depth / views.intrinsics[:, :2].abs().prod(-1).sqrt()[:, None, None, None]
    size = pixel * torch.where(standing, ALONE, FOOTPRINT)
    moves = ~standing & (layers.moving[0] > 0.5)
    velocities = torch.where(moves, layers.velocity[0], 0.0)
    lasts = gap_to_next(views.time).log()[:, None, None, None]
    durations = torch.where(standing, math.inf, lasts)
    times = views.time[:, None, None, None].expand_as(durations)
    kept = surfaces.turns.kept[0, :, 0] & (foreground(views, constant_background(views)) > 0)
    maps = [t.movedim(1, -1)[kept] for t in (means, velocities, times, durations, size, views.rgb)]
    means, velocities, times, durations, size, rgb = maps
    n = len(means)
    return FreeGaussians(
        means,
        velocities,
        times[:, 0],
        durations[:, 0],
        size.log().repeat(1, 3),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).to(means).repeat(n, 1),
        torch.full((n,), OPACITY_LOGIT).to(means),
        colour_to_sh(rgb),
    )


def gap_to_next(time: Float[Tensor, " v"]) -> Float[Tensor, " v"]:
    """The larger of the gaps between a moment and those before and after it; 1 where there is no
    other moment.
    """
    moments, which = time.unique(return_inverse=True)
    if len(moments) < 2:
        return torch.ones_like(time)
    gap = moments.diff()
    return torch.maximum(torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]]))[which]
