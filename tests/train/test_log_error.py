"""The error of colours that weighs targets as a mean of PSNRs does: closed form, masks, and samples
seen in parts.
"""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fsm.train.data import USUAL_ERROR, log_error, masked_mse
from fsm.train.loop import train
from fsm.views import Views
from tests.small import small_views
from tests.train.small_runs import changed, read_log


def off_by(views: Views, errors: list[float]) -> torch.Tensor:
    """Pictures of which every pixel of view i is off by ``errors[i]``."""
    assert views.rgb is not None
    return views.rgb + torch.tensor(errors)[:, None, None, None]


def test_every_view_counts_by_the_logarithm_of_its_own_error() -> None:
    views = small_views(3)
    expected = sum(math.log(e**2 + USUAL_ERROR) for e in (0.3, 0.05, 0.0)) / 3
    assert float(log_error(off_by(views, [0.3, 0.05, 0.0]), views)) == pytest.approx(
        2.0 * USUAL_ERROR * expected, rel=1e-4
    )


@pytest.mark.parametrize("error", [0.02, USUAL_ERROR**0.5, 0.3])
def test_gradients_are_those_of_the_plain_error_at_thirty_decibels_and_less_above(
    error: float,
) -> None:
    views = small_views(1)
    prediction = off_by(views, [error]).requires_grad_()
    (plain,) = torch.autograd.grad(masked_mse(prediction, views), prediction)
    (found,) = torch.autograd.grad(log_error(prediction, views), prediction)
    torch.testing.assert_close(
        found, plain * 2.0 * USUAL_ERROR / (error**2 + USUAL_ERROR), rtol=1e-3, atol=0
    )


def test_pixels_that_do_not_count_cost_nothing() -> None:
    views = small_views(2)
    mask = torch.zeros(2, 1, *views.hw, dtype=torch.bool)
    mask[0, :, :3, :5] = True
    masked = dataclasses.replace(views, mask=mask)
    prediction = off_by(views, [0.1, 0.4])
    prediction[0, :, 3:] += 0.5
    prediction.requires_grad_()
    loss = log_error(prediction, masked)
    assert float(loss.detach()) == pytest.approx(
        USUAL_ERROR * math.log(0.01 + USUAL_ERROR), rel=1e-4
    )
    loss.backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert torch.equal(prediction.grad != 0, mask.expand(-1, 3, -1, -1))


def test_the_mean_of_parts_is_the_whole() -> None:
    views, prediction = small_views(4), off_by(small_views(4), [0.1, 0.2, 0.3, 0.4])
    parts = [log_error(prediction[i : i + 2], views[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, log_error(prediction, views))


def test_a_training_with_it_starts_alike_and_takes_another_way(tmp_path: Path) -> None:
    plain, other = tmp_path / "mse", tmp_path / "log"
    train(changed(), plain, stop_after=3)
    train(changed(colours="log"), other, stop_after=3)
    one, two = read_log(plain), read_log(other)
    assert one[0]["mse"] == two[0]["mse"]
    assert one[0]["grad_norm"] != two[0]["grad_norm"]
    assert one[2]["mse"] != two[2]["mse"]
