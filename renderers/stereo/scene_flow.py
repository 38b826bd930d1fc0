"""Scene flow: how fast what each pixel of a view shows moves through space.

Optical flow leads from a view to those before and after it. The point of the pixel and its velocity
are then to project there. Along the rays nothing is known of the motion, so the least velocity is
taken that explains the flow (a ridge regression per pixel). Flow is DIS (Kroeger et al. 2016) by
OpenCV, checked forward and backward. Nothing is learnt here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.renderers.stereo.config import SceneFlowConfig
from fsm.renderers.stereo.sources import SourceViews, pixel_grid, sample_maps
from fsm.views import Views

# Pictures whose longer side is below this are enlarged twice for optical flow, whose patches have
# eight pixels.
SMALL = 384
BYTE = 255.0
# Cosine of the angle between two views, below which no flow leads from one to the other.
ALIKE = 0.9


@dataclass(frozen=True)
class Flow:
    """Optical flow from views to their neighbours in time."""

    index: Int[Tensor, "b v 2"]
    """The view before and the view after each one; itself where there is none."""
    shift: Float[Tensor, "b v 2 h w 2"]
    """Pixels."""
    trust: Float[Tensor, "b v 2 h w"]
    """From 0 to 1: the flow back agrees; 0 where there is no neighbour."""


@torch.no_grad()
@full_precision
def scene_flow(
    views: Views, frames: Views, rho: Float[Tensor, "b v 1 h w"], config: SceneFlowConfig
) -> Float[Tensor, "b v 3 h w"]:
    """Velocity of what each pixel of ``views`` shows at inverse depth ``rho``, in model units per
    unit of model time and model axes; a constant for autograd. Zero where the moments before and
    after are not known or flow is not to be trusted.
    """
    flow = optical_flow(views, frames, config)
    sources = SourceViews.of(views, frames, flow.index)
    focal = sources.cameras.focal[..., None, None, :]
    centre = sources.cameras.principal[..., None, None, :]
    there = (pixel_grid(views) + flow.shift - centre) / focal
    ray = torch.cat([there, torch.ones_like(there[..., :1])], -1)
    length = (1.0 + there[..., :1].square() + there[..., 1:].square()).sqrt()
    ray = ray / length  # [b v 2 h w 3], axes of the neighbour
    ray = torch.einsum("bvkji,bvkhwj->bvkhwi", sources.cameras.rotation, ray)
    # axes of the view from here on, lengths over the z-depth of the point
    point = sources.rays.movedim(2, -1)[:, :, None]
    back = sources.cameras.rotation.mT @ sources.cameras.translation[..., None]
    offset = back[..., 0][..., None, None, :] * rho[:, :, 0, :, :][:, :, None, ..., None]
    apart = point + offset
    across = apart - (apart * ray).sum(-1, keepdim=True) * ray
    gap = sources.gaps[..., None, None]
    weight = flow.trust * gap.square()
    eye = torch.eye(3).to(ray)
    outer = ray[..., :, None] * ray[..., None, :]
    normal = (weight[..., None, None] * (eye - outer)).sum(2)
    ridge = config.ridge * weight.sum(2) + 1e-9
    right = -(flow.trust * gap)[..., None].mul(across).sum(2)
    angular = torch.linalg.solve(normal + ridge[..., None, None] * eye, right[..., None])[..., 0]
    angular = angular.movedim(-1, 2)  # velocity times inverse depth, [b v 3 h w]
    local = angular / rho.clamp_min(config.farthest)
    return torch.einsum("bvij,bvjhw->bvihw", views.c2w[..., :3, :3], local)


def optical_flow(views: Views, frames: Views, config: SceneFlowConfig) -> Flow:
    """Flow from ``views`` [b v] to those of ``frames`` [b n] before and after them."""
    assert views.rgb is not None
    assert frames.rgb is not None
    index, found = neighbours(views, frames)
    there, again = (torch.zeros(*index.shape, *views.hw, 2) for _ in range(2))
    own, others, between = _grey(views.rgb), _grey(frames.rgb), _Between()
    for b, v, k in found.nonzero().tolist():
        a, c = own[b, v], others[b, int(index[b, v, k])]
        there[b, v, k], again[b, v, k] = between(a, c), between(c, a)
    there, again = there.to(views.rgb), again.to(views.rgb)
    k = torch.arange(index[0].numel(), device=index.device).view(1, *index.shape[1:])
    place = pixel_grid(views) + there
    back, inside = sample_maps(again.flatten(1, 2).movedim(-1, 2), k.expand(index.shape), place)
    off = torch.hypot(back[:, :, :, 0] + there[..., 0], back[:, :, :, 1] + there[..., 1])
    trust = torch.exp(-(off / config.agreement).square()) * inside[:, :, :, 0]
    return Flow(index, there, trust * found[..., None, None])


def neighbours(views: Views, frames: Views) -> tuple[Int[Tensor, "b v 2"], Bool[Tensor, "b v 2"]]:
    """The frame of the moment before, and of that after, each view, from the nearest place; and
    whether there is one that looks the same way. Flow between unlike views means nothing.
    """
    alike = torch.einsum("bvi,bni->bvn", views.c2w[..., :3, 2], frames.c2w[..., :3, 2]) > ALIKE
    gap = frames.time[:, None] - views.time[:, :, None]
    apart = torch.cdist(views.c2w[..., :3, 3], frames.c2w[..., :3, 3])
    chosen, found = [], []
    for sign in (-1.0, 1.0):
        ahead = torch.where(sign * gap > 1e-6, sign * gap, torch.inf)
        least = ahead.amin(-1, keepdim=True)
        among = torch.where(ahead <= least + 1e-6, apart, torch.inf)
        chosen.append(among.argmin(-1))
        own = alike.gather(-1, chosen[-1][..., None])[..., 0]
        found.append(least[..., 0].isfinite() & own)
    return torch.stack(chosen, -1), torch.stack(found, -1)


def _grey(rgb: Float[Tensor, "b n 3 h w"]) -> np.ndarray:
    """Bytes [b n h w]."""
    return (rgb.float().mean(2).clamp(0.0, 1.0) * BYTE).round().byte().cpu().numpy()


class _Between:
    """Optical flow from one picture of bytes to another, in pixels [h w 2]; each pair once."""

    def __init__(self) -> None:
        import cv2

        self._finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._found: dict[tuple[bytes, bytes], Tensor] = {}

    def __call__(self, a: np.ndarray, b: np.ndarray) -> Float[Tensor, "h w 2"]:
        pair = a.tobytes(), b.tobytes()
        if pair not in self._found:
            self._found[pair] = torch.from_numpy(self._flow(a, b))
        return self._found[pair]

    def _flow(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        import cv2

        h, w = a.shape
        if max(h, w) >= SMALL:
            return self._finder.calc(a, b, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        a, b = (cv2.resize(p, (2 * w, 2 * h), interpolation=cv2.INTER_CUBIC) for p in (a, b))
        flow = self._finder.calc(a, b, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return 0.5 * cv2.resize(flow, (w, h), interpolation=cv2.INTER_AREA)
