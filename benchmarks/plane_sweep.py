"""Stereo's comparison of frames, compiled against plain torch, of the sweeps and of the steps to a
fraction of a pixel.

Sixteen views are compared with six of eight frames each, at both shapes that stereo sweeps in
training on 128² pictures: 32 planes at 32², and 8 inverse depths of each pixel's own at 64²,
without gradients and with those of all maps; then one Gauss-Newton step of four views with twelve
frames each at 128². One thread, CPU time, forms in turn.

    python -m benchmarks.plane_sweep
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.common import Verdicts, alternate, medians, paired, parser, start
from fsm.renderers.stereo.cost_volume import (
    COLOURS,
    COSTS,
    FEATURES,
    disagreement,
    plain_disagreement,
)
from fsm.renderers.stereo.sources import nearest_references
from fsm.renderers.stereo.subpixel import equations, maps_of, plain_equations
from fsm.views import Views

SAMPLES, TARGETS, FRAMES, REFERENCES = 4, 4, 8, 6
Given = tuple[Views, Views, Tensor, Tensor, Tensor, Tensor]


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
    requests, references = row_of_cameras(TARGETS, hw), row_of_cameras(FRAMES, hw)
    chosen, _ = nearest_references(requests, references, REFERENCES)
    rho = torch.linspace(0.0, 0.9, planes)[:, None, None]
    if per_pixel:
        rho = 0.5 * torch.rand(SAMPLES, TARGETS, 1, hw, hw) * (0.7 + rho)
    maps, own = (torch.rand(SAMPLES, n, COLOURS + FEATURES, hw, hw) for n in (FRAMES, TARGETS))
    return requests, references, maps, own, chosen, rho


def forward(form: Callable[..., Tensor], given: Given) -> Callable[[], object]:
    """Costs alone."""
    return torch.no_grad()(lambda: form(*given))


def both(form: Callable[..., Tensor], given: Given) -> Callable[[], object]:
    """Costs and the gradients of the maps."""
    requests, references, maps, own, chosen, rho = given
    leaves = [m.clone().requires_grad_() for m in (maps, own)]
    weight = torch.randn(SAMPLES, TARGETS, rho.shape[-3], COSTS, *requests.hw)
    return lambda: torch.autograd.grad(
        form(requests, references, *leaves, chosen, rho), leaves, weight
    )


def steps(form: Callable[..., Tensor]) -> Callable[[], object]:
    """Equations of one Gauss-Newton step of four views."""
    requests, references = row_of_cameras(1, 128), row_of_cameras(2 * REFERENCES, 128)
    requests, references = (
        replace(v, rgb=torch.rand(SAMPLES, len(v), 3, 128, 128)) for v in (requests, references)
    )
    chosen, _ = nearest_references(requests, references, 2 * REFERENCES)
    maps, rho = maps_of(references), 0.5 * torch.rand(SAMPLES, 1, 1, 128, 128)
    return torch.no_grad()(lambda: form(requests, references, maps, chosen, rho))


def main() -> None:
    """Print times, ratios and verdicts."""
    args = parser(__doc__).parse_args()
    start(
        "Plane sweep: frames compared at inverse depths",
        targets=SAMPLES * TARGETS,
        references=REFERENCES,
    )
    verdicts = Verdicts()
    for name, given in (
        ("32 planes at 32²", example(32, 32, per_pixel=False)),
        ("8 depths of each pixel at 64²", example(64, 8, per_pixel=True)),
    ):
        for what, case in (("forward", forward), ("forward + backward", both)):
            runs = {"compiled": case(disagreement, given), "torch": case(plain_disagreement, given)}
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
