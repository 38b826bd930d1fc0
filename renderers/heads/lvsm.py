"""The direct decoder of FSM-LVSM: pixels straight from the tokens of target rays."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fsm.encoder import unpatchify
from fsm.renderers.heads.base import Head, Read
from fsm.views import Rendering, Views


@dataclass(frozen=True)
class LvsmHeadConfig:
    """The published direct decoder; it has no options."""

    kind: Literal["lvsm"] = "lvsm"
    """Which head this is."""


class LvsmHead(Head[None]):
    """LayerNorm, linear, sigmoid, un-patchify (FSM, arXiv 2604.07350, §3; the head of released
    weights).
    """

    decoder = "lvsm"

    def __init__(self, dim: int, patch: int, config: LvsmHeadConfig) -> None:
        super().__init__(dim, patch, config)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.linear = nn.Linear(dim, 3 * patch**2, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def prepare(self, inputs: Views, read: Read) -> None:
        """Nothing: the tokens of a target hold all there is."""

    def decode(self, targets: Views, prepared: None, read: Read) -> Rendering:
        """Colours of the targets, without depth."""
        pixels = torch.sigmoid(self.linear(self.norm(read(targets))).float())
        return Rendering(unpatchify(pixels, targets.hw, self.patch))
