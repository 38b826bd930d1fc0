"""The direct decoder of FSM-LVSM: pixels straight from the tokens of ray queries."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fsm.encoder import unpatchify
from fsm.views import Rendering, Views


class PlainHead(nn.Module):
    """LayerNorm, linear, sigmoid, un-patchify (FSM, arXiv 2604.07350, §3; the head of released
    weights).
    """

    uses_references = False

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(dim, bias=False)
        self.linear = nn.Linear(dim, 3 * patch**2, bias=False)
        nn.init.normal_(self.linear.weight, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "b v t d"], requests: Views, references: Views | None
    ) -> Rendering:
        """Colours of the requested views; ``references`` are not looked at."""
        return Rendering(
            unpatchify(
                torch.sigmoid(self.linear(self.norm(tokens)).float()), requests.hw, self.patch
            )
        )
