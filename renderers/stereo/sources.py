"""The geometry of multi-view stereo: a reference view and its source views.

The *reference view* is the one whose depth is sought; its *source views* show the same scene from
elsewhere. Shapes: b batch, v reference views, n views to choose from, k source views per reference
view, d depth planes. Everything is in model space.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.kernels.dispatch import runs_compiled
from fsm.rays import full_precision
from fsm.renderers.stereo.constants import LEAST_PIXELS, NEAR_LIMIT
from fsm.views import Views


@dataclass(frozen=True)
class RelativeCameras:
    """Source cameras as seen from a reference camera: x_source = rotation x_reference +
    translation.
    """

    rotation: Float[Tensor, "b v k 3 3"]
    """From the axes of the reference view to those of the source view."""
    translation: Float[Tensor, "b v k 3"]
    """Centre of the reference view in the axes of the source view, model units."""
    focal: Float[Tensor, "b v k 2"]
    """Focal lengths of the source view in pixels."""
    principal: Float[Tensor, "b v k 2"]
    """Principal point of the source view in pixels."""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All fields in their order, [b v k ...], as compiled code takes them."""
        return self.rotation, self.translation, self.focal, self.principal


@dataclass(frozen=True)
class Projected:
    """Points of reference views as their source views see them."""

    pixels: Float[Tensor, "b v k *d h w 2"]
    """x and y in pixels; far outside the frame where a point is behind the source view."""
    inverse_depth: Float[Tensor, "b v k *d h w"]
    """Inverse z-depth in the source view, model units; large where a point is behind it."""
    scale: Float[Tensor, "b v k *d h w"]
    """z-depth in the reference view over that in the source view; 1 where a point is behind it."""
    hw: tuple[int, int]
    """Height and width of the source views."""

    @property
    def inside(self) -> Bool[Tensor, "b v k *d h w"]:
        """Whether the source view sees the place."""
        h, w = self.hw
        x, y = self.pixels.unbind(-1)
        return (x >= 0) & (x <= w) & (y >= 0) & (y <= h)


@dataclass(frozen=True)
class SourceViews:
    """The source views of some reference views, and where these project into them."""

    reference: Views
    """The reference views [b v], with or without pictures."""
    views: Views
    """All views [b n] that source views are chosen from."""
    index: Int[Tensor, "b v k"]
    """Which of ``views`` are the source views of each reference view."""
    cameras: RelativeCameras
    """Source cameras relative to their reference camera."""
    gaps: Float[Tensor, "b v k"]
    """Signed model time from the reference view to each source view."""
    rays: Float[Tensor, "b v 3 h w"]
    """Points at z-depth one through the pixel centres of the reference views, in their axes."""

    @staticmethod
    @full_precision
    def of(reference: Views, views: Views, index: Int[Tensor, "b v k"]) -> "SourceViews":
        """The views of ``views`` at ``index`` as source views of ``reference``."""
        pose, lens = gather(views.c2w, index), gather(views.intrinsics, index)
        back = pose[..., :3, :3].transpose(-1, -2)
        offset = reference.c2w[:, :, None, :3, 3] - pose[..., :3, 3]
        cameras = RelativeCameras(
            back @ reference.c2w[:, :, None, :3, :3],
            (back @ offset[..., None])[..., 0],
            lens[..., :2],
            lens[..., 2:],
        )
        gaps = gather(views.time, index) - reference.time[:, :, None]
        return SourceViews(reference, views, index, cameras, gaps, camera_rays(reference))

    @property
    def frames(self) -> Float[Tensor, "b n 3 hn wn"]:
        """Pictures of all ``views``."""
        assert self.views.rgb is not None
        return self.views.rgb

    @property
    def pictures(self) -> Float[Tensor, "b v 3 h w"]:
        """Pictures of the reference views."""
        assert self.reference.rgb is not None
        return self.reference.rgb

    @property
    def mean_gap(self) -> Float[Tensor, "b v 1"]:
        """Mean absolute time gap of the source views."""
        return self.gaps.abs().mean(-1, keepdim=True).clamp_min(1e-6)

    @property
    def relative_gaps(self) -> Float[Tensor, "b v k"]:
        """Signed time gaps over their mean absolute value."""
        return self.gaps / self.mean_gap

    def resized(self, hw: tuple[int, int], views_hw: tuple[int, int]) -> "SourceViews":
        """The same cameras at other picture sizes, without pictures."""
        reference, views = (
            v.without_rgb().resized(size)
            for v, size in ((self.reference, hw), (self.views, views_hw))
        )
        return SourceViews.of(reference, views, self.index)

    def compacted(self) -> "SourceViews":
        """The same without views that are nobody's source view: work must not grow with a clip."""
        used, index = self.index.unique(return_inverse=True)
        return replace(self, views=self.views[used], index=index)

    def reversed(self) -> "SourceViews":
        """Every source view [b vk] as a reference view of its own, with the one that it was chosen
        for as its only source view.
        """
        b, v, k = self.index.shape
        pose, lens, time = (
            gather(t, self.index).flatten(1, 2)
            for t in (self.views.c2w, self.views.intrinsics, self.views.time)
        )
        views = Views(pose, lens, time, self.views.hw)
        own = torch.arange(v, device=self.index.device).repeat_interleave(k)
        return SourceViews.of(
            views, self.reference.without_rgb(), own[None, :, None].expand(b, -1, 1)
        )

    def project(
        self,
        inverse_depth: Float[Tensor, "b v 1 h w"],
        motion: Float[Tensor, "b v 3 h w"] | None = None,
    ) -> Projected:
        """Where the source views see the points of the reference views at these inverse z-depths.

        ``motion`` is velocity times inverse depth, in the axes of the reference view and per unit
        of model time.
        """
        moves = torch.zeros_like(self.rays) if motion is None else motion
        given = (*self.cameras.tensors(), self.rays, moves, inverse_depth)
        if compiles(self.reference.hw, *given):
            from fsm.renderers.stereo.sampling_cpu import project_on_cpu

            far = -10.0 * max(*self.reference.hw, *self.views.hw)
            paths = (self.cameras.tensors(), self.rays, moves, self.gaps)
            return Projected(*project_on_cpu(*paths, inverse_depth, far), self.views.hw)
        found = self.project_planes(inverse_depth, motion)
        pixels, inverse_depth, scale = (
            t[:, :, :, 0] for t in (found.pixels, found.inverse_depth, found.scale)
        )
        return Projected(pixels, inverse_depth, scale, found.hw)

    @full_precision
    def project_planes(
        self,
        inverse_depths: Float[Tensor, "*b d _h _w"],
        motion: Float[Tensor, "b v 3 h w"] | None = None,
    ) -> Projected:
        """``project`` for d inverse depths at once: planes [d 1 1], or those of each pixel
        [b v d h w].
        """
        ahead = torch.einsum("bvkij,bvjhw->bvkihw", self.cameras.rotation, self.rays)
        if motion is not None:
            turned = torch.einsum("bvkij,bvjhw->bvkihw", self.cameras.rotation, motion)
            ahead = ahead + turned * self.gaps[..., None, None, None]
        rho = inverse_depths.expand(*self.index.shape[:2], *inverse_depths.shape[-3:])[:, :, None]
        translation = self.cameras.translation[..., None, None, None]
        # the point over its z-depth in the reference view, [b v k d h w] each
        x, y, z = (ahead[:, :, :, :, None] + translation * rho[:, :, :, None]).unbind(3)
        before = z > NEAR_LIMIT
        scale = 1.0 / torch.where(before, z, torch.ones_like(z))
        fx, fy = self.cameras.focal[..., None, None, None].unbind(3)
        cx, cy = self.cameras.principal[..., None, None, None].unbind(3)
        far = x.new_tensor(-10.0 * max(*self.reference.hw, *self.views.hw))
        pixels = [
            torch.where(before, p * scale * f + c, far) for p, f, c in ((x, fx, cx), (y, fy, cy))
        ]
        inverse_depth = rho / z.clamp_min(NEAR_LIMIT)
        return Projected(torch.stack(pixels, dim=-1), inverse_depth, scale, self.views.hw)

    def sample(
        self,
        maps: Float[Tensor, "b n c hn wn"],
        pixels: Float[Tensor, "b v k h w 2"],
        mode: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> tuple[Float[Tensor, "b v k c h w"], Float[Tensor, "b v k 1 h w"]]:
        """Maps of the source views at ``pixels``, and 1 where the place lies inside the map.

        ``maps`` are those of all ``views``, of any size whose pixels ``pixels`` are.
        """
        return sample_maps(maps, self.index, pixels, mode)


@full_precision
def sample_maps(
    maps: Float[Tensor, "b n c hn wn"],
    index: Int[Tensor, "b v k"],
    pixels: Float[Tensor, "b v k h w 2"],
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> tuple[Float[Tensor, "b v k c h w"], Float[Tensor, "b v k 1 h w"]]:
    """``SourceViews.sample`` without cameras."""
    if compiles(pixels.shape[3:5], maps, pixels):
        from fsm.renderers.stereo.sampling_cpu import sample_on_cpu

        return sample_on_cpu(maps, index, pixels, mode)
    return plain_samples(maps, index, pixels, mode)


def compiles(hw: Sequence[int], *given: Tensor) -> bool:
    """Whether compiled code without gradients can do the work on pictures of this size."""
    return hw[0] * hw[1] >= LEAST_PIXELS and runs_compiled(constants=given)


def plain_samples(
    maps: Float[Tensor, "b n c hn wn"],
    index: Int[Tensor, "b v k"],
    pixels: Float[Tensor, "b v k h w 2"],
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> tuple[Float[Tensor, "b v k c h w"], Float[Tensor, "b v k 1 h w"]]:
    """``sample_maps`` in torch, on any device and in any precision."""
    b, v, k, h, w, _ = pixels.shape
    size = pixels.new_tensor([maps.shape[-1], maps.shape[-2]])
    at = (pixels / size * 2.0 - 1.0).flatten(0, 2)
    inside = (at.abs() <= 1.0).all(-1).float().view(b, v, k, 1, h, w)
    chosen = gather(maps, index).flatten(0, 2).to(pixels.dtype)
    samples = F.grid_sample(
        chosen, at.clamp(-2.0, 2.0), mode=mode, padding_mode="border", align_corners=False
    )
    return samples.view(b, v, k, -1, h, w), inside


def pixel_grid(views: Views) -> Float[Tensor, "b v 1 h w 2"]:
    """Pixel centres (x, y) of every view."""
    h, w = views.hw
    y, x = torch.meshgrid(
        torch.arange(h, device=views.c2w.device) + 0.5,
        torch.arange(w, device=views.c2w.device) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1).expand(*views.c2w.shape[:2], 1, h, w, 2)


def camera_rays(views: Views) -> Float[Tensor, "b v 3 h w"]:
    """Points at z-depth one through every pixel centre, in the axes of each camera."""
    fx, fy, cx, cy = views.intrinsics[..., None, None].unbind(2)
    x, y = pixel_grid(views)[:, :, 0].unbind(-1)
    return torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], dim=2)


def gather(
    values: Float[Tensor, "b n *rest"], index: Int[Tensor, "b v k"]
) -> Float[Tensor, "b v k *rest"]:
    """Entries of every sample's values."""
    batch = torch.arange(values.shape[0], device=values.device)[:, None, None]
    return values[batch, index]
