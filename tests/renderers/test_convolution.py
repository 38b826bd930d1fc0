"""Convolutions: products are rounded to bfloat16 only where a CPU has units for them."""

import pytest
import torch
from torch import nn

from fsm.renderers import convolution
from fsm.renderers.convolution import Conv


@pytest.mark.parametrize("units", [True, False])
def test_only_matrix_units_without_gradients_round(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(convolution, "has_matrix_units", lambda: units)
    layer, plain, x = (
        Conv(12, 8, 3, padding=1),
        nn.Conv2d(12, 8, 3, padding=1),
        torch.rand(2, 12, 9, 7),
    )
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    with torch.no_grad():
        found, expected = layer(x), plain(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) is not units
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-2)
