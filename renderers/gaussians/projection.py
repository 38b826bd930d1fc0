"""Gaussians as one camera sees them: centres, ellipses, depths and colours in pixels.

EWA splatting (Zwicker 2001) with the rules of gsplat 1.5, so that all rasterisers get the same
splats: the Jacobian of the projection is taken at a point held to 1.3 times the field of view, the
ellipse is widened by ``blur`` px² (0.3), what lies nearer than ``near`` is left out, alpha below
1/255 counts as nothing.
"""

from fsm.kernels.dispatch import runs_compiled
from fsm.renderers.gaussians.projection_plain import project_gaussians as project_plain
from fsm.renderers.gaussians.types import GSPLAT, Gaussians3D, Projection, Splats
from fsm.views import Views


def project_gaussians(
    gaussians: Gaussians3D, camera: Views, projection: Projection = GSPLAT
) -> Splats:
    """Splats of ``gaussians`` in the one view ``camera`` [1], both in the same space.

    Differentiable. Not finite and degenerate Gaussians are counted in ``Splats.dropped`` and get no
    gradient; those outside the picture or nearer than ``near`` are left out silently. Compiled
    where ``runs_compiled`` says so, except for gradients over the camera.
    """
    if runs_compiled(*gaussians.tensors(), constants=(camera.c2w, camera.intrinsics)):
        from fsm.renderers.gaussians.projection_cpu import project_compiled

        return project_compiled(gaussians, camera, projection)
    return project_plain(gaussians, camera, projection)
