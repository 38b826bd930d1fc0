"""Depth to a fraction of a pixel: a wall in closed form, what it must not touch, and compiled
against plain torch.
"""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from fsm.renderers.stereo import subpixel
from fsm.renderers.stereo.config import StereoConfig, SubpixelConfig
from fsm.renderers.stereo.sources import SourceViews
from fsm.renderers.stereo.subpixel import aligned_depth, equations, gradient_maps
from fsm.renderers.stereo.subpixel_plain import plain_equations
from fsm.renderers.stereo.windows import window_mean
from fsm.views import Views
from tests.renderers.stereo.rigs import all_sources
from tests.renderers.stereo.test_cost_volume_cpu import decided, example
from tests.renderers.stereo.test_loss import HW, wall

RHO, ROW = 0.4, [-0.3, -0.15, 0.15, 0.3, 0.0]
FARTHEST, RULES = StereoConfig().sweep.farthest, SubpixelConfig()
INNER = (slice(None), slice(None), slice(None), slice(6, -6), slice(12, -12))


def anything(seed: int) -> tuple[SourceViews, Tensor]:
    """Reference views [2 3] and source views [2 4] of other sizes with random pictures, and inverse
    depths from zero up.
    """
    sources, maps, own, rho = example(seed, True, v=3, d=1, channels=3)
    reference, views = (
        dataclasses.replace(v, rgb=t) for v, t in ((sources.reference, own), (sources.views, maps))
    )
    sources = SourceViews.of(reference, views, sources.index)
    return sources, rho + 0.3 * torch.rand_like(rho)


def aligned(row: Views, start: Tensor, **rules) -> Tensor:
    """Depth of the last view from all others."""
    config = StereoConfig(subpixel=SubpixelConfig(**rules))
    return aligned_depth(all_sources(row[4:], row[:4]), start, config)


@pytest.mark.parametrize("off", [-0.08, 0.08])
def test_a_wall_is_found_to_a_fraction_of_a_pixel(off: float) -> None:
    row = wall(RHO, ROW, 2.0)
    start = torch.full((1, 1, 1, *HW), RHO * (1.0 + off))
    found = aligned(row, start)
    pixels = 0.3 * 60.0 * (found - RHO)  # in the frames that are farthest away
    assert float((0.3 * 60.0 * (start - RHO)).abs().max()) > 0.5
    assert float(pixels[INNER].abs().mean()) < 0.02
    assert float(pixels[INNER].abs().max()) < 0.2


def test_a_frame_that_shows_something_else_hardly_counts() -> None:
    row = wall(RHO, ROW, 2.0)
    assert row.rgb is not None
    torch.manual_seed(0)
    rgb = row.rgb.clone()
    rgb[:, 1] = torch.rand(3, *HW)
    shown = dataclasses.replace(row, rgb=rgb)
    start = torch.full((1, 1, 1, *HW), RHO * 1.08)
    found = aligned(shown, start)
    assert float((0.3 * 60.0 * (found - RHO))[INNER].abs().mean()) < 0.05


def test_light_that_changes_slowly_across_the_picture_moves_nothing() -> None:
    row = wall(RHO, ROW, 2.0)
    assert row.rgb is not None
    across = torch.linspace(0.0, 0.2, HW[1])
    lit = dataclasses.replace(
        row,
        rgb=row.rgb
        + torch.stack([across, 0.3 - across, across, -across, 0.1 + 0 * across])[:, None, None],
    )
    start = torch.full((1, 1, 1, *HW), RHO * 1.08)
    found = aligned(lit, start)
    assert float((0.3 * 60.0 * (found - RHO))[INNER].abs().mean()) < 0.03


def test_what_has_no_texture_stays_where_it_is() -> None:
    row = wall(RHO, ROW, 2.0)
    plain = dataclasses.replace(row, rgb=torch.full((1, 5, 3, *HW), 0.5))
    start = 0.2 + 0.4 * torch.rand(1, 1, 1, *HW)
    assert torch.equal(aligned(plain, start), start)


def test_all_windows_together_fit_better() -> None:
    sources, rho = anything(0)
    maps = gradient_maps(sources.frames)
    before, after = (
        window_mean(equations(sources, maps, r, r + FARTHEST, RULES), RULES.window)[:, :, 2:]
        for r in (rho, aligned_depth(sources, rho, StereoConfig()))
    )
    # Neighbours move on their own, so a window may end a little worse than it was judged; all
    # together must not.
    assert float(after.mean()) < float(before.mean())


@pytest.mark.parametrize(
    ("gain", "share"),
    [(-1.0, 0.0), (0.0, 0.5), (math.log(3.0) * RULES.acceptance, 0.75), (1.0, 1.0)],
)
def test_a_step_counts_by_how_much_better_the_frames_agree(
    gain: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing would turn rounding into depth where both places are about as good."""
    row, calls = wall(RHO, ROW, 2.0), []

    def answers(*_) -> Tensor:
        calls.append(1)
        sums = torch.tensor([-1.0, 1e-6, 0.5 - gain * (len(calls) > 1)])
        return sums[:, None, None].expand(1, 1, 3, *HW)

    monkeypatch.setattr(subpixel, "equations", answers)
    start = torch.full((1, 1, 1, *HW), RHO)
    expected = RHO + share * RULES.largest_step * (RHO + FARTHEST)
    found = aligned(row, start, steps=1)
    torch.testing.assert_close(found, torch.full_like(start, expected))


def test_equations_are_the_slope_of_the_misfit() -> None:
    """Of one reference: misfit r / (1 + r) with r = |d|² / 3 c², so its slope is 2 w s d / (3 c²
    (1 + r)).
    """
    row = wall(RHO, [0.3, 0.0])
    sources = all_sources(row[1:], row[:1])
    maps = gradient_maps(sources.frames)
    rho, step = torch.full((1, 1, 1, *HW), RHO * 1.02), 1e-3
    unit = rho + FARTHEST
    less, here, more = (
        equations(sources, maps, rho + off * unit, unit, RULES) for off in (-step, 0.0, step)
    )
    slope = ((more - less) / (2 * step))[:, :, 2:]
    expected = 2.0 / RULES.outlier**2 * here[:, :, :1] * (1.0 - here[:, :, 2:])
    off = (slope - expected)[INNER].abs().mean() / slope[INNER].abs().mean()
    # slopes of a bilinear picture jump from pixel to pixel, those of the maps do not
    assert float(off) < 0.1


def test_compiled_equations_are_those_of_plain_torch_for_any_number_of_threads() -> None:
    sources, rho = anything(1)
    given = (sources, gradient_maps(sources.frames), rho, rho.clamp_min(0.0) + FARTHEST, RULES)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(equations(*given))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    expected = plain_equations(*given)
    clear = decided(sources, rho)
    assert float(clear.float().mean()) > 0.9
    torch.testing.assert_close(results[0] * clear, expected * clear, rtol=1e-3, atol=1e-5)
