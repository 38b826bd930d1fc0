"""Gaussians up to the rasteriser: those of one moment, and their projection, compiled against plain
torch.

* ``Gaussians4D.at`` of a million Gaussians, a fifth of which are always there: conditioned on time,
  selected, moved.
* The same from ``MovingGaussians``, which a scene keeps; ``condition`` alone, and with the
  gradients of its free parameters.
* Projection of 2.1 million pixel-sized Gaussians at 256² (what a decoder of 32 frames emits) and of
  100,000 at 512², forwards and backwards.

Times are on two threads: half the CPU time of both (median), which is what a machine with nothing
else to do takes, and the smallest wall-clock time, which other programs lengthen. Targets are for
the former. Ratios to plain torch are of CPU time on one thread each: more threads of torch wait for
each other at a cost.

    python -m benchmarks.gaussian_slices
"""

import math
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.common import Verdicts, parser, start
from fsm.renderers.gaussians import gaussians4d_plain as plain
from fsm.renderers.gaussians.gaussians4d import Gaussians4D, MovingGaussians
from fsm.renderers.gaussians.projection import project_gaussians
from fsm.renderers.gaussians.projection_plain import project_gaussians as project_plain
from fsm.renderers.gaussians.rotations import rotation_3d, upper_triangle
from fsm.renderers.gaussians.types import Gaussians3D, Splats
from fsm.views import Views

THREADS, MILLION, MOMENT = 2, 1_000_000, 0.3
FREE = ("scales", "time_scales", "left", "right")


def plain_condition(g: Gaussians4D) -> MovingGaussians:
    """``Gaussians4D.condition`` in torch."""
    moving = plain.condition(g.scales, g.time_scales, g.left, g.right)
    return MovingGaussians(g.means, moving[0], g.times, *moving[1:], g.opacities, g.sh)


def moving_ones(n: int) -> Gaussians4D:
    """Random rotations of space that mix a little with time; a fifth are always there."""
    left = torch.randn(n, 4)
    lasting = 0.3 * torch.exp(torch.randn(n))
    return Gaussians4D(
        torch.randn(n, 3),
        0.5 * torch.randn(n),
        0.05 * torch.exp(0.8 * torch.randn(n, 3)),
        torch.where(torch.rand(n) < 0.2, math.inf, lasting),
        left,
        left + 0.2 * torch.randn(n, 4),
        torch.rand(n),
        torch.randn(n, 1, 3),
    )


def in_view(n: int, size: float, hw: int) -> tuple[Gaussians3D, Views]:
    """Gaussians of standard deviation about ``size`` pixels, nearly all in the picture."""
    h = hw
    means = torch.cat([1.4 * torch.rand(n, 2) - 0.7, 2.0 + torch.rand(n, 1)], -1)
    half = (
        rotation_3d(torch.randn(n, 4))
        * torch.exp(0.3 * torch.randn(n, 3))[:, None]
        * (size * 2.5 / h)
    )
    covariances = upper_triangle(half @ half.transpose(-1, -2)).contiguous()
    g = Gaussians3D(means, covariances, 0.1 + 0.9 * torch.rand(n), torch.rand(n, 1, 3))
    return g, Views(
        torch.eye(4)[None], torch.tensor([[1.0 * h, h, h / 2, h / 2]]), torch.zeros(1), (h, h)
    )


def timed(run: Callable[[], object], repeats: int, threads: int) -> tuple[float, float]:
    """Milliseconds: smallest wall-clock time, and median CPU time of all threads over their
    number.
    """
    torch.set_num_threads(threads)
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        began, used = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return 1e3 * min(wall), 1e3 * statistics.median(cpu) / threads


def compare(
    name: str, compiled: Callable[[], object], plain: Callable[[], object], repeats: int
) -> float:
    """Print both forms; milliseconds of the compiled one."""
    wall, cpu = timed(compiled, repeats, THREADS)
    _, alone = timed(compiled, repeats, 1)
    _, torch_alone = timed(plain, max(1, repeats // 2), 1)
    print(
        f"  {name}: {cpu:.1f} ms ({wall:.1f} wall-clock); on one thread {alone:.1f} ms, "
        f"torch {torch_alone:.0f} ms: "
        f"{torch_alone / alone:.0f}x"
    )
    return cpu


def backwards(
    outputs: tuple[torch.Tensor, ...], leaves: tuple[torch.Tensor, ...]
) -> Callable[[], object]:
    """Gradients of a graph that is kept, so that it can be measured alone."""
    upstream = [torch.ones_like(o) for o in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, upstream, retain_graph=True)


def measure_time(verdicts: Verdicts, repeats: int) -> None:
    """Moments of a million Gaussians; gradients of as many as one training sample has."""
    g = moving_ones(MILLION)
    moving = g.condition()
    print(f"\n{MILLION:,} Gaussians, {len(moving.at(MOMENT)):,} of them there")
    slices = compare(
        "Gaussians4D.at",
        lambda: g.at(MOMENT),
        lambda: plain.at(MOMENT, 0.05, *plain_condition(g).tensors()),
        repeats,
    )
    compare(
        "MovingGaussians.at",
        lambda: moving.at(MOMENT),
        lambda: plain.at(MOMENT, 0.05, *moving.tensors()),
        repeats,
    )
    compare("condition", g.condition, lambda: plain_condition(g), repeats)
    sample = moving_ones(131_072)
    leaves = tuple(getattr(sample, name).requires_grad_() for name in FREE)
    graphs: list[Callable[[], object]] = []
    for form in (Gaussians4D.condition, plain_condition):
        m = form(sample)
        graphs.append(backwards((m.velocities, m.time_variances, m.covariances), leaves))
    compare("gradients of condition, 131,072", graphs[0], graphs[1], repeats)
    verdicts.check("Gaussians4D.at of a million", slices, 60.0, unit=" ms")


def splats_of(splats: Splats) -> tuple[torch.Tensor, ...]:
    """Everything that has a gradient."""
    return splats.centres, splats.conics, splats.depths, splats.opacities, splats.colours


def measure_projection(
    verdicts: Verdicts, n: int, size: float, hw: int, limits: tuple[float, float], repeats: int
) -> None:
    """One camera, forwards without a graph and backwards alone."""
    g, camera = in_view(n, size, hw)
    print(
        f"\n{n:,} Gaussians at {hw}², {len(project_gaussians(g, camera).depths):,} of them in "
        "the picture"
    )
    forward = compare(
        "projection",
        lambda: project_gaussians(g, camera),
        lambda: project_plain(g, camera),
        repeats,
    )
    leaves = tuple(t.requires_grad_() for t in (g.means, g.covariances, g.opacities, g.sh))
    graphs = [
        backwards(splats_of(p(Gaussians3D(*leaves), camera)), leaves)
        for p in (project_gaussians, project_plain)
    ]
    backward = compare("its gradients", graphs[0], graphs[1], repeats)
    verdicts.check(f"projection of {n:,}", forward, limits[0], unit=" ms")
    verdicts.check(f"gradients of {n:,}", backward, limits[1], unit=" ms")


def main() -> None:
    """Print times, ratios and verdicts."""
    args = parser(__doc__).parse_args()
    start("Gaussians of a moment and their projection")
    print(f"  compiled code on {THREADS} threads and on one; float32; harmonics of degree 0")
    verdicts = Verdicts()
    with torch.no_grad():
        print("  compiling or reading kernels", flush=True)
        project_gaussians(*in_view(10, 1.0, 16))
        moving_ones(10).at(MOMENT)
    measure_time(verdicts, args.repeats)
    measure_projection(verdicts, 2_100_000, 0.5, 256, (100.0, 250.0), args.repeats)
    measure_projection(verdicts, 100_000, 2.0, 512, (8.0, 12.0), args.repeats)
    verdicts.close()


if __name__ == "__main__":
    main()
