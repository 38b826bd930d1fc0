"""Where a solution stands: gravity from how people hold cameras, and its unit of length."""

import numpy as np
from jaxtyping import Float64

# Weight of "up in the picture is up" beside "cameras are level". It decides alone where all
# cameras look the same way, and both directions across that are as level.
UPRIGHT = 0.01


def down(c2w: Float64[np.ndarray, "v 4 4"]) -> Float64[np.ndarray, "3"]:
    """Unit vector of gravity in the world of the cameras: people keep the x axis of a camera level,
    and its y axis pointing down.

    The smallest eigenvector of sum(x xT) - w sum(y yT), with the sign of the mean y axis.
    """
    x, y = c2w[:, :3, 0], c2w[:, :3, 1]
    found = np.linalg.eigh(x.T @ x - UPRIGHT * y.T @ y)[1][:, 0]
    return found * (1.0 if found @ y.sum(0) >= 0 else -1.0)


def similarity(
    c2w: Float64[np.ndarray, "v 4 4"], scale: float | None = None
) -> Float64[np.ndarray, "3 4"]:
    """From a solution to a world whose y axis points down, with its origin amid the cameras.

    Lengths are multiplied by ``scale``; None makes the root mean square distance of cameras from
    the origin one.
    """
    centres = c2w[:, :3, 3]
    middle = centres.mean(0)
    spread = float(np.sqrt(((centres - middle) ** 2).sum(1).mean()))
    size = (1.0 / max(spread, 1e-12)) if scale is None else scale
    y = down(c2w)
    forward = c2w[0, :3, 2] - (c2w[0, :3, 2] @ y) * y
    if np.linalg.norm(forward) < 1e-6:  # the first camera looks straight down
        forward = -c2w[0, :3, 1] + (c2w[0, :3, 1] @ y) * y
    z = forward / np.linalg.norm(forward)
    rotation = np.stack([np.cross(y, z), y, z])
    linear = size * rotation
    return np.concatenate([linear, -(linear @ middle)[:, None]], axis=1)
