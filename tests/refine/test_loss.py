"""The loss against the metric's definition, and its gradient by finite differences."""

import pytest
import torch
import torch.nn.functional as F

from fsm.refine.loss import mean_similarity, photometric_loss, similarity


def _plain(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """SSIM as its authors write it: window weights on all 11 x 11 neighbours, zeros beyond the
    border.
    """
    line = torch.exp(-0.5 * ((torch.arange(11.0, dtype=a.dtype) - 5.0) / 1.5) ** 2)
    window = torch.outer(line, line) / line.sum() ** 2

    def mean(x: torch.Tensor) -> torch.Tensor:
        patches = F.unfold(x.flatten(0, 1)[:, None], 11, padding=5).unflatten(2, x.shape[-2:])
        return (patches * window.flatten()[:, None, None]).sum(1).view_as(x)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.0001, 0.0009
    return (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))


@pytest.mark.parametrize("hw", [(20, 33), (7, 5)])
def test_similarity_is_that_of_its_definition(hw: tuple[int, int]) -> None:
    a, b = torch.rand(2, 3, *hw), torch.rand(2, 3, *hw)
    torch.testing.assert_close(similarity(a, b), _plain(a, b), atol=2e-5, rtol=0)
    torch.testing.assert_close(similarity(a, a), torch.ones_like(a), atol=1e-6, rtol=0)


@pytest.mark.parametrize("hw", [(20, 33), (7, 5)])
def test_the_compiled_mean_and_its_gradient_are_those_of_similarity(hw: tuple[int, int]) -> None:
    b = torch.rand(2, 3, *hw)
    plain = (b + 0.2 * torch.randn(2, 3, *hw)).requires_grad_()
    compiled = plain.detach().clone().requires_grad_()
    expected, found = similarity(plain, b).mean(), mean_similarity(compiled, b)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    (3.0 * expected).backward()
    (3.0 * found).backward()
    assert plain.grad is not None
    scale = float(plain.grad.abs().max())
    torch.testing.assert_close(compiled.grad, plain.grad, atol=1e-4 * scale, rtol=0)


def test_gradient_by_finite_differences() -> None:
    a = torch.rand(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    mask = torch.rand(1, 1, 6, 7) > 0.3
    assert torch.autograd.gradcheck(lambda x: photometric_loss(x, b, mask, 0.4), a)


def test_masked_pixels_do_not_count() -> None:
    a, b = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    wild = a.clone()
    wild[..., 8:] = 77.0
    assert photometric_loss(wild, b, mask, 0.2) == photometric_loss(a, b, mask, 0.2)
    assert photometric_loss(a, wild, mask, 0.2) == photometric_loss(a, a, mask, 0.2)
    assert photometric_loss(a, b, ~mask & mask, 0.2).abs() < 1e-6
    assert photometric_loss(a, b, None, 0.0) == (a - b).abs().mean()
