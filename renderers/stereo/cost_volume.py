"""Cost volumes: how far source views are from the reference view at every depth plane.

Both are compared as maps of colours and learnt features. Where something hides a point from some
of the source views, or moves, the better half of them still agrees (Kang et al. 2001): costs over
that half and over all are told apart.
"""

from jaxtyping import Float
from torch import Tensor

from fsm.kernels.dispatch import runs_compiled
from fsm.renderers.stereo.constants import MOST_CHANNELS
from fsm.renderers.stereo.cost_volume_plain import plain_cost_volume
from fsm.renderers.stereo.sources import SourceViews


def cost_volume(
    sources: SourceViews,
    maps: Float[Tensor, "b n c hn wn"],
    reference_maps: Float[Tensor, "b v c h w"],
    inverse_depths: Float[Tensor, "*b d _h _w"],
    unseen_cost: float,
) -> Float[Tensor, "b v d 4 h w"]:
    """Mean distance of the source views' ``maps`` from the ``reference_maps``, at each depth.

    Four costs: in colours of the better half (rounded up) of the source views that see the point,
    in colours of all of them, in features of the better half, of all. The first three channels are
    colours. ``inverse_depths`` are planes [d 1 1], or those of each pixel [b v d h w], and a
    constant for autograd; ``unseen_cost`` stands where no source view sees the point. Float32 on
    the CPU is computed by compiled code.
    """
    constants = (*sources.cameras.tensors(), sources.rays, inverse_depths.detach())
    if maps.shape[2] <= MOST_CHANNELS and runs_compiled(maps, reference_maps, constants=constants):
        from fsm.renderers.stereo.cost_volume_cpu import cost_volume_on_cpu

        return cost_volume_on_cpu(sources, maps, reference_maps, inverse_depths, unseen_cost)
    return plain_cost_volume(sources, maps, reference_maps, inverse_depths, unseen_cost)
