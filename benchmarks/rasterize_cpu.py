"""The compiled rasteriser on a processor: time, against torch, against its roofline, and how it
grows.

* ``rasterize`` as users call it, projection included: 100,000 Gaussians at 512², whose footprint
  (half the side of the box outside which alpha is below 1/255) is 6 pixels in the median, and 2.1
  million of a pixel at 256², what a pixel-aligned decoder emits.
* Compositing alone against the plain torch rasteriser, which is given, tile by tile, only the
  splats that touch the tile, with nobody counting the time to find them. It draws some of the
  tiles; its time is scaled to all.
* Nanoseconds per evaluated pair of a splat and a pixel on one core, beside the counted floor of
  0.3: 22 vector instructions for 16 pairs, two per cycle.
* Growth with splats, pixels and threads.

Wall-clock time is the smallest of the rounds, since other programs may run; CPU time, all threads
together, is the median.

    python -m benchmarks.rasterize_cpu --threads 2
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import numba
import torch

from benchmarks.common import Verdicts, cpu_seconds, parser, start
from fsm.renderers.gaussians import rasterize_plain
from fsm.renderers.gaussians.projection import project_gaussians
from fsm.renderers.gaussians.rasterize import rasterize
from fsm.renderers.gaussians.rasterize_cpu import composite, pairs_evaluated
from fsm.renderers.gaussians.rotations import rotation_3d, upper_triangle
from fsm.renderers.gaussians.spherical_harmonics import colour_to_sh
from fsm.renderers.gaussians.types import Gaussians3D, Splats
from fsm.views import Views

FLOOR = 0.3
TILE, SAMPLED = 32, 12


def camera(side: int) -> Views:
    """Square pictures, 60 degrees wide, from the origin along +z."""
    focal = 0.5 * side / 0.577
    return Views(
        torch.eye(4)[None],
        torch.tensor([[focal, focal, side / 2, side / 2]]),
        torch.zeros(1),
        (side, side),
    )


def scene(n: int, side: int, deviation: float, opacity: float = 0.9, seed: int = 0) -> Gaussians3D:
    """Ellipsoids all over the picture at depths 2 to 6, deviating by about ``deviation`` pixels,
    opacities up to ``opacity``.
    """
    g = torch.Generator().manual_seed(seed)
    depth = 2.0 + 4.0 * torch.rand(n, generator=g)
    xy = (2.0 * torch.rand(n, 2, generator=g) - 1.0) * 0.577 * depth[:, None]
    pixel = depth / (0.5 * side / 0.577)
    scales = deviation * pixel[:, None] * torch.exp(0.4 * torch.randn(n, 3, generator=g))
    half = rotation_3d(torch.randn(n, 4, generator=g)) * scales[:, None]
    covariances = upper_triangle(half @ half.mT).contiguous()
    opacities = opacity * (0.05 + 0.95 * torch.rand(n, generator=g))
    return Gaussians3D(
        torch.cat([xy, depth[:, None]], -1),
        covariances,
        opacities,
        colour_to_sh(torch.rand(n, 3, generator=g)),
    )


def timed(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Smallest wall-clock and median CPU milliseconds."""
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        cpu.append(cpu_seconds(run))
        wall.append(time.perf_counter() - began)
    return 1e3 * min(wall), 1e3 * statistics.median(cpu)


def forward(gaussians: Gaussians3D, view: Views) -> Callable[[], object]:
    """Draw without gradients."""

    def run() -> None:
        with torch.no_grad():
            rasterize(gaussians, view, backend="cpu")

    return run


def forward_backward(gaussians: Gaussians3D, view: Views) -> Callable[[], object]:
    """Draw, and take gradients back to every field of the Gaussians."""
    names = [f.name for f in dataclasses.fields(gaussians)]
    leaves = dataclasses.replace(
        gaussians, **{n: getattr(gaussians, n).clone().requires_grad_() for n in names}
    )

    def run() -> None:
        drawn = rasterize(leaves, view, backend="cpu")
        torch.autograd.grad(drawn.rgb.sum(), [getattr(leaves, n) for n in names])

    return run


def whole(verdicts: Verdicts, threads: int, repeats: int) -> None:
    """What users call."""
    for n, side, deviation, limits in (
        (100_000, 512, 1.6, (120.0, 300.0)),
        (2_100_000, 256, 0.25, (300.0, None)),
    ):
        gaussians, view = scene(n, side, deviation), camera(side)
        splats = project_gaussians(gaussians, view)
        radius = float(splats.radii.median())
        pairs = pairs_evaluated(splats, view.hw)
        print(
            f"\n{n:,} Gaussians at {side}², footprint {radius:.1f} px, {pairs / 1e6:.1f} M "
            f"pairs evaluated, {threads} threads"
        )
        for name, run, limit in (
            ("forward", forward(gaussians, view), limits[0]),
            ("forward + backward", forward_backward(gaussians, view), limits[1]),
        ):
            wall, cpu = timed(run, repeats)
            print(f"  {name}: {wall:.1f} ms, {cpu:.1f} ms of CPU time")
            if limit is not None:
                verdicts.check(f"{n:,} at {side}², {name}", wall, limit, unit=" ms")


def with_gradients(splats: Splats, draw, hw: tuple[int, int]) -> None:
    """Composite and take gradients back to the splats."""
    names = ("centres", "conics", "depths", "opacities", "colours")
    leaves = dataclasses.replace(
        splats, **{n: getattr(splats, n).detach().requires_grad_() for n in names}
    )
    torch.autograd.grad(torch.cat(draw(leaves, hw)).sum(), [getattr(leaves, n) for n in names])


def tiles_of(splats: Splats, side: int) -> list[Splats]:
    """The splats of SAMPLED tiles spread over the picture, in tile coordinates."""
    columns = side // TILE
    found = []
    for tile in range(0, columns * columns, columns * columns // SAMPLED):
        corner = torch.tensor([tile % columns, tile // columns]) * TILE
        low, high = splats.centres - splats.radii - corner, splats.centres + splats.radii - corner
        here = ((high > 0) & (low < TILE)).all(-1)
        fields = {
            f.name: getattr(splats, f.name)[here]
            for f in dataclasses.fields(splats)
            if f.name != "dropped"
        }
        found.append(Splats(**{**fields, "centres": fields["centres"] - corner}, dropped=0))
    return found


def against_torch(verdicts: Verdicts, repeats: int) -> None:
    """Compositing on one thread, CPU time of both; and nanoseconds per pair."""
    side = 512
    splats = project_gaussians(scene(100_000, side, 1.6), camera(side))
    tiles = tiles_of(splats, side)
    share = (side // TILE) ** 2 / len(tiles)
    both = {}
    for name, draw, parts, times in (
        ("ours", composite, [splats], repeats),
        ("torch", rasterize_plain.composite, tiles, 3),
    ):
        hw = (side, side) if name == "ours" else (TILE, TILE)

        def plain(draw=draw, parts=parts, hw=hw) -> None:
            for part in parts:
                draw(part, hw)

        def full(draw=draw, parts=parts, hw=hw) -> None:
            for part in parts:
                with_gradients(part, draw, hw)

        scale = 1.0 if name == "ours" else share
        both[name] = [scale * timed(run, times)[1] for run in (plain, full)]
        print(
            f"  {name}: forward {both[name][0]:.1f} ms, forward + backward {both[name][1]:.1f} ms"
        )
    for i, (name, limit) in enumerate((("forward", 50.0), ("forward + backward", 30.0))):
        verdicts.check(
            f"times faster than torch, {name}",
            both["torch"][i] / both["ours"][i],
            limit,
            at_least=True,
        )
    pairs = pairs_evaluated(splats, (side, side))
    forward_ns, backward_ns = (
        1e6 * t / pairs for t in (both["ours"][0], both["ours"][1] - both["ours"][0])
    )
    print(
        f"  per evaluated pair and core: forward {forward_ns:.2f} ns, backward "
        f"{backward_ns:.2f} ns (floor {FLOOR} and 0.7)"
    )


def growth(verdicts: Verdicts, repeats: int) -> None:
    """CPU time of compositing faint splats, which never fill a pixel, on one thread."""
    for what, cases in (
        ("splats", [(n, 512, 1.6) for n in (25_000, 50_000, 100_000, 200_000)]),
        ("pixels", [(25_000, side, 4.0 * side / 512) for side in (256, 512, 1024)]),
    ):
        rates = []
        for n, side, deviation in cases:
            splats = project_gaussians(scene(n, side, deviation, opacity=0.02), camera(side))
            milliseconds, pairs = (
                timed(lambda s=splats, d=side: composite(s, (d, d)), repeats)[1],
                pairs_evaluated(splats, (side, side)),
            )
            rates.append(milliseconds / (n if what == "splats" else side * side))
            print(
                f"  {n:,} splats at {side}²: {milliseconds:.1f} ms, "
                f"{1e6 * milliseconds / pairs:.2f} ns per pair"
            )
        verdicts.check(f"time per item, most over fewest {what}", rates[-1] / rates[0], 1.3)


def threads_help(threads: int, repeats: int) -> None:
    """Wall-clock time by number of threads."""
    gaussians, view = scene(100_000, 512, 1.6), camera(512)
    for count in range(1, threads + 1):
        torch.set_num_threads(count)
        parts = [
            timed(run, repeats)
            for run in (forward(gaussians, view), forward_backward(gaussians, view))
        ]
        print(
            f"  {count} threads: forward {parts[0][0]:.1f} ms ({parts[0][1]:.1f} of CPU), "
            f"forward + backward {parts[1][0]:.1f} ms ({parts[1][1]:.1f})"
        )


def main() -> None:
    """Print the tables and the verdicts."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=2)
    options.set_defaults(repeats=15)
    args = options.parse_args()
    start("CPU rasteriser", format="float32", numba=numba.__version__, timed_threads=args.threads)
    verdicts = Verdicts()
    torch.set_num_threads(args.threads)
    whole(verdicts, args.threads, args.repeats)
    torch.set_num_threads(1)
    print("\ncompositing 100,000 splats at 512² on one thread, CPU time")
    against_torch(verdicts, args.repeats)
    print("\ngrowth, one thread, CPU time")
    growth(verdicts, args.repeats)
    print("\nthreads, 100,000 Gaussians at 512²")
    threads_help(args.threads, args.repeats)
    verdicts.close()


if __name__ == "__main__":
    main()
