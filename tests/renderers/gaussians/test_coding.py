"""Deflated tensors come back to the bit; damaged ones are one sentence."""

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.gaussians.coding import deflated, described, inflated


@pytest.mark.parametrize("shape", [(100,), (100, 3), (40, 4, 3), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int16])
def test_values_come_back(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = (100.0 * torch.randn(shape)).to(dtype)
    again = inflated(deflated(values), described(values), "here")
    assert again.dtype == dtype
    assert torch.equal(again, values)


def test_what_is_alike_becomes_small() -> None:
    values = torch.linspace(1.0, 1.1, 10000).half()[:, None].expand(-1, 3).contiguous()
    assert len(deflated(values)) < 0.1 * values.numel() * 2


@pytest.mark.parametrize(
    "what",
    [
        ["float32", [10, 4]],
        ["float32", [9, 3]],
        ["float64", [10, 3]],
        ["float32", [-10, -3]],
        ["float32", [2**36, 3]],
        ["float32", "x"],
        "float32",
        None,
    ],
)
def test_another_description_is_refused(what: object) -> None:
    data = deflated(torch.randn(10, 3))
    with pytest.raises(InputError, match="here is damaged"):
        inflated(data, what, "here")


def test_damaged_bytes_are_refused() -> None:
    values = torch.randn(1000)
    data = deflated(values)
    for broken in (data[:-100], data[100:], data.float()):
        with pytest.raises(InputError, match="here is damaged"):
            inflated(broken, described(values), "here")
