"""What moves, by a first solution: pixels whose optical flow leaves their epipolar line.

Flow from a picture to the next one and to the last one is compared with their cameras. A pixel
moves where it lies farther than ``FAR`` from the line in both, or in one and the other is unknown.
Motion along the line cannot be told from depth.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64

from fsm.poses.solve import Solved
from fsm.runs import tracked

SIDE = 512  # pixels of the longer side at which flow is taken
FAR = 2.0  # pixels at that size
AGREE = 1.5  # pixels between a place and where flow there and back leads
GROW = 9  # pixels by which moving areas grow
SPECK = 5  # pixels below which they vanish


def moving_masks(solution: Solved, pictures: Path, output: Path) -> float:
    """Write NAME.png for every picture NAME of ``solution``, white where it stands, and return the
    share of pixels that move.
    """
    import cv2

    names = solution.names
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # pyright: ignore[reportAttributeAccessIssue]
    greys = [_grey(pictures / name) for name in names]
    off = [_unknown(g) for g in greys], [_unknown(g) for g in greys]
    for i in tracked(range(len(names) - 1), "Looking for motion", len(names) - 1):
        if greys[i].shape != greys[i + 1].shape:
            continue
        here, after = greys[i], greys[i + 1]
        there, back = flow.calc(here, after, None), flow.calc(after, here, None)
        off[0][i] = leaves_line(solution, i, i + 1, there, back)
        off[1][i + 1] = leaves_line(solution, i + 1, i, back, there)
    share = 0.0
    for i, name in enumerate(names):
        moves = grown(np.fmin(off[0][i], off[1][i]) > FAR)
        share += float(moves.mean()) / len(names)
        path = output / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stands = np.where(moves, 0, 255).astype(np.uint8)
        size = solution.hw[1], solution.hw[0]
        cv2.imwrite(str(path), cv2.resize(stands, size, interpolation=cv2.INTER_NEAREST))
    return share


def leaves_line(
    solution: Solved,
    a: int,
    b: int,
    there: Float32[np.ndarray, "h w 2"],
    back: Float32[np.ndarray, "h w 2"],
) -> Float64[np.ndarray, "h w"]:
    """Distance in pixels of where flow leads from picture a to b from the epipolar line (Sampson);
    NaN where flow back disagrees.
    """
    import cv2

    h, w = there.shape[:2]
    scale = w / solution.hw[1]
    y, x = np.mgrid[0:h, 0:w] + 0.5
    start = np.stack([x, y], -1)
    end = start + there
    pose = solution.w2c[b] @ np.linalg.inv(solution.w2c[a])
    t = pose[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    essential = cross / max(float(np.linalg.norm(t)), 1e-12) @ pose[:3, :3]
    p, q = (_rays(solution.lenses[k], points / scale) for k, points in ((a, start), (b, end)))
    lines, others = p @ essential.T, q @ essential
    residual = np.abs((q * lines).sum(-1))
    slope = np.sqrt((lines[..., :2] ** 2).sum(-1) + (others[..., :2] ** 2).sum(-1))
    distance = residual / np.maximum(slope, 1e-9) * solution.lenses[a][0] * scale
    place = (end - 0.5).astype(np.float32)
    returned = cv2.remap(back, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
    unsure = np.linalg.norm(there + returned, axis=-1) > AGREE
    outside = (end < 0).any(-1) | (end[..., 0] > w) | (end[..., 1] > h)
    return np.where(unsure | outside, np.nan, distance)


def grown(moves: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Without specks, and wider by a few pixels."""
    import cv2

    kernel = cv2.getStructuringElement
    areas = moves.astype(np.uint8)
    areas = cv2.morphologyEx(areas, cv2.MORPH_OPEN, kernel(cv2.MORPH_ELLIPSE, (SPECK, SPECK)))
    return cv2.dilate(areas, kernel(cv2.MORPH_ELLIPSE, (2 * GROW + 1, 2 * GROW + 1))) > 0


def _rays(lens: tuple[float, ...], points: np.ndarray) -> np.ndarray:
    """Points at depth one [h w 3] of pixels [h w 2] of a lens f, cx, cy, k1."""
    f, cx, cy, k1 = lens[:4]
    bent = (points - [cx, cy]) / f
    straight = bent
    for _ in range(5):
        straight = bent / (1.0 + k1 * (straight**2).sum(-1, keepdims=True))
    return np.concatenate([straight, np.ones_like(straight[..., :1])], -1)


def _grey(path: Path) -> np.ndarray:
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None, "the picture was written by us"
    scale = min(1.0, SIDE / max(grey.shape))
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _unknown(grey: np.ndarray) -> np.ndarray:
    return np.full(grey.shape, np.nan)
