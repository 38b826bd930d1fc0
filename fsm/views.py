"""The type that flows through everything: posed moments of a scene.

Convention, everywhere in this package: OpenCV camera-to-world (+x right, +y down, +z forward);
intrinsics in pixels with the centre of the first pixel at (0.5, 0.5); time in seconds since the
clip's first frame; sRGB in [0, 1]. Other conventions are converted at the edges, in
``fsm.datasets.conventions`` and in the exporters.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fsm.errors import InputError
from fsm.frame_ids import no_frames

# Model time is linear in seconds and [-1, 1] over the inputs; requests further than one input span
# outside are held there.
MODEL_TIME_LIMIT = 3.0


@dataclass(frozen=True)
class Views:
    """V posed moments of a scene. Without ``rgb`` a request, with ``rgb`` an observation."""

    c2w: Float[Tensor, "*b v 4 4"]
    """Camera-to-world, OpenCV axes, in the clip's unit of length (metres where the clip is metric).
    """
    intrinsics: Float[Tensor, "*b v 4"]
    """fx, fy, cx, cy in pixels."""
    time: Float[Tensor, "*b v"]
    """Seconds since the clip's first frame."""
    hw: tuple[int, int]
    """Height and width in pixels."""
    rgb: Float[Tensor, "*b v 3 h w"] | None = None
    """sRGB in [0, 1]."""
    mask: Bool[Tensor, "*b v 1 h w"] | None = None
    """Pixels that count in losses and metrics."""
    frame_ids: Int64[Tensor, "*b v 2"] | None = None
    """Which frame of which clip each view is (``fsm.frame_ids``); None where none is one."""

    def __post_init__(self) -> None:
        lead = self.c2w.shape[:-2]
        for name, tail in (("intrinsics", (4,)), ("time", ()), ("frame_ids", (2,))):
            value = getattr(self, name)
            found = (*lead, *tail) if value is None else tuple(value.shape)
            if found != (*lead, *tail):
                raise InputError(
                    f"Views.{name} has shape {found}, expected {(*lead, *tail)} to go with "
                    f"{lead} poses."
                )
        for name, channels in (("rgb", 3), ("mask", 1)):
            image = getattr(self, name)
            expected = (*lead, channels, *self.hw)
            if image is not None and tuple(image.shape) != expected:
                raise InputError(
                    f"Views.{name} has shape {tuple(image.shape)}, expected {expected}."
                )

    def __len__(self) -> int:
        """Number of views v."""
        return self.c2w.shape[-3]

    @property
    def one_moment(self) -> bool:
        """Whether all views of every sample share one moment: such a capture is static."""
        return bool((self.time == self.time[..., :1]).all())

    def _mapped(self, fn) -> "Views":
        tensors = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "hw"
        }
        return dataclasses.replace(
            self, **{k: None if t is None else fn(k, t) for k, t in tensors.items()}
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "Views":
        """Select over v; an integer keeps the axis (a single view is still ``Views``)."""
        if isinstance(index, int):
            index = [index]
        axis_from_end = {"c2w": 2, "intrinsics": 1, "time": 0, "rgb": 3, "mask": 3, "frame_ids": 1}
        return self._mapped(lambda name, t: t[(..., index, *(slice(None),) * axis_from_end[name])])

    def to(self, device: torch.device | str) -> "Views":
        """All tensors on ``device``."""
        return self._mapped(lambda _, t: t.to(device))

    def batched(self) -> "Views":
        """Add one leading batch axis."""
        return self._mapped(lambda _, t: t[None])

    def unbatched(self) -> "Views":
        """Remove a leading batch axis of size one."""
        if self.c2w.ndim != 4 or self.c2w.shape[0] != 1:
            raise InputError(
                "Views.unbatched needs one batch axis of size 1, found shape "
                f"{tuple(self.c2w.shape)}."
            )
        return self._mapped(lambda _, t: t[0])

    def samples(self) -> list["Views"]:
        """The entries of the one batch axis, each [v]."""
        return [self._mapped(lambda _, t, i=i: t[i]) for i in range(self.c2w.shape[0])]

    def without_rgb(self) -> "Views":
        """The request for these views: what a renderer may see of a target."""
        return dataclasses.replace(self, rgb=None, mask=None)

    def resized(self, hw: tuple[int, int]) -> "Views":
        """Scale pixels and intrinsics together (antialiased); the field of view stays, the aspect
        may change.
        """
        if tuple(hw) == tuple(self.hw):
            return self
        sy, sx = hw[0] / self.hw[0], hw[1] / self.hw[1]
        scale = self.intrinsics.new_tensor([sx, sy, sx, sy])
        rgb = None if self.rgb is None else resize_images(self.rgb, hw)
        mask = None if self.mask is None else resize_images(self.mask.float(), hw) > 0.5
        return dataclasses.replace(
            self, intrinsics=self.intrinsics * scale, hw=hw, rgb=rgb, mask=mask
        )

    def cropped(self, top: int, left: int, hw: tuple[int, int]) -> "Views":
        """Cut the window [top, top+h) x [left, left+w) out of pixels and intrinsics together."""
        h, w = hw
        if top < 0 or left < 0 or top + h > self.hw[0] or left + w > self.hw[1]:
            raise InputError(
                f"crop at ({top}, {left}) of size {hw} leaves the image of size {self.hw}."
            )
        shift = self.intrinsics.new_tensor([0.0, 0.0, left, top])
        window = (..., slice(top, top + h), slice(left, left + w))
        return dataclasses.replace(
            self,
            intrinsics=self.intrinsics - shift,
            hw=hw,
            rgb=None if self.rgb is None else self.rgb[window],
            mask=None if self.mask is None else self.mask[window],
        )

    def covering(self, hw: tuple[int, int]) -> "Views":
        """Resize so that the image just covers ``hw``, then crop its centre: how every loader makes
        a working size.
        """
        scale = max(hw[0] / self.hw[0], hw[1] / self.hw[1])
        cover = (max(hw[0], round(self.hw[0] * scale)), max(hw[1], round(self.hw[1] * scale)))
        return self.resized(cover).cropped((cover[0] - hw[0]) // 2, (cover[1] - hw[1]) // 2, hw)

    @staticmethod
    def cat(parts: Sequence["Views"]) -> "Views":
        """Join along v; all parts must agree in size and in which pictures they carry."""
        first = parts[0]
        for part in parts[1:]:
            if part.hw != first.hw or (part.rgb is None) != (first.rgb is None):
                raise InputError(
                    "Views.cat needs parts of one image size that all have, or all lack, rgb."
                )
        parts, axis = _with_frame_ids(parts), first.c2w.ndim - 3
        first = parts[0]
        return first._mapped(lambda name, _: torch.cat([getattr(p, name) for p in parts], dim=axis))

    @staticmethod
    def stack(samples: Sequence["Views"]) -> "Views":
        """Join along a new leading batch axis."""
        samples = _with_frame_ids(samples)
        return samples[0]._mapped(lambda name, _: torch.stack([getattr(s, name) for s in samples]))


def _with_frame_ids(parts: Sequence[Views]) -> Sequence[Views]:
    """The same, where some have ids all with them."""
    if all(part.frame_ids is None for part in parts):
        return parts
    return [
        part
        if part.frame_ids is not None
        else dataclasses.replace(part, frame_ids=no_frames(part.time.shape).to(part.time.device))
        for part in parts
    ]


@dataclass(frozen=True)
class Rendering:
    """What a scene looks like from some views."""

    rgb: Float[Tensor, "*b v 3 h w"]
    """sRGB in [0, 1]."""
    alpha: Float[Tensor, "*b v 1 h w"] | None = None
    """Opacity in [0, 1]."""
    depth: Float[Tensor, "*b v 1 h w"] | None = None
    """z-depth along the camera's forward axis, in the clip's unit of length."""


@dataclass(frozen=True)
class SceneFrame:
    """Similarity and time map between a clip's space and seconds and a model's normalised space and
    time.

    Fitted on the inputs only, kept with the scene and applied to every later request, so that
    training, evaluation, the viewer and the command line all speak metres and seconds.
    """

    T_model_world: Float[Tensor, "*b 4 4"]
    """Rigid part: rotates and translates world coordinates before scaling."""
    scale: Float[Tensor, "*b"]
    """Model units per world unit."""
    time_start: Float[Tensor, "*b"]
    """Seconds that map to model time -1."""
    time_span: Float[Tensor, "*b"]
    """Seconds between model times -1 and +1; infinite for a static capture."""

    @staticmethod
    def identity(
        batch: tuple[int, ...] = (), time_start: float = 0.0, time_span: float = 2.0
    ) -> "SceneFrame":
        """No change of space; model time -1 at ``time_start`` and +1 at ``time_start +
        time_span``.
        """
        return SceneFrame(
            torch.eye(4).expand(*batch, 4, 4),
            torch.ones(batch),
            torch.full(batch, float(time_start)),
            torch.full(batch, float(time_span)),
        )

    @staticmethod
    def fit(inputs: Views) -> "SceneFrame":
        """Mean camera as origin, its axes as axes, the largest absolute centre coordinate as one
        unit, inputs' times as [-1, 1].

        Inputs of one moment are a static capture: its time span is infinite, so every moment is
        model time -1.

        Follows FSM's pose normalisation (released code; mean centre, mean forward and mean y axis),
        except that only the inputs are looked at. Cameras that share one centre keep their unit of
        length.
        """
        c2w = inputs.c2w.double()
        centre = c2w[..., :3, 3].mean(-2)
        forward = _unit(c2w[..., :3, 2].mean(-2), fallback=c2w[..., 0, :3, 2])
        down = c2w[..., :3, 1].mean(-2)
        right = _unit(torch.linalg.cross(down, forward), fallback=c2w[..., 0, :3, 0])
        right = _unit(
            right - (right * forward).sum(-1, keepdim=True) * forward, fallback=c2w[..., 0, :3, 0]
        )
        down = torch.linalg.cross(forward, right)
        rotation = torch.stack([right, down, forward], dim=-2)  # rows: world -> model
        T = torch.eye(4, dtype=torch.float64, device=c2w.device).repeat(*centre.shape[:-1], 1, 1)
        T[..., :3, :3] = rotation
        T[..., :3, 3] = -(rotation @ centre[..., None])[..., 0]
        centred = (T[..., None, :, :] @ c2w)[..., :3, 3]
        extent = centred.abs().amax((-2, -1))
        # float32 poses far from the origin: smaller extents are rounding
        noise = 1e-6 * centre.abs().amax(-1)
        scale = torch.where(
            extent > noise.clamp_min(1e-12), 1.0 / extent.clamp_min(1e-30), torch.ones_like(extent)
        )
        start = inputs.time.amin(-1)
        span = inputs.time.amax(-1) - start
        span = torch.where(span > 0, span, torch.full_like(span, torch.inf))
        return SceneFrame(T.float(), scale.float(), start.float(), span.float())

    def model_time(self, seconds: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
        """Seconds to model time, held within ``MODEL_TIME_LIMIT``: the one function used in
        training and inference alike.
        """
        return self._unlimited(seconds).clamp(-MODEL_TIME_LIMIT, MODEL_TIME_LIMIT)

    def at(self, seconds: float) -> Float[Tensor, ""]:
        """Model time of one moment; the frame is unbatched."""
        return self.model_time(self.time_start.new_tensor([seconds]))[0]

    def warn_if_held(self, seconds: Float[Tensor, "*b v"]) -> None:
        """Warn where ``model_time`` holds a time back; for those who take requests from outside."""
        if bool((self._unlimited(seconds.to(self.time_start)).abs() > MODEL_TIME_LIMIT).any()):
            warnings.warn(
                "a requested time lies more than one input span outside the inputs; held "
                f"at model time ±{MODEL_TIME_LIMIT}.",
                stacklevel=3,
            )

    def _unlimited(self, seconds: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
        return 2.0 * (seconds - self.time_start[..., None]) / self.time_span[..., None] - 1.0

    def seconds(self, model_time: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
        """Inverse of ``model_time`` inside its limits; of a static capture its one moment."""
        span = torch.where(self.time_span.isinf(), torch.zeros_like(self.time_span), self.time_span)
        return (model_time + 1.0) / 2.0 * span[..., None] + self.time_start[..., None]

    @property
    def static(self) -> bool:
        """Whether the inputs were of one moment, so that the scene has no time."""
        return bool(self.time_span.isinf().all())

    def to_model(self, views: Views) -> Views:
        """The same views in model space and model time; pixels and intrinsics are untouched."""
        c2w = self.T_model_world[..., None, :, :].double() @ views.c2w.double()
        c2w[..., :3, 3] *= self.scale[..., None, None].double()
        return dataclasses.replace(views, c2w=c2w.float(), time=self.model_time(views.time))

    def to(self, device: torch.device | str) -> "SceneFrame":
        """All tensors on ``device``."""
        return SceneFrame(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))


def resize_images(
    images: Float[Tensor, "*b c h w"], hw: tuple[int, int]
) -> Float[Tensor, "*b c h2 w2"]:
    """Resize with half-pixel centres: box average where both sides shrink by whole factors, else
    antialiased bilinear.

    The box average is exact and sharp; the triangle filter of the general case is wider and smooths
    a little.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    (h, w), (new_h, new_w) = flat.shape[-2:], hw
    if h % new_h == 0 and w % new_w == 0:
        out = F.avg_pool2d(flat, (h // new_h, w // new_w))
    else:
        out = F.interpolate(
            flat, size=(new_h, new_w), mode="bilinear", align_corners=False, antialias=True
        )
    return out.reshape(*images.shape[:-2], new_h, new_w)


def _unit(v: Tensor, fallback: Tensor) -> Tensor:
    """Normalise; directions that cancel out (opposed cameras) fall back to the first camera's."""
    norm = v.norm(dim=-1, keepdim=True)
    return torch.where(norm > 1e-6, v / norm.clamp_min(1e-12), fallback)
