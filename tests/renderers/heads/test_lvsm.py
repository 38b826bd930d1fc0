"""The direct head: each token paints its own patch, in the layout of released weights."""

import torch

from fsm.renderers.heads.lvsm import LvsmHead, LvsmHeadConfig
from tests.small import decoded, small_views

PATCH, DIM, HW = 8, 32, (16, 24)


def _head() -> LvsmHead:
    torch.manual_seed(0)
    return LvsmHead(DIM, PATCH, LvsmHeadConfig())


def test_pixels_are_where_the_published_layout_puts_them() -> None:
    """Value (row p, column q, channel c) of token (y, x) is pixel (8y + p, 8x + q); written with
    loops.
    """
    head, tokens = _head(), torch.randn(2, 3, 6, DIM)
    out = decoded(head, tokens, small_views(3).batched(), small_views(3).batched()).rgb
    assert out.shape == (2, 3, 3, *HW)
    x = (tokens - tokens.mean(-1, keepdim=True)) / (
        tokens.var(-1, keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    values = torch.sigmoid((x * head.norm.weight) @ head.linear.weight.T)
    for y in range(2):
        for x0 in range(3):
            for p, q, c in ((0, 0, 0), (0, 0, 2), (0, 7, 1), (7, 0, 1), (3, 5, 2)):
                expected = values[:, :, y * 3 + x0, (p * PATCH + q) * 3 + c]
                torch.testing.assert_close(out[:, :, c, y * PATCH + p, x0 * PATCH + q], expected)


@torch.no_grad()
def test_a_token_changes_its_own_patch_only() -> None:
    head, tokens = _head(), torch.randn(1, 1, 6, DIM)
    request = small_views(1).batched()
    changed = tokens.clone()
    changed[:, :, 4] += torch.randn(DIM)
    difference = (
        (decoded(head, tokens, request, request).rgb - decoded(head, changed, request, request).rgb)
        .abs()
        .sum(2)[0, 0]
    )
    assert bool((difference[8:, 8:16] > 0).all())
    difference[8:, 8:16] = 0
    assert float(difference.max()) == 0.0


@torch.no_grad()
def test_colours_stay_in_float32_and_inside_the_range_under_autocast() -> None:
    head = _head()
    with torch.autocast("cpu", torch.bfloat16):
        request = small_views(1).batched()
        out = decoded(head, 1e4 * torch.randn(1, 1, 6, DIM), request, request)
    assert out.rgb.dtype == torch.float32
    assert float(out.rgb.min()) >= 0.0
    assert float(out.rgb.max()) <= 1.0
    assert out.depth is None
    assert out.alpha is None


def test_gradients_are_what_finite_differences_say() -> None:
    head, request = _head().double(), small_views(1, hw=(8, 8)).batched()
    tokens = torch.randn(1, 1, 1, DIM, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 1, 3, 8, 8, dtype=torch.float64)

    # The head hands out float32 colours, which finite differences of 1e-3 still resolve.
    def total(given: torch.Tensor) -> torch.Tensor:
        return (decoded(head, given, request, request).rgb.double() * weight).sum()

    total(tokens).backward()
    assert tokens.grad is not None
    direction = torch.randn_like(tokens)
    ends = [total(tokens.detach() + s * 1e-3 * direction) for s in (1, -1)]
    numeric = (ends[0] - ends[1]) / 2e-3
    torch.testing.assert_close((tokens.grad * direction).sum(), numeric, rtol=1e-2, atol=1e-3)
