"""Errors of training: pixels that count, depth by its ratio, means over samples."""

import dataclasses
import math

import pytest
import torch

from fsm.train.data import depth_loss, masked_mse
from fsm.views import Views
from tests.small import small_views


def test_masked_error_counts_only_pixels_that_count() -> None:
    views = small_views(2)
    assert views.rgb is not None
    prediction = views.rgb + 0.5
    assert float(masked_mse(prediction, views)) == pytest.approx(0.25)
    mask = torch.zeros(2, 1, *views.hw, dtype=torch.bool)
    mask[0, :, 3, 4] = True
    prediction[0, :, 3, 4] = views.rgb[0, :, 3, 4] + torch.tensor([0.1, 0.2, 0.3])
    masked = dataclasses.replace(views, mask=mask)
    assert float(masked_mse(prediction, masked)) == pytest.approx(
        (0.01 + 0.04 + 0.09) / 3, rel=1e-4
    )
    nothing = dataclasses.replace(views, mask=torch.zeros_like(mask))
    assert float(masked_mse(prediction, nothing)) == 0.0


def test_depth_error_in_closed_form() -> None:
    truth = torch.full((1, 1, 1, 2, 2), math.nan)
    depth = torch.full_like(truth, 2.0).requires_grad_()
    assert float(depth_loss(depth, truth).detach()) == 0.0
    truth[..., 0, 0], truth[..., 1, 1] = 4.0, 2.0
    loss = depth_loss(depth, truth)
    assert float(loss.detach()) == pytest.approx(0.5 * math.log((0.5 + 0.02) / (0.25 + 0.02)))
    loss.backward()
    assert depth.grad is not None
    assert bool(torch.isfinite(depth.grad).all())
    assert bool((depth.grad[..., 0, 1] == 0).all())


def test_near_and_far_by_the_same_ratio_cost_the_same() -> None:
    """Else a model that puts everything far away would be better off than one that is right on
    average.
    """
    truth = torch.full((1, 1, 1, 1, 2), 1e-3)
    near, far = depth_loss(0.5 * truth, truth), depth_loss(2.0 * truth, truth)
    torch.testing.assert_close(near, far, rtol=1e-4, atol=0)
    torch.testing.assert_close(near, torch.tensor(math.log(2.0)), rtol=1e-4, atol=0)


def test_losses_of_a_batch_are_means_over_its_samples() -> None:
    """So that processes that have seen parts of a batch can average."""
    views = Views.stack([small_views(2), small_views(2)])
    assert views.rgb is not None
    mask = torch.rand(2, 2, 1, *views.hw) < torch.tensor([0.9, 0.1])[:, None, None, None, None]
    masked = dataclasses.replace(views, mask=mask)
    prediction = views.rgb + torch.rand_like(views.rgb)
    alone = [
        masked_mse(prediction[i : i + 1], Views.stack([masked.samples()[i]])) for i in range(2)
    ]
    torch.testing.assert_close(masked_mse(prediction, masked), sum(alone) / 2)
    truth = torch.where(mask, torch.rand(2, 2, 1, *views.hw) + 1, math.nan)
    depth = torch.rand_like(truth) + 1
    alone = [depth_loss(depth[i : i + 1], truth[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(depth_loss(depth, truth), sum(alone) / 2)
