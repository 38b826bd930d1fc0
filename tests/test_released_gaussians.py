"""Released FSM-LRM checkpoints: found by their shape, and their quaternions turned into ours."""

import pytest
import torch
from torch import Tensor

from fsm.adapters.released import convert_state_dict, infer_config, model_from_released
from fsm.errors import InputError
from fsm.renderers.gaussians.rotations import rotation_4d
from fsm.renderers.heads.lrm import CHANNELS, LrmHeadConfig
from tests.small import small_model
from tests.test_released import released_state


def published_rotation(left: Tensor, right: Tensor) -> Tensor:
    """4D-GS, arXiv 2310.10642, supplement: product of the two isoclinic matrices, axes in reverse
    order (time last).
    """
    a, b, c, d = (left / left.norm(dim=-1, keepdim=True)).unbind(-1)
    p, q, r, s = (right / right.norm(dim=-1, keepdim=True)).unbind(-1)
    rows_left = [[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]]
    rows_right = [[p, q, r, s], [-q, p, -s, r], [-r, s, p, -q], [-s, -r, q, p]]
    lhs, rhs = (
        torch.stack([torch.stack(row, -1) for row in m], -2) for m in (rows_left, rows_right)
    )
    return (lhs @ rhs).flip(-2, -1)


def test_quaternions_mean_the_same_rotation() -> None:
    """One token's decoder output before and after conversion, as matrices by their formula and by
    ours.
    """
    model = small_model(gaussian="fsm")
    released = released_state(model)
    converted = convert_state_dict(released, "lrm.pth")
    token = torch.randn(32, dtype=torch.float64)

    def channels(decoder: Tensor) -> list[Tensor]:
        return list((decoder.double() @ token).view(64, 20).split(CHANNELS, dim=-1))

    theirs, ours = (
        channels(released["image_token_decoder.1.weight"]),
        channels(converted["head.linear.weight"]),
    )
    expected = published_rotation(theirs[5], theirs[6])
    torch.testing.assert_close(rotation_4d(ours[5], ours[6]), expected)
    # unconverted is another rotation
    assert float((rotation_4d(theirs[5], theirs[6]) - expected).abs().max()) > 0.1
    for part in (0, 1, 2, 3, 4, 7):
        assert torch.equal(ours[part], theirs[part])


def test_released_lrm_is_found_by_its_shape(tmp_path) -> None:
    model = small_model(gaussian="fsm")
    torch.save({"model": released_state(model)}, tmp_path / "lrm.pth")
    made = model_from_released(tmp_path / "lrm.pth", chunk_tokens=12)
    assert made.decoder == "lrm"
    assert made.config.head == LrmHeadConfig(variant="fsm")
    assert made.config.encoder.input_layout == "lrm10"
    assert made.config.encoder.patch == 8
    again = made.state_dict()
    assert all(
        torch.equal(again[k], v)
        for k, v in model.state_dict().items()
        if not k.startswith("head.linear")
    )


def test_another_number_of_input_channels_is_refused() -> None:
    state = released_state(small_model(gaussian="fsm"))
    state["input_linear.weight"] = torch.zeros(32, 9 * 64)
    with pytest.raises(InputError, match="none of the known layouts"):
        infer_config(convert_state_dict(state, "static.pth"), "static.pth")


def test_published_size_of_fsm_lrm() -> None:
    """313.04 M parameters (FSM, appendix): counted from the shapes of 24 blocks, the 10-channel
    embedding and the head.
    """
    block = 12_981_635
    total = 24 * block + 10 * 64 * 768 + 768 + 768 + 20 * 64 * 768
    assert round(total / 1e6, 2) == 313.04
