"""Window attention in the number format that suits the window."""

import pytest
import torch
import torch.nn.functional as F

from fsm.blocks import SMALL_WINDOW, BlockConfig, WindowAttention


@pytest.mark.parametrize(
    ("tokens", "format_used"), [(16, torch.float32), (2 * SMALL_WINDOW, torch.bfloat16)]
)
def test_small_windows_are_attended_in_float32_with_the_same_result(
    tokens: int, format_used: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(BlockConfig(dim=32, attention_head_dim=16, ttt_heads=2))
    x, attend, seen = torch.randn(1, 2, tokens, 32), F.scaled_dot_product_attention, []

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.extend(part.dtype for part in (q, k, v))
        return attend(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    results = []
    for narrow in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            out = layer(leaf)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), leaf)
        results.append((out.detach().float(), gradient))
    assert seen == 3 * [torch.float32] + 3 * [format_used]
    for found, expected in zip(results[1], results[0], strict=True):
        assert float((found - expected).norm() / expected.norm()) < 0.02  # bfloat16 has eight bits
