"""The training loop: colours + LPIPS, AdamW, EMA, atomic checkpoints, exact resume; in one process
or several.
"""

import contextlib
import math
import sys
import time
import zlib
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsm.checkpoint import load_weights, weights_hash
from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.files import atomic_file, read_json, read_plain, write_json
from fsm.model import FSM, draw
from fsm.renderers.gaussians.gaussians4d import MovingGaussians
from fsm.renderers.heads.pixel_gaussians import PixelGaussianHead
from fsm.renderers.heads.reference import ReferenceHead
from fsm.renderers.stereo.loss import stereo_loss
from fsm.runs import locked, stop_requests
from fsm.train.config import OptimConfig, StageConfig, TrainConfig
from fsm.train.data import Batch, DrawnAhead, SampleStream, depth_loss, log_error, masked_mse
from fsm.train.deferred import backward_view_by_view
from fsm.train.log import Log, progress
from fsm.train.perceptual import load_perceptual, resolved
from fsm.train.sharded import call, clip_gradients, gathered, load_optimizer, part_like, shard
from fsm.train.team import ALONE, Team, joined, noticing_losses
from fsm.train.throughput import FlopCount, Meter
from fsm.ttt import Group, record_pull_ratio
from fsm.views import Rendering, SceneFrame, Views

SHARING = ("parallel", "token_parallel")
"""Options that say how processes share the work, and change nothing about the curve."""


def train(
    config: TrainConfig, out: Path, device: str = "cpu", stop_after: int | None = None
) -> FSM:
    """Run or resume a training in folder ``out`` and return the averaged model.

    Writes config.json, log.jsonl, TensorBoard events where installed, state.pt (everything resuming
    needs) and model/ (the averaged weights, ready for ``FSM.from_pretrained``). ``stop_after`` ends
    early after that many further steps. A folder that holds another config, or that another process
    writes to, raises ``InputError``; so does missing data or an LPIPS network without weights,
    before anything is written.

    Under torchrun the processes share out every batch and only the first one writes; another number
    of processes resumes the same curve.
    """
    config = resolved(config, out)
    with joined(device, config.token_parallel) as team:
        run = _Run(config, out, device, team)
        if not team.leads:
            run.resume()
            run.loop(stop_after, None)
            return run.averaged()
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            _same_config(config, out)
            run.resume()
            log = Log(out, run.step)
            try:
                run.loop(stop_after, log)
            finally:
                log.close()
            return run.averaged()


class _Run:
    def __init__(self, config: TrainConfig, out: Path, device: str, team: Team = ALONE) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out, self.device, self.team = config, out, device, team
        self.model = FSM(config.model)
        if config.init is not None and not (out / "state.pt").exists():
            start_from(self.model, FSM.from_pretrained(config.init).state_dict(), config.init)
        self.model.to(device).train()
        self.model.encoder.checkpointing = config.checkpointing
        self.model.encoder.compiled = config.compile
        self.model.encoder.group = team.group
        self.call: Callable[..., Any] = call
        self.optimizer = self._optimizer()
        self.ema = {k: p.detach().clone() for k, p in self.model.state_dict().items()}
        stream = SampleStream(config.data_stages(), config.seed, device, team.samples)
        self.stream = DrawnAhead(stream) if config.ahead else stream
        self.lpips = load_perceptual(config)
        self.lpips_hash = None if self.lpips is None else self.lpips.to(device).fingerprint()
        self.meter = Meter(device, getattr(torch, config.precision), team.samples.count)
        self.step = self.skipped = 0
        self.stopping = False

    def _optimizer(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        return torch.optim.AdamW(
            parameter_groups(self.model, optim), betas=optim.betas, fused=optim.fused or None
        )

    def loop(self, stop_after: int | None, log: Log | None) -> None:
        """Steps until the end, or ``stop_after`` further ones; Ctrl-C and SIGTERM finish the step
        at hand and save first.
        """
        if self.team.part.count > 1:
            weights = int(weights_hash(self.model)[:12], 16)
            self.team.agree(
                step=self.step, weights=weights, config=zlib.crc32(repr(self.config).encode())
            )
            if self.config.parallel == "fsdp":
                self._shard()
        last = (
            self.config.optim.steps
            if stop_after is None
            else min(self.config.optim.steps, self.step + stop_after)
        )
        with (
            progress(self.config.optim.steps, self.step, self.team.leads) as advance,
            stop_requests() as asked,
            noticing_losses(),
        ):
            while self.step < last and not self.stopping:
                advance(self.one_step(log, asked))
                if self.step % self.config.save_every == 0:
                    self.save()
            self.save()
        if self.stopping:
            raise KeyboardInterrupt

    def _shard(self) -> None:
        """Keep a part of everything that is learnt."""
        state = self.optimizer.state_dict()
        self.call = shard(self.model, self.device)
        self.optimizer = self._optimizer()
        load_optimizer(self.optimizer, state)
        self.ema = {k: part_like(self.ema[k], own) for k, own in self.model.state_dict().items()}

    def one_step(self, log: Log | None, asked: Sequence[int] = ()) -> dict[str, int | float]:
        """Draw, differentiate, update (or skip), average; the log entry of the step. ``asked``:
        requests to stop.
        """
        began = time.perf_counter()
        optim, logged = self.config.optim, self.step % self.config.log_every == 0
        batch = self.stream.batch(self.step)
        waiting = time.perf_counter() - began
        lr = learning_rate(self.step, optim, self.config.stages)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        inputs, size = len(batch.inputs), self._reader(batch).encoder.views_per_chunk(batch.inputs)
        whole, stereo = (
            self.config.whole_steps(self.step),
            self.config.learns(self.step) == "stereo",
        )
        phase = (stereo, whole < optim.l2_warmup)
        shape = (batch.inputs.c2w.shape, batch.inputs.hw, len(batch.targets), size, *phase)
        counted = self.meter.knows(shape)
        parts = self._differentiate(batch, shape, logged)
        # Whether to stop is agreed on with the gradients: a signal may reach one process a step
        # before another.
        means = self.team.average(self.model.parameters(), {**parts, "stop": float(bool(asked))})
        self.stopping = means.pop("stop") > 0
        settled = whole >= optim.clip_from
        norm = clip_gradients(
            self.model.parameters(), optim.clip if settled or stereo else math.inf
        )
        if not math.isfinite(norm) or (settled and norm > optim.skip_above):
            self.skipped += 1
        else:
            self.optimizer.step()
            self._average()
        self.step += 1
        entry = {"step": self.step, "lr": lr, "grad_norm": norm, "skipped": self.skipped, **means}
        entry |= {"inputs": inputs, "chunks": -(-inputs // size)}
        if "mse" in means:
            entry["psnr"] = -10.0 * math.log10(max(means["mse"], 1e-12))
        entry["seconds"] = time.perf_counter() - began
        if counted:
            h, w = batch.inputs.hw
            views = batch.inputs.time.numel() + batch.targets.time.numel()
            tokens = 0 if stereo else views * h * w // self.config.model.encoder.patch**2
            self.meter.add(shape, tokens, entry["seconds"], waiting)
        entry |= self.meter.rates()
        if logged:
            self.meter.restart()
            if log is not None:
                log.write(entry)
        return entry

    def _differentiate(self, batch: Batch, shape: Hashable, logged: bool) -> dict[str, float]:
        """Gradients of a batch; the parts of its loss, and the pull where it is logged. The first
        of a shape counts its FLOPs.
        """
        count = None if self.meter.knows(shape) else FlopCount()
        with contextlib.ExitStack() as around:
            # Compiled code can neither be listened to nor counted; blocks run eagerly while
            # somebody listens.
            pulls = around.enter_context(record_pull_ratio()) if logged or count else []
            if count:
                around.enter_context(count)
            self.optimizer.zero_grad(set_to_none=True)
            parts = self._backward(batch)
        if count:
            self.meter.flops[shape] = count.total
        if logged and pulls:
            parts["pull_ratio"] = torch.stack(pulls).mean().item()
        return parts

    def _backward(self, batch: Batch) -> dict[str, float]:
        """Differentiate the loss of a batch; its parts, for the log."""
        if self.config.learns(self.step) == "stereo":
            return self._backward_stereo(batch)
        if self.model.decoder == "lrm":
            return self._backward_gaussians(self._reader(batch), *self._normalised(batch))
        loss, parts = self._loss(batch)
        loss.backward()
        return parts

    def _backward_stereo(self, batch: Batch) -> dict[str, float]:
        """Depth of as many inputs as there are targets; only the decoder's stereo is run, and only
        it gets gradients.
        """
        assert isinstance(self.model.head, ReferenceHead | PixelGaussianHead)
        assert self.model.head.stereo is not None
        inputs, targets, _ = self._normalised(batch)
        scale = SceneFrame.fit(batch.inputs).scale[:, None, None, None, None]
        some = (
            torch.linspace(0, len(inputs) - 1, min(len(inputs), len(batch.targets)))
            .round()
            .long()
            .to(self.device)
        )
        with self._autocast():
            answers = self.call(self.model.head.stereo, inputs[some], inputs)
            loss, parts = stereo_loss(
                answers, inputs[some], targets, batch.input_depth[:, some] * scale
            )
        loss.backward()
        return parts

    def _reader(self, batch: Batch) -> FSM:
        """The model with the chunks that the batch asks for."""
        if batch.chunk_views is None:
            return self.model
        h, w = batch.inputs.hw
        return self.model.with_chunks(
            batch.chunk_views * h * w // self.config.model.encoder.patch**2
        )

    def _normalised(self, batch: Batch) -> tuple[Views, Views, Tensor]:
        """Inputs and own targets in model space, and the targets' true z-depth in model units (NaN
        where unknown).
        """
        frame, own = SceneFrame.fit(batch.inputs), self.team.own(len(batch.targets))
        depth = batch.depth[:, own] * frame.scale[:, None, None, None, None]
        return frame.to_model(batch.inputs), frame.to_model(batch.targets[own]), depth

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        inputs, targets, truth = self._normalised(batch)
        with self._autocast():
            rendering = self.call(self._reader(batch), inputs, targets)
        return self._compare(rendering, targets, truth, self.team.group)

    def _backward_gaussians(
        self, reader: FSM, inputs: Views, targets: Views, truth: Tensor
    ) -> dict[str, float]:
        """The same view by view: memory does not grow with the number of targets."""
        with self._autocast():
            gaussians, background = self.call(reader.predict_gaussians, inputs)
        samples, count = targets.samples(), len(targets)
        seen: list[dict[str, float]] = []

        def one(moving: MovingGaussians, b: int, i: int) -> Tensor:
            view = samples[b][i]
            r = draw(moving, view, background[b], self.model.projection)
            assert r.alpha is not None
            assert r.depth is not None
            batched = Rendering(r.rgb[None], r.alpha[None], r.depth[None])
            loss, parts = self._compare(batched, view.batched(), truth[b : b + 1, i : i + 1])
            seen.append(parts)
            return loss / (count * len(samples))

        backward_view_by_view(gaussians, count, one)
        return {k: sum(p[k] for p in seen) / len(seen) for k in seen[0]}

    def _compare(
        self, rendering: Rendering, targets: Views, truth: Tensor, group: Group | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of rendered [b t] targets and its parts; ``truth`` is z-depth in model units, NaN
        where unknown.

        With ``group`` the targets are this process's of each sample.
        """
        rgb = rendering.rgb.float()
        plain = self.config.optim.colours == "mse"
        # else it is told, not differentiated
        with torch.set_grad_enabled(plain and torch.is_grad_enabled()):
            mse = masked_mse(rgb, targets, group)
        loss = mse if plain else log_error(rgb, targets)
        parts = {"mse": mse.item()}
        if self.config.optim.depth_weight > 0.0 and rendering.depth is not None:
            off = depth_loss(rendering.depth.float(), truth, group)
            loss, parts["depth"] = loss + self.config.optim.depth_weight * off, off.item()
        if self.lpips is None or self.config.whole_steps(self.step) < self.config.optim.l2_warmup:
            return loss, parts
        assert targets.rgb is not None
        with self._autocast():
            distance = self.lpips(rgb.flatten(0, 1), targets.rgb.flatten(0, 1)).float().mean()
        return loss + self.config.optim.lpips_weight * distance, {**parts, "lpips": distance.item()}

    def _autocast(self) -> torch.autocast:
        dtype = getattr(torch, self.config.precision)
        # what is gathered is freed soon: no copy of it may stay until the end of the step
        whole = self.call is call
        return torch.autocast(
            self.device.split(":")[0], dtype, enabled=dtype != torch.float32, cache_enabled=whole
        )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.optim.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            self.ema[name].lerp_(value, 1.0 - decay)

    def averaged(self) -> FSM:
        """A copy of the model with the averaged weights."""
        return self._model_of(gathered(self.ema, keep=True))

    def _model_of(self, weights: dict[str, Tensor]) -> FSM:
        model = FSM(self.config.model).to(self.device).eval()
        model.load_state_dict(weights)
        return model

    def save(self) -> None:
        """Everything resuming needs, and the averaged model, each whole or not at all; written by
        one process for all.
        """
        state = {
            "step": self.step,
            "skipped": self.skipped,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "lpips": self.lpips_hash,
        }
        state = gathered(state, keep=self.team.leads)
        if not self.team.leads:
            return
        with atomic_file(self.out / "state.pt") as temporary:
            torch.save(state, temporary)
        self._model_of(state["ema"]).save_pretrained(self.out / "model")

    def resume(self) -> None:
        """Continue from state.pt where there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = read_plain(path, self.device)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema, self.step, self.skipped = state["ema"], state["step"], state["skipped"]
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{path} cannot be resumed from ({reason}); move it away to start over."
            ) from error
        if state.get("lpips", self.lpips_hash) != self.lpips_hash:
            raise InputError(
                f"{path} was trained with other weights of LPIPS "
                f"({self.config.optim.lpips}) than those found here "
                f"({state['lpips']}, not {self.lpips_hash}); put the same file in place."
            )


def start_from(model: FSM, weights: dict[str, Tensor], where: str) -> None:
    """Copy the whole encoder, and what the decoders have in common; an encoder of another shape is
    an ``InputError``.
    """
    own = model.state_dict()
    load_weights(model.encoder, _part(weights, "encoder."), f"the encoder of {where}")
    shared = {k: t for k, t in weights.items() if k in own and t.shape == own[k].shape}
    model.load_state_dict({**model.state_dict(), **shared})
    fresh = len(own) - len(shared)
    if fresh:
        print(
            f"started from {where}: {len(shared)} tensors taken, {fresh} of the decoder are new",
            file=sys.stderr,
        )


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Weight decay on parameters with two or more dimensions only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


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


def _same_config(config: TrainConfig, out: Path) -> None:
    path = out / "config.json"
    values = to_dict(config)
    if path.exists() and (out / "state.pt").exists():
        # Through the config, so that an option newer than the run has its default and is no
        # difference.
        stored = to_dict(from_dict(TrainConfig, read_json(path), str(path)))
        changed = [k for k in values if k not in SHARING and values[k] != stored[k]]
        if changed:
            raise InputError(
                f"{path} was written by another config (differs in {', '.join(changed)}); "
                "choose another folder."
            )
    write_json(path, values)
