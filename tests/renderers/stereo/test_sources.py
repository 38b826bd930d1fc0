"""Choosing and sampling references: brute force, closed forms, and gradients in float64."""

import dataclasses

import pytest
import torch
from torch import Tensor

from fsm.renderers.heads.reference import (
    REMOTE,
    ReferenceHead,
    ReferenceHeadConfig,
    source_description,
)
from fsm.renderers.stereo.selection import nearest_views
from fsm.renderers.stereo.sources import SourceViews, gather, pixel_grid, sample_maps
from fsm.views import Views
from tests.small import decoded, small_views

HW = (4, 6)


def _random(v: int, seed: int, hw: tuple[int, int] = (16, 24)) -> Views:
    """Views [1 v] anywhere, looking anywhere, at any time."""
    g = torch.Generator().manual_seed(seed)
    views = small_views(v, seed, hw)
    c2w = torch.eye(4).repeat(v, 1, 1)
    c2w[:, :3, :3] = torch.linalg.qr(torch.randn(v, 3, 3, generator=g)).Q
    c2w[:, :3, 0] *= torch.linalg.det(c2w[:, :3, :3])[:, None]
    c2w[:, :3, 3] = torch.randn(v, 3, generator=g)
    time = torch.rand(v, generator=g).sort().values * 2 - 1
    return dataclasses.replace(views, c2w=c2w, time=time).batched()


def _double(views: Views) -> Views:
    parts = {n: getattr(views, n) for n in ("c2w", "intrinsics", "time", "rgb")}
    return dataclasses.replace(
        views, **{n: None if t is None else t.double() for n, t in parts.items()}
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_brute_force(seed: int) -> None:
    requests, references = _random(3, seed), _random(7, seed + 100)
    index, distance = nearest_views(requests, references, 4)
    for v in range(3):
        scores = []
        for n in range(7):
            a, b = requests.c2w[0, v], references.c2w[0, n]
            dt = abs(float(requests.time[0, v] - references.time[0, n]))
            dc = float((a[:3, 3] - b[:3, 3]).norm())
            scores.append(dt + dc + 1.0 - float(a[:3, 2] @ b[:3, 2]))
        best = sorted(range(7), key=lambda n: scores[n])[:4]
        assert index[0, v].tolist() == sorted(best)  # times ascend with the index
        mean = sum(scores[n] for n in best) / 4
        expected = torch.tensor([scores[n] / mean for n in sorted(best)])
        torch.testing.assert_close(distance[0, v], expected, rtol=1e-4, atol=1e-5)


def test_each_sample_of_a_batch_chooses_for_itself() -> None:
    samples = [(_random(2, s), _random(6, s + 50)) for s in range(3)]
    requests, references = (Views.stack([p[i].unbatched() for p in samples]) for i in (0, 1))
    index, distance = nearest_views(requests, references, 3)
    for b, (request, reference) in enumerate(samples):
        alone = nearest_views(request, reference, 3)
        assert torch.equal(index[b], alone[0][0])
        torch.testing.assert_close(distance[b], alone[1][0])
    assert torch.equal(gather(references.time, index)[1, 0], references.time[1][index[1, 0]])


def test_references_in_one_place_and_moment_have_no_preference_and_no_nan() -> None:
    same = small_views(1).batched()[[0, 0, 0]]
    index, distance = nearest_views(same[:1], same, 3)
    assert index.tolist() == [[[0, 1, 2]]]
    assert float(distance.abs().max()) == 0.0


def described(requests: Views, references: Views, index: Tensor, distance: Tensor) -> Tensor:
    return source_description(SourceViews.of(requests, references, index), distance)


def test_how_the_head_describes_its_sources_does_not_depend_on_where_the_world_is() -> None:
    requests, references = _random(2, 1), _random(5, 2)
    chosen, distance = nearest_views(requests, references, 3)
    T = _random(1, 3).c2w[0, 0]

    def moved(views: Views) -> Views:
        return dataclasses.replace(views, c2w=T @ views.c2w, time=views.time + 0.25)

    before = described(requests, references, chosen, distance)
    after = described(moved(requests), moved(references), chosen, distance)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    itself = described(requests, requests, torch.tensor([[[0], [1]]]), torch.zeros(1, 2, 1))
    expected = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0]).expand(1, 2, 1, 8)
    torch.testing.assert_close(itself, expected, rtol=0, atol=1e-6)


def test_a_camera_far_away_looks_to_the_head_as_one_at_the_edge_of_what_it_knows() -> None:
    requests, references = _random(1, 1), _random(3, 2)
    chosen, distance = torch.tensor([[[0, 1, 2]]]), torch.ones(1, 1, 3)

    def seen_from(metres: float) -> Tensor:
        way = torch.tensor([0.6, 0.0, 0.8])
        c2w = references.c2w.clone()
        c2w[..., :3, 3] = requests.c2w[:, :1, :3, 3] + metres * way
        return described(requests, dataclasses.replace(references, c2w=c2w), chosen, distance)

    near, edge, far = seen_from(0.5), seen_from(REMOTE), seen_from(40.0)
    torch.testing.assert_close(edge, far)
    torch.testing.assert_close(near[..., 1:4], 0.5 / REMOTE * edge[..., 1:4])


def test_positions_have_exact_gradients() -> None:
    target, references = (
        _double(v) for v in (small_views(3, hw=HW).batched()[1], small_views(3, hw=HW).batched())
    )
    chosen = torch.tensor([[[0, 2]]])
    rho = (0.2 + 0.3 * torch.rand(1, 1, 1, *HW)).double().requires_grad_()
    motion = (0.1 * torch.randn(1, 1, 3, *HW)).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, m: SourceViews.of(target, references, chosen).project(r, m).pixels, (rho, motion)
    )


def test_samples_have_exact_gradients_in_position_and_colour() -> None:
    frames = torch.rand(1, 3, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    # Between pixel centres, where bilinear interpolation is smooth.
    whole = torch.stack(
        [torch.randint(0, 5, (1, 1, 2, 3, 3)), torch.randint(0, 3, (1, 1, 2, 3, 3))], -1
    )
    pixels = (whole + 0.6 + 0.8 * torch.rand(1, 1, 2, 3, 3, 2)).double().requires_grad_()
    chosen = torch.tensor([[[2, 0]]])
    assert torch.autograd.gradcheck(lambda f, p: sample_maps(f, chosen, p)[0], (frames, pixels))


def test_samples_at_pixel_centres_are_the_pixels() -> None:
    views = small_views(4).batched()
    assert views.rgb is not None
    chosen = torch.tensor([[[3, 1]]])
    samples, inside = sample_maps(
        views.rgb, chosen, pixel_grid(views[:1]).expand(1, 1, 2, 16, 24, 2)
    )
    torch.testing.assert_close(samples[0, 0], views.rgb[0, [3, 1]], rtol=0, atol=2e-6)
    assert bool((inside == 1).all())


def _head(**options) -> ReferenceHead:
    torch.manual_seed(1)
    config = ReferenceHeadConfig(hidden=16, refinement_width=8, references=3, **options)
    head = ReferenceHead(32, 8, config).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return head


@torch.no_grad()
def test_the_synthesis_starts_at_nothing_and_keeps_colours_in_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    references = small_views(5).batched()
    tokens, requests = torch.randn(1, 2, 6, 32), references[1:3].without_rgb()
    torch.manual_seed(0)
    head = ReferenceHead(
        32, 8, ReferenceHeadConfig(hidden=16, refinement_width=8, references=3)
    ).eval()
    started = decoded(head, tokens, requests, references).rgb
    with monkeypatch.context() as patch:
        patch.setattr(head.synthesis, "forward", lambda blended, *_: torch.zeros_like(blended))
        assert torch.equal(started, decoded(head, tokens, requests, references).rgb)
    assert head.synthesis.leave.bias is not None
    head.synthesis.leave.bias.fill_(2.0)
    assert torch.equal(
        decoded(head, tokens, requests, references).rgb, torch.ones(1, 2, 3, *requests.hw)
    )


@torch.no_grad()
def test_an_untrained_head_between_two_still_neighbours_is_between_their_colours() -> None:
    torch.manual_seed(0)
    head = ReferenceHead(
        32, 8, ReferenceHeadConfig(references=2, hidden=16, refinement_width=8)
    ).eval()
    one = small_views(1).batched()[[0, 0, 0]]
    assert one.rgb is not None
    shade = torch.tensor([0.2, 0.0, 0.6])[None, :, None, None, None]
    still = dataclasses.replace(
        one, time=torch.tensor([[-1.0, 0.0, 1.0]]), rgb=shade.expand_as(one.rgb).contiguous()
    )
    with torch.no_grad():
        head.colour.weight.zero_()
        head.colour.bias.fill_(-30.0)  # no say for the predicted colour
    out = decoded(head, torch.randn(1, 1, 6, 32), still[1:2].without_rgb(), still[[0, 2]]).rgb
    # both are equally far
    torch.testing.assert_close(out, torch.full_like(out, 0.4), rtol=0, atol=1e-4)


@torch.no_grad()
def test_targets_do_not_see_each_other_and_samples_of_a_batch_neither() -> None:
    head, references = _head(), small_views(5).batched()
    tokens = torch.randn(1, 3, 6, 32)
    request = references[[0, 2, 4]].without_rgb()
    together = decoded(head, tokens, request, references).rgb
    for v in range(3):
        alone = decoded(head, tokens[:, v : v + 1], request[v : v + 1], references).rgb
        torch.testing.assert_close(together[:, v : v + 1], alone, rtol=1e-4, atol=1e-5)
    other = small_views(5, seed=3).batched()
    both = Views.stack([references.unbatched(), other.unbatched()])
    stacked = decoded(head, tokens.repeat(2, 1, 1, 1), both[[0, 2, 4]].without_rgb(), both).rgb
    torch.testing.assert_close(stacked[:1], together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_pixel", [False, True])
def test_planes_at_once_are_projected_one_by_one(per_pixel: bool) -> None:
    requests, references = _double(_random(2, 1, HW)), _double(_random(5, 10))
    sources = SourceViews.of(requests, references, nearest_views(requests, references, 3)[0])
    rho = torch.tensor([0.0, 0.02, 0.3, 2.5], dtype=torch.float64)[:, None, None]
    if per_pixel:
        rho = rho + torch.rand(1, 2, 4, *HW, dtype=torch.float64)
    together = sources.project_planes(rho)
    for i, plane in enumerate(rho.expand(1, 2, 4, *HW).unbind(2)):
        alone = sources.project(plane[:, :, None])
        torch.testing.assert_close(together.pixels[:, :, :, i], alone.pixels)
        torch.testing.assert_close(together.inverse_depth[:, :, :, i], alone.inverse_depth)
        assert torch.equal(together.inside[:, :, :, i], alone.inside)


def test_sources_without_unused_views_and_reversed_see_the_same() -> None:
    requests, references = _random(2, 1), _random(6, 2)
    sources = SourceViews.of(requests, references, torch.tensor([[[4, 1, 4], [1, 5, 4]]]))
    rho = 0.1 + torch.rand(1, 2, 1, *requests.hw)
    seen, compact = sources.project(rho), sources.compacted()
    assert len(compact.views) == 3
    assert torch.equal(compact.project(rho).pixels, seen.pixels)
    assert torch.equal(
        compact.sample(compact.frames, seen.pixels)[0],
        sources.sample(sources.frames, seen.pixels)[0],
    )
    back = sources.reversed()
    assert back.index.flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(back.reference.c2w[0], references.c2w[0, [4, 1, 4, 1, 5, 4]])
    there, here = sources.cameras.rotation.flatten(1, 2), back.cameras.rotation[:, :, 0]
    torch.testing.assert_close(there @ here, torch.eye(3).expand(1, 6, 3, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.gaps.flatten(), -sources.gaps.flatten())
