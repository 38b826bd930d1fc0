"""The compiled comparison of frames at swept inverse depths against plain torch, in values and in
gradients.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsm.renderers.stereo import cost_volume as plane_sweep
from fsm.renderers.stereo.cost_volume import (
    COLOURS,
    FEATURES,
    MOST_CHANNELS,
    PlaneSweep,
    disagreement,
    plain_disagreement,
)
from fsm.renderers.stereo.sources import plane_pixels
from fsm.views import Views
from tests.small import small_views

# multiples of nothing; frames of another size and shape than the targets
HW, FRAMES = (7, 21), (9, 14)
# pixels: nearer to a frame's border, or to the plane of its camera, rounding decides what is seen
EDGE = 1e-3


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
    """Requests, cameras, maps, own maps, chosen and inverse depths; references may stand more than
    once among the chosen.
    """
    g = torch.Generator().manual_seed(seed)
    requests, references = cameras(b, v, HW, seed, turn), cameras(b, n, FRAMES, seed + 50, turn)
    maps, own = (
        torch.rand(b, n, channels, *FRAMES, generator=g),
        torch.rand(b, v, channels, *HW, generator=g),
    )
    rho = torch.linspace(0.0, 3.0, d)[:, None, None]
    if per_pixel:
        rho = rho * (0.8 + 0.4 * torch.rand(b, v, 1, *HW, generator=g)) - 0.05
    return requests, references, maps, own, torch.randint(0, n, (b, v, k), generator=g), rho


def decided(requests: Views, references: Views, chosen: Tensor, rho: Tensor) -> Tensor:
    """Points [b v d h w] that are clearly inside or outside of every chosen frame."""
    h, w = references.hw
    pixels = plane_pixels(requests, references, chosen, rho)
    border = (
        torch.stack([pixels[..., 0], pixels[..., 0] - w, pixels[..., 1], pixels[..., 1] - h], -1)
        .abs()
        .amin(-1)
    )
    return (border > EDGE).all(2)


def gradients(form, given, weight: Tensor) -> tuple[Tensor, ...]:
    """Of the maps and of the views' own."""
    requests, references, maps, own, chosen, rho = given
    leaves = [m.clone().requires_grad_() for m in (maps, own)]
    return torch.autograd.grad(
        (form(requests, references, *leaves, chosen, rho) * weight).sum(), leaves
    )


def check(given) -> None:
    """Values and gradients are those of plain torch wherever rounding does not decide what is
    seen.
    """
    requests, references, _, _, chosen, rho = given
    sure = decided(requests, references, chosen, rho)[:, :, :, None]
    assert float(sure.float().mean()) > 0.95
    found, expected = disagreement(*given), plain_disagreement(*given)
    torch.testing.assert_close(found * sure, expected * sure, rtol=0, atol=5e-6)
    weight = torch.randn_like(expected) * sure
    for found, expected in zip(
        *(gradients(form, given, weight) for form in (disagreement, plain_disagreement)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_plain_torch(seed: int, per_pixel: bool) -> None:
    given = example(seed, per_pixel)
    expected = plain_disagreement(*given)
    # some points are seen, some are not
    assert 0.05 < float((expected == plane_sweep.UNSEEN).float().mean()) < 0.9
    check(given)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_cameras_that_look_anywhere_have_points_behind_them(per_pixel: bool) -> None:
    given = example(3, per_pixel, turn=2.0)
    assert bool((plane_pixels(given[0], given[1], given[4], given[5]) == -10.0 * max(HW)).any())
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
    requests, _, _, own, _, rho = example(1, False)
    maps = torch.stack([own[:, 0], 1.0 - own[:, 0]], 1)
    chosen = torch.tensor([[[0, 1, 0, 1]]]).expand(2, 1, 4)
    found = disagreement(requests[[0]], requests[[0, 0]], maps, own[:, :1], chosen, rho[:1])
    torch.testing.assert_close(
        found[:, :, :, 0::2], torch.zeros(2, 1, 1, 2, *HW), rtol=0, atol=1e-5
    )
    other = (1.0 - 2.0 * own[:, :1]).abs() / 2.0
    expected = torch.stack([other[:, :, :3].mean(2), other[:, :, 3:].mean(2)], 2)
    torch.testing.assert_close(found[:, :, 0, 1::2], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("hw", [(1, 14), (9, 1), (1, 1)])
def test_frames_of_a_single_row_or_column(hw: tuple[int, int]) -> None:
    requests, references, maps, own, chosen, rho = example(2, True)
    references = references.resized(hw)
    check(
        (
            requests,
            references,
            F.interpolate(maps.flatten(0, 1), hw).unflatten(0, (2, 4)),
            own,
            chosen,
            rho,
        )
    )


def test_any_number_of_threads_gives_the_same_bits() -> None:
    threads, results = torch.get_num_threads(), []
    given = example(0, True, v=10)  # more targets than share a buffer
    weight = torch.randn(2, 10, 6, 4, *HW)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append((disagreement(*given), *gradients(disagreement, given, weight)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_sweep_trains_all_it_did_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    views = small_views(5, hw=(40, 56)).batched()
    sweep = PlaneSweep(6, stride=2, about=True)
    torch.nn.init.normal_(sweep.leave.weight, std=0.1)
    chosen = torch.tensor([[[0, 2, 4], [1, 3, 4]]])
    first = 0.3 + 0.1 * torch.rand(1, 2, 1, 40, 56)
    results = []
    for form in (disagreement, plain_disagreement):
        monkeypatch.setattr(plane_sweep, "disagreement", form)
        sweep.zero_grad()
        out = sweep(views[1:3], views, chosen, about=first).rho
        out.square().sum().backward()
        results.append([out, *(p.grad for p in sweep.parameters())])
    assert bool(results[0][1].any())
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


def test_other_precisions_and_cameras_that_learn_are_left_to_plain_torch() -> None:
    requests, references, maps, own, chosen, rho = example(0, False, b=1, v=1)
    with_pose = dataclasses.replace(references, c2w=references.c2w.clone().requires_grad_())
    disagreement(requests, with_pose, maps, own, chosen, rho).sum().backward()
    assert with_pose.c2w.grad is not None
    requests, references = (
        dataclasses.replace(
            x, c2w=x.c2w.double(), intrinsics=x.intrinsics.double(), time=x.time.double()
        )
        for x in (requests, references)
    )
    given = (requests, references, maps.double(), own.double(), chosen, rho.double())
    found = disagreement(*given)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, plain_disagreement(*given), rtol=0, atol=0)
