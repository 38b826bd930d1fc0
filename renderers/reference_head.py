"""The reference head: an extension of ours to the direct decoder that copies pixels instead of inventing them.

For every target pixel, and for each of the K input frames nearest in time and pose, the head predicts where to look in
that frame and how much to trust what it finds; the output is the softmax blend of the sampled pixels and a directly
predicted colour. Released weights do not have it.

Where to look (``sampling``):

* ``depth``: an inverse depth ρ, an angular motion m and a small residual flow. The target pixel's ray r (z-depth one)
  seen from a reference with centre c_k at time t_k is  r + ρ (o - c_k) + m (t_k - t),  projected into the reference; at
  ρ = 0 this is the exact homography of a turning camera.
* ``offset``: a free offset in pixels per reference.

Geometry is predicted on a grid of ``cells`` per patch side and upsampled, because depth and motion are smooth; colours and
blending weights are predicted per pixel, because occlusion edges are not. A few convolutions (``Refinement``) then look at
what was fetched and correct positions and weights, coarse to fine.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fsm.encoder import unpatchify
from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.views import Rendering, Views

META = 8  # numbers that describe a reference relative to a target: time 1, centre 3, forward axis 3, rank distance 1
CONTEXT = 8  # channels the tokens pass on to the refinement
RHO_SCALE = 0.2  # inverse depth per unit of the geometry layer's output
NEAREST_TO_INFINITY = 1e-3  # inverse depths below this are reported as this far away
OUTSIDE = -8.0  # logit of a sample that falls outside its frame or behind its camera


@dataclass(frozen=True)
class ReferenceHeadConfig:
    """Shape of the reference head."""

    references: int = 4
    """K, input frames looked at per target."""
    sampling: Literal["depth", "offset"] = "depth"
    """How sample positions are parametrised."""
    hidden: int = 256
    """Width of the head's hidden layer."""
    cells: int = 2
    """Grid points of the geometry per patch side."""
    refinements: tuple[int, ...] = (4, 2)
    """Pixel strides at which the fetched samples are looked at and corrected, in this order; empty turns it off."""
    refinement_width: int = 48
    """Channels of the refinement's convolutions."""

    def __post_init__(self) -> None:
        if self.references < 1:
            raise InputError(f"model config: references is {self.references}, must be at least 1.")


class ReferenceHead(nn.Module):
    """Softmax blend of K sampled input pixels and a predicted colour, per target pixel."""

    uses_references = True

    def __init__(self, dim: int, patch: int, config: ReferenceHeadConfig) -> None:
        super().__init__()
        self.config, self.patch = config, patch
        cells = config.cells**2
        self.norm = nn.LayerNorm(dim, bias=False)
        self.shared = nn.Linear(dim, config.hidden)
        self.colour = nn.Linear(config.hidden, 4 * patch**2)  # rgb and its blending logit
        self.geometry = nn.Linear(config.hidden, 4 * cells)  # ρ, m
        self.slot_token = nn.Linear(dim, config.hidden)
        self.slot_meta = nn.Linear(META, config.hidden)
        self.slot_flow = nn.Linear(config.hidden, 2 * cells)
        self.slot_logit = nn.Linear(config.hidden, patch**2)
        self.context = nn.Linear(config.hidden, CONTEXT * cells)
        self.refinements: list[Refinement] = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            Refinement(config.references, config.refinement_width, stride) for stride in config.refinements
        )
        self.nearness = nn.Parameter(torch.tensor(2.0))
        # Start as a rotation-compensated blend of the nearest frames: every predicted correction is zero.
        for layer in (self.geometry, self.slot_flow, self.slot_logit):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Float[Tensor, "b v t d"], requests: Views, references: Views | None) -> Rendering:
        """Blend samples of ``references`` (observed inputs [b n], model space); depth only where ``sampling`` is depth."""
        if references is None or references.rgb is None:
            raise InputError("the reference head needs the input frames; they are missing from this scene.")
        chosen, distance = nearest_references(requests, references, self.config.references)
        x = self.norm(tokens)
        hidden = F.gelu(self.shared(x))
        colour = unpatchify(self.colour(hidden).float(), requests.hw, self.patch)
        slot = F.gelu(
            self.slot_token(x)[:, :, None]
            + self.slot_meta(reference_meta(requests, references, chosen, distance))[:, :, :, None]
        )
        pixels, inverse_depth = self._positions(hidden, slot, requests, references, chosen)
        samples, inside = sample_references(references, chosen, pixels)
        logits = self._pixel_logits(slot, requests.hw) - self.nearness * distance[..., None, None, None]
        rgb = torch.sigmoid(colour[:, :, :3])
        context = self._upsampled(self.context(hidden).float(), requests.hw)
        gaps = time_gaps(requests, references, chosen)
        for refinement in self.refinements:
            shift, more = refinement(samples, inside, gaps, rgb, context)
            pixels, logits = pixels + shift, logits + more
            samples, inside = sample_references(references, chosen, pixels)
        logits = torch.cat([(logits + OUTSIDE * (1.0 - inside))[:, :, :, 0], colour[:, :, 3:] - 2.0], dim=2)
        weights = torch.softmax(logits, dim=2)
        blended = (weights[:, :, :-1, None] * samples).sum(2) + weights[:, :, -1:] * rgb
        depth = None if inverse_depth is None else 1.0 / inverse_depth.clamp_min(NEAREST_TO_INFINITY)
        return Rendering(blended, depth=depth)

    def _pixel_logits(self, slot: Float[Tensor, "b v k t hidden"], hw: tuple[int, int]) -> Float[Tensor, "b v k 1 h w"]:
        b, v, k = slot.shape[:3]
        return unpatchify(self.slot_logit(slot).float().flatten(1, 2), hw, self.patch).view(b, v, k, 1, *hw)

    def _positions(self, hidden, slot, requests: Views, references: Views, chosen):
        """Where to sample every chosen reference: pixels [b v k h w 2], and inverse depth [b v 1 h w]."""
        b, v, k = chosen.shape
        h, w = requests.hw
        flow = self._upsampled(self.slot_flow(slot).float().flatten(1, 2), requests.hw).view(b, v, k, 2, h, w)
        flow = flow.permute(0, 1, 2, 4, 5, 3) * max(h, w) * 0.1
        if self.config.sampling == "offset":
            return pixel_grid(requests) + flow, None
        geometry = self._upsampled(self.geometry(hidden).float(), requests.hw)
        # Linear in ρ, starting at zero: one model unit is the cameras' spread, which may be a centimetre or ten metres, so
        # that no positive start is harmless, and a logarithm would have no gradient near it.
        rho = geometry[:, :, :1] * RHO_SCALE
        return warped_pixels(requests, references, chosen, rho, geometry[:, :, 1:] * 0.1) + flow, rho

    def _upsampled(self, values: Float[Tensor, "b v t ccn"], hw: tuple[int, int]) -> Float[Tensor, "b v n h w"]:
        cells = self.config.cells
        coarse = unpatchify(values, (hw[0] // self.patch * cells, hw[1] // self.patch * cells), cells)
        fine = F.interpolate(coarse.flatten(0, 1), size=hw, mode="bilinear", align_corners=False)
        return fine.unflatten(0, coarse.shape[:2])


class Refinement(nn.Module):
    """Looks at the fetched samples side by side and corrects where they came from and how much they count.

    The correction of positions is a velocity shared by all references, times each one's time gap, plus a small shift of
    its own; both are smooth (predicted at 1/stride), the weights are per pixel.
    """

    def __init__(self, references: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.references = stride, references
        channels = references * 5 + 3 + CONTEXT
        self.enter = nn.Conv2d(channels, width, kernel_size=stride + 1, stride=stride, padding=stride // 2)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.shift = nn.Conv2d(width, 2 + 2 * references, 3, padding=1)
        self.logit = nn.Conv2d(width, references * stride**2, 3, padding=1)
        for layer in (self.shift, self.logit):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        samples: Float[Tensor, "b v k 3 h w"],
        inside: Float[Tensor, "b v k 1 h w"],
        gaps: Float[Tensor, "b v k"],
        rgb: Float[Tensor, "b v 3 h w"],
        context: Float[Tensor, "b v c h w"],
    ) -> tuple[Float[Tensor, "b v k h w 2"], Float[Tensor, "b v k 1 h w"]]:
        """Shift of the sample positions in pixels, and what to add to the blending logits."""
        b, v, k, _, h, w = samples.shape
        gap_maps = gaps[..., None, None, None].expand_as(inside)
        slots = torch.cat([samples - 0.5, inside, gap_maps], dim=3).flatten(2, 3)
        x = F.gelu(self.enter(torch.cat([slots, rgb - 0.5, context], dim=2).flatten(0, 1)))
        for layer in self.body:
            x = x + F.gelu(layer(x))
        shift = F.interpolate(self.shift(x).float(), size=(h, w), mode="bilinear", align_corners=False)
        shift = shift.view(b, v, 1 + k, 2, h, w).movedim(3, -1) * self.stride
        logit = F.interpolate(F.pixel_shuffle(self.logit(x).float(), self.stride), size=(h, w), mode="nearest")
        return shift[:, :, :1] * gaps[..., None, None, None] + shift[:, :, 1:], logit.view(b, v, k, 1, h, w)


@full_precision
def nearest_references(
    requests: Views, references: Views, count: int
) -> tuple[Int[Tensor, "b v k"], Float[Tensor, "b v k"]]:
    """Indices of the ``count`` references nearest to each request in time and pose, in time order, and their distances.

    Distance in model units: |Δt| + |Δcentre| + (1 - cos of the angle between forward axes), divided by its mean over the
    chosen. Where there are fewer references than ``count`` the nearest are taken more than once.
    """
    with torch.no_grad():
        dt = (requests.time[:, :, None] - references.time[:, None]).abs()
        dc = torch.cdist(requests.c2w[..., :3, 3], references.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", requests.c2w[..., :3, 2], references.c2w[..., :3, 2])
        order = (dt + dc + 1.0 - cos).sort(dim=-1, stable=True)
        rank = torch.arange(count, device=dt.device) % dt.shape[-1]
        index, score = order.indices[..., rank], order.values[..., rank]
        by_time = _gather(references.time, index).argsort(dim=-1, stable=True)
        index, score = index.gather(-1, by_time), score.gather(-1, by_time)
        return index, score / score.mean(-1, keepdim=True).clamp_min(1e-6)


def time_gaps(requests: Views, references: Views, chosen: Int[Tensor, "b v k"]) -> Float[Tensor, "b v k"]:
    """Signed time from the target to each chosen reference, over their mean absolute gap."""
    gap = _gather(references.time, chosen) - requests.time[:, :, None]
    return gap / gap.abs().mean(-1, keepdim=True).clamp_min(1e-6)


@full_precision
def reference_meta(requests: Views, references: Views, chosen, distance) -> Float[Tensor, "b v k 8"]:
    """Numbers that tell the head which frame it is looking at, relative to the target camera."""
    pose, time = _gather(references.c2w, chosen), _gather(references.time, chosen)
    to_camera = requests.c2w[:, :, None, :3, :3].transpose(-1, -2)
    centre = (to_camera @ (pose[..., :3, 3] - requests.c2w[:, :, None, :3, 3])[..., None])[..., 0]
    forward = (to_camera @ pose[..., :3, 2:3])[..., 0]
    dt = (time - requests.time[:, :, None])[..., None]
    return torch.cat([4.0 * dt, 4.0 * centre, forward, distance[..., None]], dim=-1)


@full_precision
def warped_pixels(requests: Views, references: Views, chosen, rho, motion) -> Float[Tensor, "b v k h w 2"]:
    """Pixels of the references at which the target's points stand, given inverse depth and angular motion.

    ``rho`` [b v 1 h w], ``motion`` [b v 3 h w] in world axes per unit of model time. Points behind a reference come out
    far outside its frame.
    """
    h, w = requests.hw
    fx, fy, cx, cy = requests.intrinsics[..., None, None].unbind(2)
    grid = pixel_grid(requests)[:, :, 0]
    ray = torch.stack([(grid[..., 0] - cx) / fx, (grid[..., 1] - cy) / fy, torch.ones_like(grid[..., 0])], dim=2)
    ray = torch.einsum("bvij,bvjhw->bvihw", requests.c2w[..., :3, :3], ray)
    pose, k, time = (
        _gather(references.c2w, chosen),
        _gather(references.intrinsics, chosen),
        _gather(references.time, chosen),
    )
    offset = requests.c2w[:, :, None, :3, 3] - pose[..., :3, 3]  # [b v k 3]
    dt = (time - requests.time[:, :, None])[..., None, None, None]
    point = ray[:, :, None] + rho[:, :, None] * offset[..., None, None] + motion[:, :, None] * dt
    camera = torch.einsum("bvkji,bvkjhw->bvkihw", pose[..., :3, :3], point)
    z = camera[:, :, :, 2]
    ahead = z > 1e-3
    scale = 1.0 / torch.where(ahead, z, torch.ones_like(z))
    px = camera[:, :, :, 0] * scale * k[..., 0, None, None] + k[..., 2, None, None]
    py = camera[:, :, :, 1] * scale * k[..., 1, None, None] + k[..., 3, None, None]
    far = px.new_tensor(-10.0 * max(h, w))
    return torch.stack([torch.where(ahead, px, far), torch.where(ahead, py, far)], dim=-1)


@full_precision
def sample_references(
    references: Views, chosen: Int[Tensor, "b v k"], pixels: Float[Tensor, "b v k h w 2"]
) -> tuple[Float[Tensor, "b v k 3 h w"], Float[Tensor, "b v k 1 h w"]]:
    """Bilinear samples of the chosen frames at ``pixels``, and 1 where the position lies inside the frame."""
    assert references.rgb is not None
    b, v, k = chosen.shape
    frames = _gather(references.rgb, chosen).flatten(0, 2).float()
    size = pixels.new_tensor([references.hw[1], references.hw[0]])
    normalised = (pixels / size * 2.0 - 1.0).flatten(0, 2)
    inside = ((normalised.abs() <= 1.0).all(-1)).float().view(b, v, k, 1, *pixels.shape[3:5])
    samples = F.grid_sample(
        frames, normalised.clamp(-2.0, 2.0), mode="bilinear", padding_mode="border", align_corners=False
    )
    return samples.view(b, v, k, 3, *pixels.shape[3:5]), inside


def pixel_grid(views: Views) -> Float[Tensor, "b v 1 h w 2"]:
    """Pixel centres (x, y) of every view."""
    h, w = views.hw
    y, x = torch.meshgrid(
        torch.arange(h, device=views.c2w.device) + 0.5, torch.arange(w, device=views.c2w.device) + 0.5, indexing="ij"
    )
    return torch.stack([x, y], dim=-1).expand(*views.c2w.shape[:2], 1, h, w, 2)


def _gather(values: Float[Tensor, "b n *rest"], index: Int[Tensor, "b v k"]) -> Float[Tensor, "b v k *rest"]:
    batch = torch.arange(values.shape[0], device=values.device)[:, None, None]
    return values[batch, index]
