"""The rasteriser on a GPU: gsplat's, with what it must not be given sorted out before.

gsplat is an optional dependency (extra ``gpu``): nothing imports it before it is asked for.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from fsm.errors import MissingExtra, require
from fsm.rays import full_precision
from fsm.renderers.gaussians.projection_plain import usable_gaussians
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.types import Gaussians3D, Projection
from fsm.views import Views

# px²; beyond, the determinant of an ellipse overflows float32 and gsplat's tiles with it
WIDEST = 1e16


@full_precision
def rasterize_view(
    gaussians: Gaussians3D, view: Views, projection: Projection
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Colour over black [3 h w], alpha and depth times alpha [1 h w] of one view, and how many
    Gaussians were left out.
    """
    rasterization = _rasterization()
    usable, dropped = usable_gaussians(gaussians)
    w2c = torch.linalg.inv(view.c2w[0].double()).float()
    with torch.no_grad():
        means, covariances = gaussians.means[usable], gaussians.covariances[usable]
        z = means @ w2c[2, :3] + w2c[2, 3]
        spread = covariances[:, [0, 3, 5]].sum(-1) * (view.intrinsics[0, :2].amax() / z).square()
        kept = (z < projection.near) | (spread <= WIDEST)
    dropped += int((~kept).sum())
    g = gaussians[usable[kept]]
    picture, alpha, _ = rasterization(
        g.means,
        None,
        None,
        g.opacities,
        g.sh,
        w2c[None],
        _matrix(view.intrinsics[0])[None],
        view.hw[1],
        view.hw[0],
        near_plane=projection.near,
        far_plane=projection.far,
        radius_clip=projection.radius_clip,
        eps2d=projection.blur,
        sh_degree=math.isqrt(g.sh.shape[1]) - 1,
        # one camera: packing saves no memory
        packed=False,
        render_mode="RGB+D",
        rasterize_mode="antialiased" if projection.antialiased else "classic",
        covars=covariance_matrix(g.covariances),
    )
    image = picture[0].permute(2, 0, 1)
    return image[:3], alpha[0].permute(2, 0, 1), image[3:], dropped


@functools.cache
def why_not_gsplat() -> str | None:
    """None where gsplat can be used; otherwise what is wrong and the remedy, in one sentence.

    Where gsplat was installed without its kernels they are built now, which takes minutes once.
    """
    remedy = "install a CUDA toolkit (nvcc) that goes with torch, or choose backend cpu."
    try:
        require("gpu", "gsplat")
        from gsplat.cuda import _backend
    except MissingExtra as error:
        return str(error)
    except Exception as error:
        # Building raises whatever the compiler, its absence or a missing library leads to.
        reason = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        return f"gsplat cannot build its kernels ({reason}); {remedy}"
    if _backend._C is None:
        return f"gsplat finds no CUDA compiler (nvcc) to build its kernels with; {remedy}"
    return None


def _rasterization() -> Any:
    """gsplat's function, whose annotations ask for tensors where it takes None."""
    from gsplat import rasterization

    return rasterization


def _matrix(intrinsics: Tensor) -> Tensor:
    fx, fy, cx, cy = intrinsics.unbind()
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(3, 3)
