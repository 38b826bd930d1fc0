"""The seam between the training loop and what is learnt."""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable

from jaxtyping import Float
from torch import Tensor

from fsm.train.config import TrainConfig
from fsm.train.data import Batch
from fsm.train.parallelize import Parallel
from fsm.views import SceneFrame, Views


class Objective(ABC):
    """A loss of batches, and the rules of its steps. Parameters learn that it gives a gradient."""

    def __init__(self, config: TrainConfig, parallel: Parallel) -> None:
        self.config, self.parallel = config, parallel

    @abstractmethod
    def backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Differentiate the loss of this process's part of a batch; its parts, for the log."""

    @abstractmethod
    def tokens(self, batch: Batch) -> int:
        """Patches that the encoder looks at for a batch."""

    def phase(self, step: int) -> Hashable:
        """What decides the cost of a step beside the sizes of its batch."""
        return type(self).__name__

    def limits(self, step: int) -> tuple[float, float]:
        """Norm that gradients are clipped to, and norm above which a step is skipped."""
        optim = self.config.optim
        if self.config.whole_steps(step) < optim.clip_from:
            return math.inf, math.inf
        return optim.clip, optim.skip_above

    def normalised(self, batch: Batch) -> tuple[Views, Views, Float[Tensor, "b t 1 h w"]]:
        """Inputs and this process's targets in model space, and the targets' true z-depth in model
        units (NaN where unknown).
        """
        frame, own = SceneFrame.fit(batch.inputs), self.parallel.team.own(len(batch.targets))
        depth = batch.depth[:, own] * frame.scale[:, None, None, None, None]
        return frame.to_model(batch.inputs), frame.to_model(batch.targets[own]), depth
