"""Rendering a path frame by frame in bounded memory, and depth as colours."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fsm.errors import InputError
from fsm.renderers.base import Scene
from fsm.views import Rendering, Views

BATCH = 4
"""Views rendered at once unless told otherwise."""


def render_sequence(
    scene: Scene, path: Views, batch: int = BATCH, turn: AbstractContextManager[Any] | None = None
) -> Iterator[Rendering]:
    """Render unbatched ``path`` ``batch`` views at a time and yield one ``Rendering`` [1 ...] per
    view, in order.

    ``turn``, where others use the scene too, is held while it renders and given back after each
    batch.
    """
    if batch < 1:
        raise InputError(f"batch is {batch}; choose at least 1.")
    for start in range(0, len(path), batch):
        # Not around the yield: the caller's gradient mode is the caller's.
        with contextlib.nullcontext() if turn is None else turn, torch.no_grad():
            chunk = scene.render(path[start : start + batch])
        for i in range(chunk.rgb.shape[0]):
            one = slice(i, i + 1)
            yield Rendering(
                rgb=chunk.rgb[one],
                alpha=None if chunk.alpha is None else chunk.alpha[one],
                depth=None if chunk.depth is None else chunk.depth[one],
            )


def depth_range(scene: Scene, path: Views, probes: int = 8) -> tuple[float, float]:
    """Near and far of a path for ``colourise_depth``: 1st and 99th percentile of depth over evenly
    picked frames.

    A scene without depth raises ``InputError``.
    """
    rows = torch.linspace(0, len(path) - 1, min(probes, len(path))).round().long().tolist()
    samples = []
    for rendering in render_sequence(scene, path[rows], batch=1):
        if rendering.depth is None:
            raise InputError("this scene's model renders no depth; render colour only.")
        depth = rendering.depth.flatten()
        samples.append(depth[depth.isfinite() & (depth > 0)].float().cpu())
    seen = torch.cat(samples).numpy()
    if seen.size == 0:
        raise InputError(
            "this scene's depth is not positive anywhere along the path; render colour only."
        )
    near, far = np.percentile(seen, [1, 99])
    return float(near), float(far)


def colourise_depth(
    depth: Float[Tensor, "1 h w"], near: float, far: float
) -> Float[Tensor, "3 h w"]:
    """Depth in the turbo colour map, linear in inverse depth: red at ``near``, blue at ``far``,
    held beyond them.

    Use one ``near`` and ``far`` for a whole sequence, or colours flicker. Pixels without depth (not
    finite or <= 0) are black.
    """
    import cv2

    if not 0 < near <= far:
        raise InputError(f"the depth range is {near} to {far}; choose 0 < near <= far.")
    valid = depth.isfinite() & (depth > 0)
    inverse = 1.0 / torch.where(valid, depth, torch.full_like(depth, far)).double()
    # a flat depth is one colour, not its rounding noise
    span = max(1.0 / near - 1.0 / far, 1e-3 / far)
    level = ((inverse - 1.0 / far) / span).clamp(0, 1)
    bgr = cv2.applyColorMap(
        (level[0] * 255).round().to(torch.uint8).cpu().numpy(), cv2.COLORMAP_TURBO
    )
    rgb = torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1])).permute(2, 0, 1).float() / 255
    return rgb.to(depth.device) * valid
