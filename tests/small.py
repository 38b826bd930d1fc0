"""Small models and views that several tests share."""

from typing import Any

import torch
from torch import Tensor

from fsm.blocks import BlockConfig
from fsm.encoder import EncoderConfig
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.base import Head
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.renderers.stereo.config import StereoConfig, SweepConfig
from fsm.ttt import ElasticConfig
from fsm.views import Rendering, Views

HW = (16, 24)
SMALL_STEREO = StereoConfig(sources=3, sweep=SweepConfig(planes=4, fine_planes=4))


def small_config(
    *,
    reference: bool = False,
    gaussian: str | None = None,
    schedule: str = "update-all-then-apply",
    chunk_tokens: int = 12,
    **block,
) -> ModelConfig:
    """Two layers of width 32 on 8-pixel patches: 6 tokens a view at 16x24, two views a chunk."""
    values = {
        "dim": 32,
        "attention_head_dim": 16,
        "ns_dtype": "float32",
        "elastic": ElasticConfig("mas"),
    } | block
    layout = "lrm10" if gaussian in ("fsm", "4d-lrm") else "fsm13"
    encoder = EncoderConfig(BlockConfig(**values), 2, 8, layout, chunk_tokens, schedule)  # pyright: ignore[reportArgumentType]
    if gaussian == "pixel":
        head = PixelGaussianHeadConfig(hidden=16, references=3, stereo=SMALL_STEREO, detail_width=8)
    elif gaussian is not None:
        head = LrmHeadConfig(variant=gaussian)  # pyright: ignore[reportArgumentType]
    elif reference:
        stereo = StereoConfig(sources=3)
        head = ReferenceHeadConfig(references=3, hidden=16, stereo=stereo, refinement_width=8)
    else:
        head = LvsmHeadConfig()
    return ModelConfig(encoder, head)


def small_model(seed: int = 0, **options) -> FSM:
    """A model with random weights; zero-initialised corrections are filled so that nothing is
    trivially off.
    """
    torch.manual_seed(seed)
    model = FSM(small_config(**options)).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


def decoded(head: Head[Any], tokens: Tensor, targets: Views, inputs: Views) -> Rendering:
    """What a head makes of tokens [b v t d] of the targets, without an encoder."""
    return head.decode(targets, head.prepare(inputs, lambda _: tokens), lambda _: tokens)


def small_views(v: int = 5, seed: int = 0, hw: tuple[int, int] = HW) -> Views:
    """Observed views of random pixels along a gentle arc, ten a second."""
    g = torch.Generator().manual_seed(seed)
    c2w = torch.eye(4).repeat(v, 1, 1)
    angle = torch.linspace(-0.2, 0.2, v)
    c2w[:, 0, 0], c2w[:, 0, 2], c2w[:, 2, 0], c2w[:, 2, 2] = (
        angle.cos(),
        angle.sin(),
        -angle.sin(),
        angle.cos(),
    )
    c2w[:, 0, 3], c2w[:, 1, 3] = torch.linspace(-1.0, 1.0, v), 0.1 * torch.randn(v, generator=g)
    intrinsics = torch.tensor([20.0, 20.0, hw[1] / 2, hw[0] / 2]).expand(v, 4)
    return Views(c2w, intrinsics, torch.arange(v) / 10.0, hw, torch.rand(v, 3, *hw, generator=g))
