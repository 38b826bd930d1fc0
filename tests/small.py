"""Small models and views that several tests share."""

import torch

from fsm.blocks import BlockConfig
from fsm.encoder import EncoderConfig
from fsm.model import FSM, ModelConfig
from fsm.renderers.heads.lrm import GaussianHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.ttt import ElasticConfig
from fsm.views import Views

HW = (16, 24)


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
    head = ReferenceHeadConfig(references=3, hidden=16, refinement_width=8) if reference else None
    if gaussian is None:
        return ModelConfig(encoder, head)
    shape = {"hidden": 16, "references": 3, "planes": 4, "fine_planes": 4, "detail_width": 8}
    return ModelConfig(encoder, head, GaussianHeadConfig(gaussian, **shape))  # pyright: ignore[reportArgumentType]


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
