"""Deferred back-propagation against summing the losses, and the training step that uses it."""

import dataclasses

import pytest
import torch

from fsm.blocks import BlockConfig
from fsm.encoder import EncoderConfig
from fsm.model import FSM, ModelConfig
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.renderers.heads.registry import HeadConfig
from fsm.train.deferred import backward_view_by_view
from fsm.views import Views
from tests.small import SMALL_STEREO

TRUNK = EncoderConfig(
    BlockConfig(dim=32, attention_head_dim=16, ttt_heads=1, mlp_ratio=1, ns_dtype="float32"),
    layers=2,
    patch=8,
    chunk_tokens=64,
)  # Newton-Schulz in bfloat16 would turn the last digit of a gradient into per cents


def some_views(batch: int, views: int, rgb: bool = True) -> Views:
    c2w = torch.eye(4).repeat(batch, views, 1, 1)
    c2w[..., 0, 3] = torch.linspace(-1, 1, views)
    intrinsics = torch.tensor([16.0, 16.0, 8.0, 8.0]).expand(batch, views, 4)
    time = torch.linspace(-1, 1, views).expand(batch, views)
    return Views(
        c2w, intrinsics, time, (16, 16), torch.rand(batch, views, 3, 16, 16) if rgb else None
    )


@pytest.mark.parametrize(
    "head",
    [
        PixelGaussianHeadConfig(hidden=16, stereo=SMALL_STEREO),
        LrmHeadConfig(variant="fsm"),
        LrmHeadConfig(variant="4d-lrm"),
    ],
)
def test_deferred_gradients_equal_plain_ones(head: HeadConfig) -> None:
    model = FSM(ModelConfig(TRUNK, head))
    # corrections start at zero, where half of the paths carry nothing
    for name, parameter in model.named_parameters():
        if name.startswith("head.") and not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    inputs, targets = (
        some_views(2, 3),
        some_views(2, 5),
    )  # an odd number: published variants start out at time 0 and short
    assert targets.rgb is not None
    truth = targets.rgb

    model(inputs, targets).rgb.sub(truth).square().mean().backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)

    prepared = model.predict(inputs)
    samples = targets.samples()

    def loss(moving, b: int, i: int) -> torch.Tensor:
        return prepared.render(moving, b, samples[b][i]).rgb.sub(truth[b, i]).square().mean() / 10

    total = backward_view_by_view(prepared.gaussians, 5, loss)
    torch.testing.assert_close(
        total, model(inputs, targets).rgb.sub(truth).square().mean().detach()
    )
    deferred = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert deferred.keys() == plain.keys()
    assert any(n.startswith("encoder.") and bool(g.any()) for n, g in plain.items())
    largest = max(float(g.norm()) for g in plain.values())
    for name, grad in plain.items():
        rounding = 1e-6 * largest  # the rates' biases get sums of terms that cancel
        assert float((deferred[name] - grad).norm()) <= 1e-3 * float(grad.norm()) + rounding, name


def test_graph_of_one_view_at_a_time(monkeypatch) -> None:
    """The graph of a view is gone before the next one is drawn."""
    n = 5
    scales = torch.full((n, 3), 0.1)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(n, 4)
    gaussians = Gaussians4D(
        torch.rand(n, 3),
        torch.zeros(n),
        scales,
        torch.ones(n),
        quats,
        quats,
        torch.full((n,), 0.5),
        torch.rand(n, 1, 3),
    )
    gaussians = dataclasses.replace(gaussians, means=gaussians.means.requires_grad_())
    alive: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(1)
            return x.clone()

        @staticmethod
        def backward(ctx, *grads):
            alive.pop()
            return grads[0]

    def loss(moving, b: int, i: int) -> torch.Tensor:
        assert not alive
        return Watched.apply(moving.means).square().sum() * (i + 1)

    backward_view_by_view([gaussians], 3, loss)
    assert gaussians.means.grad is not None
    torch.testing.assert_close(gaussians.means.grad, 12.0 * gaussians.means.detach())
