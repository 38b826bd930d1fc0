"""The rasteriser on a GPU: gsplat's, with what it must not be given sorted out before.

gsplat compiles its kernels when it is first used, which takes minutes once.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fsm.errors import InputError
from fsm.rays import full_precision
from fsm.renderers.gaussians.gaussians4d import Gaussians3D, covariance_matrix
from fsm.renderers.gaussians.projection import Projection, usable_gaussians
from fsm.views import Views

# px²; beyond, the determinant of an ellipse overflows float32 and gsplat's tiles with it
WIDEST = 1e16


@full_precision
def draw(
    gaussians: Gaussians3D, view: Views, projection: Projection
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Colour over black [3 h w], alpha and depth times alpha [1 h w] of one view, and how many
    Gaussians were left out.
    """
    rasterization = _gsplat()
    usable, dropped = usable_gaussians(gaussians)
    w2c = torch.linalg.inv(view.c2w[0].double()).float()
    with torch.no_grad():
        means, covariances = gaussians.means[usable], gaussians.covariances[usable]
        z = means @ w2c[2, :3] + w2c[2, 3]
        spread = covariances[:, [0, 3, 5]].sum(-1) * (view.intrinsics[0, :2].amax() / z).square()
        drawable = (z < projection.near) | (spread <= WIDEST)
    dropped += int((~drawable).sum())
    g = gaussians[usable[drawable]]
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
        packed=False,  # one camera: packing saves no memory
        render_mode="RGB+D",
        rasterize_mode="antialiased" if projection.antialiased else "classic",
        covars=covariance_matrix(g.covariances),
    )
    image = picture[0].permute(2, 0, 1)
    return image[:3], alpha[0].permute(2, 0, 1), image[3:], dropped


def _gsplat() -> Any:
    """gsplat's function; its absence, or that of a compiler for it, is an ``InputError``."""
    try:
        from gsplat import rasterization
        from gsplat.cuda import _backend
    # the latter two where its kernels do not build
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the backend gsplat cannot be loaded ({reason}); install gsplat or choose "
            "backend reference."
        ) from error
    if _backend._C is None:
        raise InputError(
            "gsplat finds no CUDA compiler (nvcc) to build its kernels with; install the "
            "CUDA toolkit or choose backend reference."
        )
    return rasterization


def _matrix(intrinsics: Tensor) -> Tensor:
    fx, fy, cx, cy = intrinsics.unbind()
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(3, 3)
