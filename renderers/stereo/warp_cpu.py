"""Geometric consistency, forward warp and occlusion for float32 on the CPU, compiled, without
gradients: the rules of the plain forms, which they are tested against.

The same bits for any number of threads: sums of one source view are taken by one thread, those of
all in their order.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fsm.kernels.compiled import on_threads, workers
from fsm.renderers.stereo import warp_kernels as kernels
from fsm.renderers.stereo.config import ConsistencyConfig, LayerConfig, WarpConfig
from fsm.renderers.stereo.sampling_cpu import arrays
from fsm.renderers.stereo.sources import Projected, SourceViews


def contradicted_on_cpu(
    views: SourceViews,
    counted: Bool[Tensor, "b v k"],
    rho: Float[Tensor, "b v 1 h w"],
    motion: Float[Tensor, "b v 3 h w"],
    config: ConsistencyConfig,
) -> Bool[Tensor, "b v 1 h w"]:
    """See ``consistency.contradicted``."""
    (b, v, _, h, w), threads = rho.shape, workers()
    farthest, nearest, lost = rho.new_empty(3, b, v, h * w).numpy()
    on_threads(
        kernels.extremes, threads, threads, config.neighbourhood, *arrays(rho[:, :, 0]),
        farthest, nearest,
    )  # fmt: skip
    cameras, rays = views.cameras.tensors(), views.rays.flatten(3)
    given = (views.index, counted, *cameras, rays, motion.flatten(3), views.gaps, rho.flatten(2))
    rules = (config.support, config.seen_through, config.slack)
    on_threads(
        kernels.contradict, threads, threads, w, *rules, *arrays(*given), farthest, nearest, lost
    )
    return torch.from_numpy(lost).view(b, v, 1, h, w) > 0


def carried_on_cpu(
    seen: Projected,
    used: Bool[Tensor, "b vk 1 hn wn"],
    sure: Bool[Tensor, "b vk 1 hn wn"],
    rest: Float[Tensor, "b vk c hn wn"],
    shape: tuple[int, int],
    hw: tuple[int, int],
    config: WarpConfig,
) -> Float[Tensor, "n d h w"]:
    """See ``forward_warp.plain_carried``."""
    (b, v), (h, w), threads = shape, hw, workers()
    m, c = rest.shape[1], rest.shape[2]
    standing = used.float() + sure.float()  # 0 lost, 1 used, 2 sure
    carried = torch.cat([seen.inverse_depth, rest], 2).flatten(3)
    pixels, depths, rank, values = arrays(
        seen.pixels.flatten(2, 4), seen.inverse_depth.flatten(2), standing.flatten(2), carried
    )
    fronts = rest.new_empty(2, b, m, h * w)
    on_threads(kernels.bring_forward, threads, threads, w, pixels, depths, rank, *fronts.numpy())
    firm, any_ = fronts.unflatten(2, (v, m // v)).amax(3)
    totals, counts = rest.new_empty(b, m, c + 1, h * w), rest.new_empty(b, m, h * w)
    on_threads(
        kernels.add_forward, threads, threads, w, config.same_surface, config.slack,
        pixels, depths, rank, values, firm.numpy(), any_.numpy(), totals.numpy(), counts.numpy(),
    )  # fmt: skip
    total, count = (t.unflatten(1, (v, m // v)).sum(2) for t in (totals, counts))
    means = (total / count.clamp_min(1.0)[:, :, None]).view(b * v, c + 1, h, w)
    rho, known = means[:, 0].contiguous(), (count > 0).view(b * v, h, w)
    on_threads(kernels.fill_holes, threads, threads, rho.numpy(), known.numpy())
    return torch.cat([rho[:, None], means[:, 1:]], 1)


def visible_on_cpu(seen: Projected, config: LayerConfig) -> Float[Tensor, "b v k 1 h w"]:
    """See ``occlusion.visible``."""
    b, v, k, h, w = seen.inverse_depth.shape
    visible, threads = seen.inverse_depth.new_empty(b, v * k, h * w), workers()
    given = arrays(seen.pixels.view(b, v * k, h * w, 2), seen.inverse_depth.view(b, v * k, h * w))
    on_threads(
        kernels.show, threads, threads, *seen.hw, config.same_surface, config.slack,
        *given, visible.numpy(),
    )  # fmt: skip
    return visible.view(b, v, k, 1, h, w)
