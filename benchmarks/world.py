"""Views per second of the procedural worlds at 128²: the compiled tracer against its plain torch
twin.

    python -m benchmarks.world [--repeats 5] [--statistics CLIPS]

One thread, CPU time, cases in turn. Each case samples fresh worlds and renders eight moments of
each, as training does. With ``--statistics``, pictures and motion of the world are compared with
those of real clips (a list, as for ``fsm inspect``) instead.
"""

import dataclasses
import itertools
import math
import statistics
import sys

import torch
from torch import Tensor

from benchmarks.common import Verdicts, alternate, medians, paired, parser, start
from fsm.datasets.open import open_dataset
from fsm.datasets.world.tables import trace_tables
from fsm.datasets.world.trace import mixed_blocks
from fsm.datasets.world.world import World
from fsm.views import Views

HW = (128, 128)
WORLDS, MOMENTS = 16, 8
TARGET = 400.0  # views per second and core
PERCENTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def main() -> None:
    """Time, or compare statistics."""
    options = parser(__doc__)
    options.add_argument(
        "--statistics", metavar="CLIPS", help="compare with these real clips; nothing is timed"
    )
    given = options.parse_args()
    if given.statistics:
        compare(given.statistics)
        return
    start("Procedural worlds", size=HW, worlds=WORLDS, moments=MOMENTS)
    time = torch.linspace(0.0, 6.0, MOMENTS).expand(WORLDS, MOMENTS)
    counter = itertools.count(0, WORLDS)

    def film(worlds: int, plain: bool) -> None:
        first = next(counter)
        world = World.sample(range(first, first + worlds))
        world.render(world.camera_path(time[:worlds], HW), plain)

    fixed = World.sample(range(WORLDS))
    views = fixed.camera_path(time, HW)
    cases = {
        "world": lambda: film(WORLDS, plain=False),
        "plain twin": lambda: film(1, plain=True),
        "sampling parameters": lambda: World.sample(range(WORLDS)),
        "placing bodies": lambda: trace_tables(fixed.bodies, fixed.surfaces, fixed.around, views),
        "tracing and placing": lambda: fixed.render(views),
    }
    counts = {"world": WORLDS, "plain twin": 1}
    seconds = alternate(cases, given.repeats)
    each = {
        name: value / (counts.get(name, WORLDS) * MOMENTS)
        for name, value in medians(seconds).items()
    }
    for name, value in each.items():
        print(f"  {name:<20} {1e3 * value:8.3f} ms a view, {1 / value:8.1f} views/s")
    mixed = float(
        mixed_blocks(fixed.surfaces_seen(views)[:, :, 0].flatten(0, 1).float()).float().mean()
    )
    print(
        "  blocks of 4 x 4 pixels with a border of two surfaces, traced four times: "
        f"{100 * mixed:.1f} %"
    )
    verdicts = Verdicts()
    verdicts.check("views per second and core", 1 / each["world"], TARGET, at_least=True)
    ratio = paired(seconds["plain twin"], seconds["world"]) * WORLDS / counts["plain twin"]
    verdicts.check("against the plain twin", ratio, 4.0, at_least=True, unit="x")
    verdicts.close()


def compare(clips: str) -> None:
    """Print quantiles of what pictures, depth and cameras do, real clips beside as many worlds."""
    torch.set_num_threads(1)
    dataset = open_dataset(clips)
    real = [dataset.clip(id).views(range(0, 30, 10), HW) for id in dataset.ids]
    world = World.sample(range(len(real)))
    time = (torch.arange(0, 30, 10) / 30.0).expand(len(real), 3)
    views = world.camera_path(time, HW)
    seen = world.render(views)
    rendered = dataclasses.replace(views, rgb=seen.rgb).samples()
    paths = [(v.cameras.c2w, v.cameras.time) for v in (dataset.clip(id) for id in dataset.ids)]
    span = torch.linspace(0.0, 6.6, 199).expand(len(real), 199)
    filmed = [(c2w, span[0]) for c2w in world.camera_path(span, HW).c2w]
    print(f"{'quantiles over clips':<44}" + "".join(f"{100 * p:>9.0f}%" for p in PERCENTILES))
    for name, of in (
        ("brightness", brightness),
        ("contrast", contrast),
        ("kurtosis of gradients", kurtosis),
        ("slope of the spectrum", slope),
    ):
        show(f"{name}: real", [of(v) for v in real])
        show(f"{name}: world", [of(v) for v in rendered])
    for name, of in (
        ("camera speed, m/s", speed),
        ("extent of the path, m", extent),
        ("turning, degrees/s", turning),
    ):
        show(f"{name}: real", [of(*path) for path in paths])
        show(f"{name}: world", [of(*path) for path in filmed])
    assert seen.depth is not None
    show("depth of pixels, m: world", seen.depth.flatten()[::97].tolist())
    flow, visible = world.flow(views[:1], views[1:2])
    show("flow over 1/3 s, pixels: world", flow.norm(dim=2, keepdim=True)[visible][::7].tolist())


def show(name: str, values: list[float]) -> None:
    """One row of quantiles."""
    row = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor(PERCENTILES, dtype=torch.float64)
    )
    print(f"{name:<44}" + "".join(f"{value:>10.3g}" for value in row.tolist()))


def grey(views: Views) -> Tensor:
    """Brightness of pictures [v h w]."""
    if views.rgb is None:
        sys.exit("a clip gave no pictures.")
    return views.rgb.mean(-3)


def brightness(views: Views) -> float:
    """Mean brightness."""
    return float(grey(views).mean())


def contrast(views: Views) -> float:
    """Standard deviation of brightness."""
    return float(grey(views).std())


def kurtosis(views: Views) -> float:
    """Kurtosis of differences between neighbours: 3 for a bell curve, more for few strong edges."""
    step = grey(views).diff(dim=-1).flatten()
    step = step - step.mean()
    return float(step.pow(4).mean() / step.pow(2).mean().clamp_min(1e-12) ** 2)


def slope(views: Views) -> float:
    """Exponent a of amplitude ~ 1 / frequency^a between 4 and 40 periods per picture."""
    picture = grey(views)
    window = torch.hann_window(HW[0])[:, None] * torch.hann_window(HW[1])
    power = (
        torch.fft.fft2((picture - picture.mean((-2, -1), keepdim=True)) * window)
        .abs()
        .square()
        .mean(0)
    )
    f = torch.fft.fftfreq(HW[0]) * HW[0]
    radius = (f[:, None].square() + f[None].square()).sqrt()
    edges = torch.logspace(math.log10(4), math.log10(40), 11)
    rows = [
        (
            math.log(float((a * b) ** 0.5)),
            0.5 * math.log(float(power[(radius >= a) & (radius < b)].mean())),
        )
        for a, b in itertools.pairwise(edges)
    ]
    x, y = zip(*rows, strict=True)
    return -statistics.linear_regression(x, y).slope


def speed(c2w: Tensor, time: Tensor) -> float:
    """Length of the path over its time."""
    return float(c2w[:, :3, 3].diff(dim=0).norm(dim=-1).sum() / (time[-1] - time[0]))


def extent(c2w: Tensor, time: Tensor) -> float:
    """Largest distance between two cameras of a path."""
    return float(torch.cdist(c2w[:, :3, 3].double(), c2w[:, :3, 3].double()).max())


def turning(c2w: Tensor, time: Tensor) -> float:
    """Mean turning speed in degrees per second."""
    turn = c2w[:-1, :3, :3].transpose(-1, -2).double() @ c2w[1:, :3, :3].double()
    # sharper than a cosine near zero
    sine = (turn - turn.transpose(-1, -2)).square().sum((-2, -1)).div(8).sqrt()
    return float(torch.rad2deg(sine.clamp_max(1.0).asin()).sum() / (time[-1] - time[0]))


if __name__ == "__main__":
    main()
