"""Learn to render targets from inputs: colours, LPIPS and, where it is known, depth."""

from collections.abc import Hashable

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from fsm.evaluate.lpips import LPIPS
from fsm.renderers.gaussians.gaussians4d import MovingGaussians
from fsm.train.config import TrainConfig
from fsm.train.data import Batch, depth_loss, log_error, masked_mse
from fsm.train.deferred import backward_view_by_view
from fsm.train.objectives.base import Objective
from fsm.train.parallelize import Parallel
from fsm.views import Rendering, Views


class RenderingObjective(Objective):
    """Error of rendered targets; the published objective is colours + 0.5 LPIPS."""

    def __init__(self, config: TrainConfig, parallel: Parallel, lpips: LPIPS | None) -> None:
        super().__init__(config, parallel)
        self.lpips = lpips

    def backward(self, batch: Batch, step: int) -> dict[str, float]:
        """Differentiate the loss; of Gaussians view by view."""
        if self.parallel.model.decoder == "lrm":
            return self._backward_gaussians(batch, step)
        loss, parts = self.loss(batch, step)
        loss.backward()
        return parts

    def tokens(self, batch: Batch) -> int:
        """Patches of inputs and targets."""
        h, w = batch.inputs.hw
        views = batch.inputs.time.numel() + batch.targets.time.numel()
        return views * h * w // self.config.model.encoder.patch**2

    def phase(self, step: int) -> Hashable:
        """Whether LPIPS has joined."""
        return super().phase(step), self._perceptual(step)

    def loss(self, batch: Batch, step: int) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss of a batch and its parts."""
        inputs, targets, truth = self.normalised(batch)
        with self.parallel.autocast():
            rendering = self.parallel.call(
                self.parallel.model, inputs, targets, self.chunk_tokens(batch)
            )
        return self.compare(rendering, targets, truth, step, self.parallel.team.group)

    def chunk_tokens(self, batch: Batch) -> int | None:
        """Tokens per chunk that the batch asks for; None: the encoder's own number."""
        return batch.chunk_tokens(self.config.model.encoder.patch)

    def compare(
        self,
        rendering: Rendering,
        targets: Views,
        truth: Float[Tensor, "b t 1 h w"],
        step: int,
        group: dist.ProcessGroup | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """Loss of rendered [b t] targets and its parts; ``truth`` is z-depth in model units, NaN
        where unknown.

        With ``group`` the targets are this process's of each sample.
        """
        rgb, optim = rendering.rgb.float(), self.config.optim
        plain = optim.colours == "mse"
        # For the log error the mean squared one is logged, not differentiated.
        with torch.set_grad_enabled(plain and torch.is_grad_enabled()):
            mse = masked_mse(rgb, targets, group)
        loss = mse if plain else log_error(rgb, targets)
        parts = {"mse": mse.item()}
        if optim.depth_weight > 0.0 and rendering.depth is not None:
            off = depth_loss(rendering.depth.float(), truth, group)
            loss, parts["depth"] = loss + optim.depth_weight * off, off.item()
        if self.lpips is None or not self._perceptual(step):
            return loss, parts
        assert targets.rgb is not None
        with self.parallel.autocast():
            distance = self.lpips(rgb.flatten(0, 1), targets.rgb.flatten(0, 1)).float().mean()
        return loss + optim.lpips_weight * distance, {**parts, "lpips": distance.item()}

    def _perceptual(self, step: int) -> bool:
        return self.config.whole_steps(step) >= self.config.optim.l2_warmup

    def _backward_gaussians(self, batch: Batch, step: int) -> dict[str, float]:
        """Memory does not grow with the number of targets."""
        inputs, targets, truth = self.normalised(batch)
        model = self.parallel.model
        with self.parallel.autocast():
            prepared = self.parallel.call(model.predict, inputs, self.chunk_tokens(batch))
        samples, count = targets.samples(), len(targets)
        seen: list[dict[str, float]] = []

        def one(moving: MovingGaussians, b: int, i: int) -> Tensor:
            view = samples[b][i]
            r = prepared.render(moving, b, view)
            assert r.alpha is not None
            assert r.depth is not None
            batched = Rendering(r.rgb[None], r.alpha[None], r.depth[None])
            loss, parts = self.compare(batched, view.batched(), truth[b : b + 1, i : i + 1], step)
            seen.append(parts)
            return loss / (count * len(samples))

        backward_view_by_view(prepared.gaussians, count, one)
        return {k: sum(p[k] for p in seen) / len(seen) for k in seen[0]}
