"""The compiled comparison of frames at swept inverse depths against plain torch, in values and in
gradients.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsm.renderers.stereo import plane_sweep
from fsm.renderers.stereo.config import SweepConfig
from fsm.renderers.stereo.constants import COLOURS, FEATURES, MOST_CHANNELS
from fsm.renderers.stereo.cost_volume import cost_volume
from fsm.renderers.stereo.cost_volume_plain import plain_cost_volume
from fsm.renderers.stereo.plane_sweep import FineSweep
from fsm.renderers.stereo.sources import SourceViews
from fsm.views import Views
from tests.small import small_views

# multiples of nothing; frames of another size and shape than the targets
HW, FRAMES = (7, 21), (9, 14)
# pixels: nearer to a frame's border, or to the plane of its camera, rounding decides what is seen
EDGE = 1e-3
UNSEEN = 0.2


def cameras(b: int, v: int, hw: tuple[int, int], seed: int, turn: float = 0.25) -> Views:
    """Cameras [b v] within a unit of the origin that look along z, each turned by about ``turn``
    radians.
    """
    g = torch.Generator().manual_seed(seed)
    skew = turn * torch.randn(b, v, 3, 3, generator=g)
    c2w = torch.eye(4).repeat(b, v, 1, 1)
    c2w[..., :3, :3] = torch.linalg.matrix_exp(skew - skew.transpose(-1, -2))
    c2w[..., :3, 3] = torch.randn(b, v, 3, generator=g) * torch.tensor([0.3, 0.2, 0.4])
    f = hw[1] * (0.7 + 0.2 * torch.rand(b, v, 2, generator=g))
    centre = torch.tensor([hw[1] / 2.0, hw[0] / 2.0]) + torch.randn(b, v, 2, generator=g)
    return Views(c2w, torch.cat([f, centre], -1), torch.zeros(b, v), hw)


def example(
    seed: int,
    per_pixel: bool,
    *,
    b: int = 2,
    v: int = 5,
    n: int = 4,
    k: int = 4,
    d: int = 6,
    channels: int = COLOURS + FEATURES,
    turn: float = 0.25,
):
    """Source views, their maps, reference maps and inverse depths; views may be chosen twice."""
    g = torch.Generator().manual_seed(seed)
    requests, references = cameras(b, v, HW, seed, turn), cameras(b, n, FRAMES, seed + 50, turn)
    maps, own = (
        torch.rand(b, n, channels, *FRAMES, generator=g),
        torch.rand(b, v, channels, *HW, generator=g),
    )
    rho = torch.linspace(0.0, 3.0, d)[:, None, None]
    if per_pixel:
        rho = rho * (0.8 + 0.4 * torch.rand(b, v, 1, *HW, generator=g)) - 0.05
    index = torch.randint(0, n, (b, v, k), generator=g)
    return SourceViews.of(requests, references, index), maps, own, rho


def decided(sources: SourceViews, rho: Tensor) -> Tensor:
    """Points [b v d h w] that are clearly inside or outside of every source view."""
    h, w = sources.views.hw
    pixels = sources.project_planes(rho).pixels
    border = (
        torch.stack([pixels[..., 0], pixels[..., 0] - w, pixels[..., 1], pixels[..., 1] - h], -1)
        .abs()
        .amin(-1)
    )
    return (border > EDGE).all(2)


def gradients(form, given, weight: Tensor) -> tuple[Tensor, ...]:
    """Of the maps and of the views' own."""
    sources, maps, own, rho = given
    leaves = [m.clone().requires_grad_() for m in (maps, own)]
    return torch.autograd.grad((form(sources, *leaves, rho, UNSEEN) * weight).sum(), leaves)


def check(given: tuple[SourceViews, Tensor, Tensor, Tensor]) -> None:
    """Values and gradients are those of plain torch wherever rounding does not decide what is
    seen.
    """
    sure = decided(given[0], given[3])[:, :, :, None]
    assert float(sure.float().mean()) > 0.95
    found, expected = cost_volume(*given, UNSEEN), plain_cost_volume(*given, UNSEEN)
    torch.testing.assert_close(found * sure, expected * sure, rtol=0, atol=5e-6)
    weight = torch.randn_like(expected) * sure
    for found, expected in zip(
        *(gradients(form, given, weight) for form in (cost_volume, plain_cost_volume)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_plain_torch(seed: int, per_pixel: bool) -> None:
    given = example(seed, per_pixel)
    expected = plain_cost_volume(*given, UNSEEN)
    # some points are seen, some are not
    assert 0.05 < float((expected == UNSEEN).float().mean()) < 0.9
    check(given)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_cameras_that_look_anywhere_have_points_behind_them(per_pixel: bool) -> None:
    given = example(3, per_pixel, turn=2.0)
    pixels = given[0].project_planes(given[3]).pixels
    assert bool((pixels == -10.0 * max(*HW, *FRAMES)).any())
    check(given)


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_any_number_of_references(k: int) -> None:
    check(example(k, True, k=k, v=3))


@pytest.mark.parametrize("channels", [COLOURS + 1, MOST_CHANNELS])
def test_any_number_of_features(channels: int) -> None:
    check(example(4, True, channels=channels, v=3))


def test_a_frame_agrees_with_itself_at_infinity_and_half_of_the_others_may_not() -> None:
    """Two of four references are the view itself: the nearer half agrees with it, all of them do
    not.
    """
    sources, _, own, rho = example(1, False)
    reference = sources.reference
    maps = torch.stack([own[:, 0], 1.0 - own[:, 0]], 1)
    chosen = torch.tensor([[[0, 1, 0, 1]]]).expand(2, 1, 4)
    sources = SourceViews.of(reference[[0]], reference[[0, 0]], chosen)
    found = cost_volume(sources, maps, own[:, :1], rho[:1], UNSEEN)
    torch.testing.assert_close(
        found[:, :, :, 0::2], torch.zeros(2, 1, 1, 2, *HW), rtol=0, atol=1e-5
    )
    other = (1.0 - 2.0 * own[:, :1]).abs() / 2.0
    expected = torch.stack([other[:, :, :3].mean(2), other[:, :, 3:].mean(2)], 2)
    torch.testing.assert_close(found[:, :, 0, 1::2], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hw", [(1, 14), (9, 1), (1, 1)])
def test_frames_of_a_single_row_or_column(hw: tuple[int, int]) -> None:
    sources, maps, own, rho = example(2, True)
    maps = F.interpolate(maps.flatten(0, 1), hw).unflatten(0, (2, 4))
    sources = SourceViews.of(sources.reference, sources.views.resized(hw), sources.index)
    check((sources, maps, own, rho))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads, results = torch.get_num_threads(), []
    given = example(0, True, v=10)  # more targets than share a buffer
    weight = torch.randn(2, 10, 6, 4, *HW)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append((cost_volume(*given, UNSEEN), *gradients(cost_volume, given, weight)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_sweep_trains_all_it_did_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    views = small_views(5, hw=(40, 56)).batched()
    sweep = FineSweep(SweepConfig(fine_planes=6))
    torch.nn.init.normal_(sweep.leave.weight, std=0.1)
    chosen = torch.tensor([[[0, 2, 4], [1, 3, 4]]])
    first = 0.3 + 0.1 * torch.rand(1, 2, 1, 40, 56)
    results = []
    for form in (cost_volume, plain_cost_volume):
        monkeypatch.setattr(plane_sweep, "cost_volume", form)
        sweep.zero_grad()
        out = sweep(SourceViews.of(views[1:3], views, chosen), prior=first).rho
        out.square().sum().backward()
        results.append([out, *(p.grad for p in sweep.parameters())])
    assert bool(results[0][1].any())
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


def test_other_precisions_and_cameras_that_learn_are_left_to_plain_torch() -> None:
    sources, maps, own, rho = example(0, False, b=1, v=1)
    c2w = sources.views.c2w.clone().requires_grad_()
    views = dataclasses.replace(sources.views, c2w=c2w)
    learns = SourceViews.of(sources.reference, views, sources.index)
    cost_volume(learns, maps, own, rho, UNSEEN).sum().backward()
    assert c2w.grad is not None
    reference, views = (
        dataclasses.replace(
            x, c2w=x.c2w.double(), intrinsics=x.intrinsics.double(), time=x.time.double()
        )
        for x in (sources.reference, sources.views)
    )
    sources = SourceViews.of(reference, views, sources.index)
    given = (sources, maps.double(), own.double(), rho.double(), UNSEEN)
    found = cost_volume(*given)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, plain_cost_volume(*given), rtol=0, atol=0)
