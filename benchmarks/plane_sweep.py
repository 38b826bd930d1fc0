"""Stereo's comparison of frames, compiled against plain torch: cost volumes and sub-pixel steps.

Sixteen reference views are compared with six source views each, out of eight, at both shapes that
stereo sweeps in training on 128² pictures: 32 planes at 32², and 8 inverse depths of each pixel's
own at 64², without gradients and with those of all maps; then one Gauss-Newton step of four views
with twelve source views each at 128². One thread, CPU time, forms in turn.

    python -m benchmarks.plane_sweep
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.common import Verdicts, alternate, medians, paired, parser, start
from fsm.renderers.stereo.config import SubpixelConfig
from fsm.renderers.stereo.constants import COLOURS, COSTS, FEATURES
from fsm.renderers.stereo.cost_volume import cost_volume
from fsm.renderers.stereo.cost_volume_plain import plain_cost_volume
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.subpixel import equations, gradient_maps
from fsm.renderers.stereo.subpixel_plain import plain_equations
from fsm.views import Views

SAMPLES, TARGETS, FRAMES, SOURCES, UNSEEN = 4, 4, 8, 6, 0.2
Given = tuple[SourceViews, Tensor, Tensor, Tensor]


def row_of_cameras(v: int, hw: int) -> Views:
    """Views [SAMPLES v] from a line of one unit that look along z, turned a little."""
    at = torch.linspace(-0.5, 0.5, v)
    c2w = torch.eye(4).repeat(SAMPLES, v, 1, 1)
    c2w[..., 0, 3] = at
    c2w[..., 0, 0], c2w[..., 0, 2] = (0.1 * at).cos(), (0.1 * at).sin()
    c2w[..., 2, 0], c2w[..., 2, 2] = -(0.1 * at).sin(), (0.1 * at).cos()
    lens = torch.tensor([0.9 * hw, 0.9 * hw, 0.5 * hw, 0.5 * hw])
    return Views(c2w, lens.expand(SAMPLES, v, 4), at.expand(SAMPLES, v), (hw, hw))


def example(hw: int, planes: int, per_pixel: bool) -> Given:
    """Random maps; inverse depths from infinity to 1.1 model units."""
    reference, views = row_of_cameras(TARGETS, hw), row_of_cameras(FRAMES, hw)
    index, _ = nearest_views(reference, views, SOURCES)
    rho = torch.linspace(0.0, 0.9, planes)[:, None, None]
    if per_pixel:
        rho = 0.5 * torch.rand(SAMPLES, TARGETS, 1, hw, hw) * (0.7 + rho)
    maps, own = (torch.rand(SAMPLES, n, COLOURS + FEATURES, hw, hw) for n in (FRAMES, TARGETS))
    return SourceViews.of(reference, views, index), maps, own, rho


def forward(form: Callable[..., Tensor], given: Given) -> Callable[[], object]:
    """Costs alone."""
    return torch.no_grad()(lambda: form(*given, UNSEEN))


def both(form: Callable[..., Tensor], given: Given) -> Callable[[], object]:
    """Costs and the gradients of the maps."""
    sources, maps, own, rho = given
    leaves = [m.clone().requires_grad_() for m in (maps, own)]
    hw = sources.reference.hw
    weight = torch.randn(SAMPLES, TARGETS, rho.shape[-3], COSTS, *hw)
    return lambda: torch.autograd.grad(form(sources, *leaves, rho, UNSEEN), leaves, weight)


def steps(form: Callable[..., Tensor]) -> Callable[[], object]:
    """Equations of one Gauss-Newton step of four views."""
    reference, views = (
        replace(v, rgb=torch.rand(SAMPLES, len(v), 3, 128, 128))
        for v in (row_of_cameras(1, 128), row_of_cameras(2 * SOURCES, 128))
    )
    index, _ = nearest_views(reference, views, 2 * SOURCES)
    sources = SourceViews.of(reference, views, index)
    maps = gradient_maps(sources.frames)
    rho = 0.5 * torch.rand(SAMPLES, 1, 1, 128, 128)
    return torch.no_grad()(lambda: form(sources, maps, rho, rho + 0.01, SubpixelConfig()))


def main() -> None:
    """Print times, ratios and verdicts."""
    args = parser(__doc__).parse_args()
    start(
        "Plane sweep: frames compared at inverse depths",
        targets=SAMPLES * TARGETS,
        sources=SOURCES,
    )
    verdicts = Verdicts()
    for name, given in (
        ("32 planes at 32²", example(32, 32, per_pixel=False)),
        ("8 depths of each pixel at 64²", example(64, 8, per_pixel=True)),
    ):
        for what, case in (("forward", forward), ("forward + backward", both)):
            runs = {"compiled": case(cost_volume, given), "torch": case(plain_cost_volume, given)}
            seconds = alternate(runs, args.repeats)
            middle = medians(seconds)
            print(
                f"{name}, {what}: compiled {1e3 * middle['compiled']:.1f} ms, torch "
                f"{1e3 * middle['torch']:.0f} ms"
            )
            verdicts.check(
                f"{name}, {what}",
                paired(seconds["torch"], seconds["compiled"]),
                10.0,
                at_least=True,
                unit="x",
            )
    seconds = alternate(
        {"compiled": steps(equations), "torch": steps(plain_equations)}, args.repeats
    )
    middle = medians(seconds)
    print(
        f"a step at 128²: compiled {1e3 * middle['compiled']:.1f} ms, torch "
        f"{1e3 * middle['torch']:.0f} ms"
    )
    verdicts.check(
        "a step at 128²",
        paired(seconds["torch"], seconds["compiled"]),
        2.0,
        at_least=True,
        unit="x",
    )
    verdicts.close()


if __name__ == "__main__":
    main()
