"""Which input frames a target looks at, where in them, and what it finds: geometry without learnt
parts.

Shapes: b batch, v targets, n references, k chosen references per target. All in model space.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fsm.rays import full_precision
from fsm.views import Views

# Up to which two poses, entry by entry, and two times are one: distances between equal cameras
# carry rounding.
SAME = 1e-6
# numbers that describe a reference relative to a target: time 1, centre 3, forward axis 3, rank
# distance 1
META = 8
# Model units beyond which a reference is just far away. One unit is the inputs' spread, so beside
# the path of a camera that hardly moved a target may stand many of them off, and what is learnt
# from a number never seen is arbitrary.
REMOTE = 1.0


@full_precision
def nearest_references(
    requests: Views, references: Views, count: int, *, others: bool = False
) -> tuple[Int[Tensor, "b v k"], Float[Tensor, "b v k"]]:
    """Indices of the ``count`` references nearest to each request in time and pose, in time order,
    and their distances.

    Distance in model units: |Δt| + |Δcentre| + (1 - cos of the angle between forward axes),
    divided by its mean over the chosen. Where there are fewer references than ``count`` the
    nearest are taken more than once. ``others`` leaves out the request itself where it is one of
    several references.
    """
    with torch.no_grad():
        dt = (requests.time[:, :, None] - references.time[:, None]).abs()
        dc = torch.cdist(requests.c2w[..., :3, 3], references.c2w[..., :3, 3])
        cos = torch.einsum("bvi,bni->bvn", requests.c2w[..., :3, 2], references.c2w[..., :3, 2])
        distances = dt + dc + 1.0 - cos
        if others:
            distances = torch.where(_same(requests, references), torch.inf, distances)
        order = distances.sort(dim=-1, stable=True)
        left = distances.isfinite().sum(-1, keepdim=True).clamp_min(1)
        rank = torch.arange(count, device=dt.device) % left
        index = order.indices.gather(-1, rank)
        # a lone reference that is the request
        score = order.values.gather(-1, rank).nan_to_num(posinf=0.0)
        by_time = gather(references.time, index).argsort(dim=-1, stable=True)
        index, score = index.gather(-1, by_time), score.gather(-1, by_time)
        return index, score / score.mean(-1, keepdim=True).clamp_min(1e-6)


def _same(requests: Views, references: Views) -> Bool[Tensor, "b v n"]:
    """Which references are the request: one place, one direction, one time."""
    moved = (requests.c2w[:, :, None] - references.c2w[:, None]).abs().amax((-1, -2))
    return (moved < SAME) & ((requests.time[:, :, None] - references.time[:, None]).abs() < SAME)


def spread_references(requests: Views, references: Views, count: int) -> Int[Tensor, "b v k"]:
    """Indices of ``count`` other references near each request but apart from one another, for
    parallax however dense the inputs.

    Of at most 3 ``count`` references, evenly spread over all, the 2 ``count`` nearest, and of these
    every other in time.
    """
    n = references.time.shape[-1]
    sparse = (
        torch.linspace(0, n - 1, min(n, 3 * count), device=references.time.device).round().long()
    )
    index, _ = nearest_references(
        requests, references.without_rgb()[sparse], 2 * count, others=True
    )
    return sparse[index[..., ::2]]


def witnesses(requests: Views, references: Views, near: int) -> Int[Tensor, "b v k"]:
    """Which others are asked where a surface is: the ``near`` nearest, for what moves hardly
    differs, and half as many apart.
    """
    index, _ = nearest_references(requests, references, near, others=True)
    return torch.cat([index, spread_references(requests, references, max(1, near // 2))], dim=-1)


def time_gaps(
    requests: Views, references: Views, chosen: Int[Tensor, "b v k"]
) -> Float[Tensor, "b v k"]:
    """Signed time from the target to each chosen reference, over their mean absolute gap."""
    gap = gather(references.time, chosen) - requests.time[:, :, None]
    return gap / gap.abs().mean(-1, keepdim=True).clamp_min(1e-6)


@full_precision
def reference_meta(
    requests: Views, references: Views, chosen, distance
) -> Float[Tensor, "b v k 8"]:
    """Numbers that tell the head which frame it is looking at, relative to the target camera; its
    centre within REMOTE.
    """
    pose, time = gather(references.c2w, chosen), gather(references.time, chosen)
    to_camera = requests.c2w[:, :, None, :3, :3].transpose(-1, -2)
    centre = (to_camera @ (pose[..., :3, 3] - requests.c2w[:, :, None, :3, 3])[..., None])[..., 0]
    centre = centre / (centre.norm(dim=-1, keepdim=True) / REMOTE).clamp_min(1.0)
    forward = (to_camera @ pose[..., :3, 2:3])[..., 0]
    dt = (time - requests.time[:, :, None])[..., None]
    return torch.cat([4.0 * dt, 4.0 * centre, forward, distance[..., None]], dim=-1)


@full_precision
def warped_pixels(
    requests: Views, references: Views, chosen, rho, motion
) -> Float[Tensor, "b v k h w 2"]:
    """Pixels of the references at which the target's points stand, given inverse depth and angular
    motion.

    ``rho`` [b v 1 h w], ``motion`` [b v 3 h w] in world axes per unit of model time. Points behind
    a reference come out far outside its frame.
    """
    h, w = requests.hw
    ray = camera_rays(requests)
    ray = torch.einsum("bvij,bvjhw->bvihw", requests.c2w[..., :3, :3], ray)
    pose, k, time = (
        gather(references.c2w, chosen),
        gather(references.intrinsics, chosen),
        gather(references.time, chosen),
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
def plane_pixels(
    requests: Views,
    references: Views,
    chosen: Int[Tensor, "b v k"],
    rho: Float[Tensor, "*b d _h _w"],
) -> Float[Tensor, "b v k d h w 2"]:
    """``warped_pixels`` of what stands still for d inverse depths at once: whole planes [d 1 1], or
    each pixel's [b v d h w].
    """
    h, w = requests.hw
    ray = camera_rays(requests)
    pose = gather(references.c2w, chosen)
    k = gather(references.intrinsics, chosen)[..., None, None, None]
    back = pose[..., :3, :3].transpose(-1, -2)
    turned = torch.einsum("bvkij,bvjhw->bvkihw", back @ requests.c2w[:, :, None, :3, :3], ray)
    offset = back @ (requests.c2w[:, :, None, :3, 3] - pose[..., :3, 3])[..., None]  # [b v k 3 1]
    rho = rho.expand(*turned.shape[:2], *rho.shape[-3:])[:, :, None, None]  # [b v 1 1 d h|1 w|1]
    x, y, z = (turned[:, :, :, :, None] + offset[..., None, None] * rho).unbind(3)
    ahead = z > 1e-3
    scale = 1.0 / torch.where(ahead, z, torch.ones_like(z))
    far = x.new_tensor(-10.0 * max(h, w))
    px, py = x * scale * k[:, :, :, 0] + k[:, :, :, 2], y * scale * k[:, :, :, 1] + k[:, :, :, 3]
    return torch.stack([torch.where(ahead, px, far), torch.where(ahead, py, far)], dim=-1)


@full_precision
def cameras_from(
    requests: Views, cameras: Views, chosen: Int[Tensor, "b v k"]
) -> Float[Tensor, "b v k 16"]:
    """The chosen cameras as each request sees them: rotation into their axes 9, the request's
    centre in them 3, intrinsics 4.
    """
    pose = gather(cameras.c2w, chosen)
    back = pose[..., :3, :3].transpose(-1, -2)
    turn = (back @ requests.c2w[:, :, None, :3, :3]).flatten(-2)
    offset = (back @ (requests.c2w[:, :, None, :3, 3] - pose[..., :3, 3])[..., None])[..., 0]
    return torch.cat([turn, offset, gather(cameras.intrinsics, chosen)], dim=-1)


@full_precision
def sample_frames(
    frames: Float[Tensor, "b n c hn wn"],
    chosen: Int[Tensor, "b v k"],
    pixels: Float[Tensor, "b v k h w 2"],
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> tuple[Float[Tensor, "b v k c h w"], Float[Tensor, "b v k 1 h w"]]:
    """Samples of the chosen frames at ``pixels``, and 1 where the position lies inside the
    frame.
    """
    b, v, k, h, w, _ = pixels.shape
    size = pixels.new_tensor([frames.shape[-1], frames.shape[-2]])
    at = (pixels / size * 2.0 - 1.0).flatten(0, 2)
    inside = (at.abs() <= 1.0).all(-1).float().view(b, v, k, 1, h, w)
    flat = gather(frames, chosen).flatten(0, 2).to(pixels.dtype)
    samples = F.grid_sample(
        flat, at.clamp(-2.0, 2.0), mode=mode, padding_mode="border", align_corners=False
    )
    return samples.view(b, v, k, -1, h, w), inside


@full_precision
def averaged(x: Float[Tensor, "b v c h w"], side: int) -> Float[Tensor, "b v c h w"]:
    """Mean over a square, at the border over what there is of it: a product with a band matrix
    along each axis.

    Faster than pooling on the CPU for pictures as small as those that a head looks at.
    """
    return _band(x.shape[-2], side, x) @ (x @ _band(x.shape[-1], side, x).T)


def _band(size: int, side: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Row i holds the shares of the neighbours of i in its mean."""
    at = torch.arange(size, device=like.device)
    near = ((at[:, None] - at).abs() <= side // 2).to(like.dtype)
    return near / near.sum(1, keepdim=True)


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
    batch = torch.arange(values.shape[0], device=values.device)[:, None, None]
    return values[batch, index]
