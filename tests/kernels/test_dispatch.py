"""When compiled code does the work, and when plain torch has to."""

import pytest
import torch
from torch.autograd import forward_ad

from fsm.kernels.dispatch import runs_compiled


def test_float32_on_the_cpu_is_compiled_and_nothing_else() -> None:
    fits = torch.zeros(2)
    assert runs_compiled(fits, fits.requires_grad_(), constants=[torch.zeros(1)])
    assert not runs_compiled(fits, fits.double())
    assert not runs_compiled(fits, fits.bfloat16())
    assert not runs_compiled(fits, torch.zeros(2, device="meta"))
    assert not runs_compiled(fits, constants=[fits.double()])


def test_a_gradient_that_compiled_code_lacks_is_left_to_torch() -> None:
    asks = torch.zeros(2, requires_grad=True)
    assert not runs_compiled(torch.zeros(2), constants=[asks])
    with torch.no_grad():
        assert runs_compiled(torch.zeros(2), constants=[asks])


# torch itself imports a deprecated part of itself here
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_mode_is_left_to_torch() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.zeros(2), torch.ones(2))
        assert not runs_compiled(dual)
        assert runs_compiled(torch.zeros(2))
