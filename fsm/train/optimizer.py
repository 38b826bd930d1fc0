"""AdamW and its learning rate, as of the published training (FSM, table 5)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fsm.train.config import OptimConfig, StageConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over everything that is learnt."""
    groups = parameter_groups(model, config)
    return torch.optim.AdamW(groups, betas=config.betas, fused=config.fused or None)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Weight decay on parameters with two or more dimensions only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def average_into(ema: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """Move averaged weights, in place, towards those after ``step``; faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        ema[name].lerp_(value, 1.0 - decay)


def learning_rate(step: int, config: OptimConfig, stages: Sequence[StageConfig] = ()) -> float:
    """Linear warm-up, then cosine to zero at the end, or at the next stage that starts it anew."""
    begins, lr, warmup, ends = 0, config.lr, config.warmup, config.steps
    for stage in stages:
        if stage.lr is not None and stage.from_step <= step:
            begins, lr, warmup = stage.from_step, stage.lr, stage.warmup
        elif stage.lr is not None:
            ends = min(ends, stage.from_step)
    if step < begins + warmup:
        return lr * (step - begins + 1) / warmup
    done = (step - begins - warmup) / max(1, ends - begins - warmup)
    return 0.5 * lr * (1.0 + math.cos(math.pi * min(1.0, done)))
