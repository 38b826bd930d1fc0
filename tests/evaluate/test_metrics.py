"""Metrics against closed forms and torchmetrics; means that do not depend on batches."""

import math
from pathlib import Path

import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from fsm.errors import InputError
from fsm.evaluate.lpips import LPIPS
from fsm.evaluate.metrics import (
    PSNR_CEILING,
    ImageScore,
    Metrics,
    RunningScores,
    mean_score,
    psnr,
    quantised,
    ssim,
)


def pair(
    n: int = 2, h: int = 40, w: int = 56, noise: float = 0.1
) -> tuple[torch.Tensor, torch.Tensor]:
    smooth = torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6), (h, w), mode="bilinear")
    return (smooth + noise * torch.randn_like(smooth)).clamp(0, 1), smooth


def test_psnr_closed_form() -> None:
    """A constant offset d has PSNR -20 log10 d; values outside [0, 1] are clamped; equal images hit
    the ceiling.
    """
    target = torch.full((3, 3, 8, 8), 0.25)
    prediction = target + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    expected = torch.tensor([20.0, 40.0, PSNR_CEILING], dtype=torch.float64)
    torch.testing.assert_close(psnr(prediction, target), expected, rtol=1e-5, atol=0)
    white = torch.ones(1, 3, 8, 8)
    assert psnr(white * 7.0, white * 0.9).item() == pytest.approx(20.0, abs=1e-4)
    a, b = pair(1)
    assert psnr(a, b).item() == pytest.approx(
        peak_signal_noise_ratio(a, b, data_range=1.0).item(), abs=1e-4
    )


def test_psnr_masked_counts_only_mask_pixels() -> None:
    target = torch.zeros(1, 3, 4, 4)
    prediction = target.clone()
    prediction[..., :2, :] = 0.1
    prediction[..., 2:, :] = 0.9
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :] = True
    assert psnr(prediction, target, mask).item() == pytest.approx(20.0, abs=1e-5)
    with pytest.raises(InputError, match="without any pixel"):
        psnr(prediction, target, torch.zeros_like(mask))


@pytest.mark.parametrize("hw", [(40, 56), (11, 11), (128, 128), (37, 200)])
@pytest.mark.parametrize("noise", [0.01, 0.2])
def test_ssim_equals_torchmetrics(hw: tuple[int, int], noise: float) -> None:
    a, b = pair(3, *hw, noise=noise)
    oracle = structural_similarity_index_measure(
        a.double(), b.double(), data_range=1.0, reduction="none"
    )
    torch.testing.assert_close(ssim(a, b), oracle, rtol=0, atol=1e-7)
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))
    with pytest.raises(InputError, match="at least 11"):
        ssim(a[..., :10], b[..., :10])


def test_quantised() -> None:
    rgb = torch.tensor([-0.5, 0.0019, 0.002, 0.5, 1.2]).expand(3, 1, 5)
    assert (quantised(rgb) * 255).round().tolist()[0][0] == [0, 0, 1, 128, 255]
    with pytest.raises(InputError, match="NaN"):
        quantised(rgb * math.nan)


def test_mean_is_independent_of_batches(shared_data: Path) -> None:
    metrics = Metrics(LPIPS.load("squeeze", shared_data / "lpips"))
    a, b = pair(7)
    results = []
    for size in (1, 2, 3, 7):
        scores = RunningScores()
        for i in range(0, 7, size):
            scores.add(metrics.score(a[i : i + size], b[i : i + size]))
        assert len(scores.images) == 7
        results.append((tuple(scores.images), scores.mean()))
    assert all(r == results[0] for r in results)
    assert results[0][1].psnr == pytest.approx(
        psnr(quantised(a), quantised(b)).mean().item(), abs=1e-9
    )
    assert "squeeze" in metrics.describe()["lpips"]
    assert "window 11, sigma 1.5" in metrics.describe()["ssim"]


def test_mask_hides_pixels_from_every_metric(shared_data: Path) -> None:
    metrics = Metrics(LPIPS.load("alex", shared_data / "lpips"))
    a, b = pair(1)
    mask = torch.ones(1, 1, 40, 56, dtype=torch.bool)
    mask[..., :20] = False
    changed = torch.where(mask, a, 1 - a)
    assert metrics.score(a, b, mask) == metrics.score(changed, b, mask)
    assert metrics.score(a, b) != metrics.score(changed, b)


def test_moving_and_standing_pixels_are_scored_apart(shared_data: Path) -> None:
    """Their squared errors add up to that of the whole; an error in one part is not the other's."""
    metrics = Metrics(LPIPS.load("alex", shared_data / "lpips"))
    _, b = pair(2, 64, 64)
    moving = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    moving[0, :, :16] = True
    a = torch.where(moving, (b + 0.2).clamp(0, 1), (b + 0.02).clamp(0, 1))
    first, second = metrics.score(a, b, moving=moving)
    error = {
        name: (quantised(a[:1]) - quantised(b[:1])).square().mean(1, keepdim=True)[mask].mean()
        for name, mask in (("moving", moving[:1]), ("standing", ~moving[:1]))
    }
    assert first.psnr_moving == pytest.approx(-10 * math.log10(error["moving"]), abs=1e-4)
    assert first.psnr_standing == pytest.approx(-10 * math.log10(error["standing"]), abs=1e-4)
    whole = 0.25 * error["moving"] + 0.75 * error["standing"]
    assert first.psnr == pytest.approx(-10 * math.log10(whole), abs=1e-4)
    assert first.lpips_moving is not None
    assert first.lpips_standing is not None
    assert first.lpips_moving > 2 * first.lpips_standing
    # nothing moves in the second picture: it does not count in the mean
    assert (second.psnr_moving, second.lpips_moving) == (None, None)
    assert second.psnr_standing == pytest.approx(second.psnr, abs=1e-9)
    assert mean_score((first, second)).psnr_moving == first.psnr_moving
    assert metrics.score(a, b)[0].psnr == first.psnr
    assert metrics.score(a, b)[0].psnr_moving is None
    masked = metrics.score(a, b, ~moving, moving)[0]
    assert masked.psnr_moving is None
    assert masked.psnr_standing == first.psnr_standing


def test_missing_lpips_is_never_averaged_away() -> None:
    assert Metrics().score(*pair(1))[0].lpips is None
    assert "not measured" in Metrics().describe()["lpips"]
    with pytest.raises(InputError, match="some of the images"):
        mean_score((ImageScore(1.0, 1.0, None), ImageScore(1.0, 1.0, 0.1)))
    with pytest.raises(InputError, match="no image"):
        mean_score(())
