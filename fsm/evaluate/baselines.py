"""What costs nothing: predictions from the two input frames nearest in time, or of a rig from the
two cameras nearest in space, without any model.

A PSNR means little until these stand beside it: on slow clips the nearest input alone is already
close. Outside the inputs' time span those of time give the nearest input.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.views import Views

TIE = 1e-4  # half-way in time, as far as float32 seconds can tell

Baseline = Callable[[Views, Views], Tensor]


def nearest(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Copy of the input nearest in time (the earlier one of two)."""
    pairs = _neighbours(inputs, requests)
    index = [pair.after if pair.weight > 0.5 + TIE else pair.before for pair in pairs]
    return _rgb(inputs, requests)[index]


def blend(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Mean of the inputs before and after, weighted by nearness in time."""
    pairs = _neighbours(inputs, requests)
    rgb = _rgb(inputs, requests)
    weight = rgb.new_tensor([pair.weight for pair in pairs])[:, None, None, None]
    return torch.lerp(rgb[[p.before for p in pairs]], rgb[[p.after for p in pairs]], weight)


def flow(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Optical flow between the inputs before and after; both are warped to the requested time and
    blended.

    Flow by OpenCV's dense inverse search (preset medium, Kroeger et al. 2016) in both directions;
    the flow from the requested time is combined from the two for motion linear in time (Jiang et
    al. 2018, arXiv:1712.00080, equation 4).
    """
    rgb = _rgb(inputs, requests)
    images = rgb.permute(0, 2, 3, 1).float().cpu().numpy()
    flows: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    out = []
    for pair in _neighbours(inputs, requests):
        a, b, t = pair.before, pair.after, pair.weight
        if a == b:
            out.append(images[a])
            continue
        if (a, b) not in flows:
            flows[a, b] = _flow(images[a], images[b]), _flow(images[b], images[a])
        forward, backward = flows[a, b]
        to_a = -(1 - t) * t * forward + t * t * backward
        to_b = (1 - t) * (1 - t) * forward - t * (1 - t) * backward
        out.append((1 - t) * _warp(images[a], to_a) + t * _warp(images[b], to_b))
    return torch.from_numpy(np.stack(out)).to(rgb).permute(0, 3, 1, 2)


def nearest_camera(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Copy of the input of the nearest camera, at the requested moment or the nearest to it that
    has inputs.
    """
    return _rgb(inputs, requests)[[pair.before for pair in _cameras(inputs, requests)]]


def camera_blend(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Mean of the two nearest cameras at that moment, weighted by nearness."""
    pairs, rgb = _cameras(inputs, requests), _rgb(inputs, requests)
    weight = rgb.new_tensor([pair.weight for pair in pairs])[:, None, None, None]
    return torch.lerp(rgb[[p.before for p in pairs]], rgb[[p.after for p in pairs]], weight)


def mean_image(inputs: Views, requests: Views) -> Float[Tensor, "v 3 h w"]:
    """Mean of all inputs."""
    return _rgb(inputs, requests).mean(0).expand(len(requests), -1, -1, -1)


BASELINES: dict[str, Baseline] = {"nearest": nearest, "blend": blend, "flow": flow}
CAMERA_BASELINES: dict[str, Baseline] = {
    "nearest_camera": nearest_camera,
    "camera_blend": camera_blend,
    "mean_image": mean_image,
}
DESCRIBED = {
    "nearest": "copy of the input nearest in time",
    "blend": "the inputs before and after, weighted by time",
    "flow": ("the same two, warped by optical flow (OpenCV DIS, preset medium) before blending"),
    "nearest_camera": "copy of the nearest camera at the same moment",
    "camera_blend": "the two nearest cameras at the same moment, weighted by distance",
    "mean_image": "mean of all inputs",
}
"""Each baseline in words, for headers."""


@dataclass(frozen=True)
class _Pair:
    """Inputs about a request; ``weight`` is how far from ``before`` towards ``after`` it lies, in
    [0, 1].
    """

    before: int
    after: int
    weight: float


def _neighbours(inputs: Views, requests: Views) -> list[_Pair]:
    times = inputs.time.double().cpu().numpy()
    order = np.argsort(times, kind="stable")
    pairs = []
    for t in requests.time.double().cpu().numpy():
        place = int(np.searchsorted(times[order], t, side="right"))
        before, after = int(order[max(place - 1, 0)]), int(order[min(place, len(order) - 1)])
        span = times[after] - times[before]
        pairs.append(_Pair(before, after, float((t - times[before]) / span) if span > 0 else 0.0))
    return pairs


def _cameras(inputs: Views, requests: Views) -> list[_Pair]:
    """The two cameras nearest to each request among inputs of the nearest moment; one alone is both
    of them.
    """
    times, centres = inputs.time.double().cpu(), inputs.c2w[:, :3, 3].double().cpu()
    pairs = []
    for time, centre in zip(
        requests.time.double().cpu(), requests.c2w[:, :3, 3].double().cpu(), strict=True
    ):
        away = (times - time).abs()
        here = (away <= away.min() + 1e-6).nonzero()[:, 0]
        distance, order = (centres[here] - centre).norm(dim=-1).sort(stable=True)
        near = here[order[:2]].tolist()
        between = float(distance[:2].sum())
        weight = 0.5 if between == 0 else float(distance[0]) / between
        pairs.append(_Pair(near[0], near[-1], weight if len(near) > 1 else 0.0))
    return pairs


def _rgb(inputs: Views, requests: Views) -> Tensor:
    if inputs.rgb is None or inputs.rgb.ndim != 4:
        raise InputError("a baseline needs input views with rgb and without a batch axis.")
    if inputs.hw != requests.hw:
        raise InputError(
            f"a baseline copies pixels: inputs of {inputs.hw} cannot answer requests of "
            f"{requests.hw}."
        )
    return inputs.rgb


def _flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[h, w, 2] displacement (x, y) in pixels from each pixel of ``a`` to its place in ``b``;
    images [h, w, 3].
    """
    import cv2

    def grey(image: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(np.round(image.clip(0, 1) * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)

    method = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    return method.calc(grey(a), grey(b), None)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _warp(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Image sampled bilinearly at pixel + displacement; the border is repeated outwards."""
    import cv2

    h, w = image.shape[:2]
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    where_x, where_y = (
        x + displacement[..., 0].astype(np.float32),
        y + displacement[..., 1].astype(np.float32),
    )
    return cv2.remap(image, where_x, where_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
