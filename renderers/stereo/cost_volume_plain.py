"""``cost_volume`` in torch, on any device and in any precision."""

import torch
from jaxtyping import Float
from torch import Tensor

from fsm.renderers.stereo.constants import COLOURS
from fsm.renderers.stereo.sources import SourceViews


def plain_cost_volume(
    sources: SourceViews,
    maps: Float[Tensor, "b n c hn wn"],
    reference_maps: Float[Tensor, "b v c h w"],
    inverse_depths: Float[Tensor, "*b d _h _w"],
    unseen_cost: float,
) -> Float[Tensor, "b v d 4 h w"]:
    """See ``cost_volume.cost_volume``."""
    pixels = sources.project_planes(inverse_depths.detach()).pixels
    d, h = pixels.shape[3:5]
    # all planes of a view below one another
    samples, inside = sources.sample(maps, pixels.flatten(3, 4))
    apart = (samples.unflatten(-2, (d, h)) - reference_maps[:, :, None, :, None]).abs()
    seen = inside.unflatten(-2, (d, h))[:, :, :, 0] > 0.0
    count, costs = seen.sum(2), []
    for group in (apart[:, :, :, :COLOURS], apart[:, :, :, COLOURS:]):
        ranked = torch.where(seen, group.mean(3), torch.inf).sort(dim=2, stable=True).values
        rank = torch.arange(ranked.shape[2], device=ranked.device)[:, None, None, None]
        for number in ((count + 1) // 2, count):
            mean = torch.where(rank < number[:, :, None], ranked, 0.0).sum(2) / number.clamp_min(1)
            costs.append(torch.where(count > 0, mean, unseen_cost))
    return torch.stack(costs, 3)
