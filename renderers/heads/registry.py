"""All decoder heads by the ``kind`` that a model config names."""

from typing import Any

from fsm.renderers.heads.base import Head
from fsm.renderers.heads.lrm import LrmHead, LrmHeadConfig
from fsm.renderers.heads.lvsm import LvsmHead, LvsmHeadConfig
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHead, PixelGaussianHeadConfig
from fsm.renderers.heads.reference import ReferenceHead, ReferenceHeadConfig

HeadConfig = LvsmHeadConfig | ReferenceHeadConfig | LrmHeadConfig | PixelGaussianHeadConfig
HEADS: dict[str, tuple[type[HeadConfig], type[Head[Any]]]] = {
    config.kind: (config, head)
    for config, head in (
        (LvsmHeadConfig, LvsmHead),
        (ReferenceHeadConfig, ReferenceHead),
        (LrmHeadConfig, LrmHead),
        (PixelGaussianHeadConfig, PixelGaussianHead),
    )
}
"""Config and module of every kind."""


def build_head(dim: int, patch: int, config: HeadConfig) -> Head[Any]:
    """The head of a config, for tokens of width ``dim`` and patches of ``patch`` pixels a side."""
    _, head = HEADS[config.kind]
    return head(dim, patch, config)
