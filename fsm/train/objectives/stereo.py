"""Learn depth from the frames alone, before the memory: a tenth of the cost of a whole step."""

import torch

from fsm.renderers.stereo.loss import stereo_loss
from fsm.renderers.stereo.pipeline import Stereo
from fsm.train.data import Batch
from fsm.train.objectives.base import Objective
from fsm.views import SceneFrame


class StereoObjective(Objective):
    """Depth of as many inputs as there are targets. Only the decoder's stereo runs, and only it
    gets gradients, which are always clipped.
    """

    def backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Differentiate ``stereo_loss``."""
        stereo = self.parallel.model.head.get_submodule("stereo")
        assert isinstance(stereo, Stereo)
        rules = stereo.config.sweep
        inputs, targets, _ = self.normalised(batch)
        scale = SceneFrame.fit(batch.inputs).scale[:, None, None, None, None]
        count = min(len(inputs), len(batch.targets))
        some = torch.linspace(0, len(inputs) - 1, count).round().long().to(inputs.c2w.device)
        with self.parallel.autocast():
            answers = self.parallel.call(stereo, inputs[some], inputs)
            truth = batch.input_depth[:, some] * scale
            moving = batch.input_moving[:, some]
            loss, parts = stereo_loss(answers, inputs[some], targets, truth, moving, rules)
        loss.backward()
        return parts

    def tokens(self, batch: Batch) -> int:
        """None: the encoder does not run."""
        return 0

    def limits(self, step: int) -> tuple[float, float]:
        """As of any step, but gradients are clipped from the first one on."""
        return self.config.optim.clip, super().limits(step)[1]
