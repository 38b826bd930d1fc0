"""The training loop: sample, loss, apply, report; in one process or several."""

import contextlib
import math
import time
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsm.checkpoint import weights_hash
from fsm.model import FSM
from fsm.runs import progress, stop_requests
from fsm.train.config import TrainConfig
from fsm.train.data import Batch, Prefetcher, SampleStream
from fsm.train.log import Log, described, report_saved
from fsm.train.objectives.base import Objective
from fsm.train.objectives.rendering import RenderingObjective
from fsm.train.objectives.stereo import StereoObjective
from fsm.train.optimizer import average_into, build_optimizer, learning_rate
from fsm.train.parallelize import Parallel
from fsm.train.perceptual import check_same, load_perceptual, resolved
from fsm.train.sharded import clip_gradients, gathered, load_optimizer, part_like
from fsm.train.state import claim, start_from, training_run
from fsm.train.team import ALONE, Team, joined, noticing_losses
from fsm.train.throughput import FlopCount, Meter

Entry = dict[str, int | float]


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
        training = Training(config, out, device, team)
        if not team.leads:
            training.resume()
            training.loop(stop_after, None)
            return training.averaged()
        with training.run.locked():
            claim(training.run)
            training.resume()
            with contextlib.closing(Log(out, training.step)) as log:
                training.loop(stop_after, log)
            return training.averaged()


@dataclass(frozen=True)
class Sampled:
    """A batch, and what decides the cost of its step."""

    batch: Batch
    began: float
    """When sampling began, on the clock of ``time.perf_counter``."""
    waiting: float
    """Seconds that it took."""
    chunk_views: int
    """Views per fast-weight step."""
    shape: Hashable
    """Steps of one shape take the same FLOPs."""
    counted: bool
    """Whether these are known."""


class Training:
    """A run: its model, optimiser, averaged weights and samples, at one step."""

    def __init__(self, config: TrainConfig, out: Path, device: str, team: Team = ALONE) -> None:
        torch.manual_seed(config.seed)
        self.config, self.out, self.device, self.team = config, out, device, team
        self.run = training_run(config, out)
        self.model = FSM(config.model)
        if config.init is not None and not (out / "state.pt").exists():
            start_from(self.model, FSM.from_pretrained(config.init).state_dict(), config.init)
        self.model.to(device).train()
        self.parallel = Parallel(self.model, config, device, team)
        self.optimizer = build_optimizer(self.model, config.optim)
        self.ema = {k: p.detach().clone() for k, p in self.model.state_dict().items()}
        stream = SampleStream(config.data_stages(), config.seed, device, team.samples)
        self.stream = Prefetcher(stream) if config.ahead else stream
        lpips = load_perceptual(config)
        self.lpips_hash = None if lpips is None else lpips.to(device).fingerprint()
        self.objectives: dict[str, Objective] = {
            "all": RenderingObjective(config, self.parallel, lpips),
            "stereo": StereoObjective(config, self.parallel),
        }
        self.meter = Meter(device, self.parallel.dtype, team.samples.count)
        self.step = self.skipped = 0
        self.stopping = False

    def loop(self, stop_after: int | None, log: Log | None) -> None:
        """Steps until the end, or ``stop_after`` further ones; Ctrl-C and SIGTERM finish the step
        at hand and save first.
        """
        if self.team.part.count > 1:
            weights, config = weights_hash(self.model)[:12], zlib.crc32(repr(self.config).encode())
            self.team.agree(step=self.step, weights=int(weights, 16), config=config)
            if self.config.parallel == "fsdp":
                self.shard()
        steps = self.config.optim.steps
        last = steps if stop_after is None else min(steps, self.step + stop_after)
        with (
            progress("train", steps, self.step, self.team.leads) as advance,
            stop_requests() as asked,
            noticing_losses(),
        ):
            while self.step < last and not self.stopping:
                entry = self.one_step(log, asked)
                advance(described(entry))
                if self.step % self.config.save_every == 0:
                    self.save()
                    report_saved(entry, steps, self.team.leads)
            self.save()
        if self.stopping:
            raise KeyboardInterrupt

    def shard(self) -> None:
        """Keep a part of everything that is learnt."""
        state = self.optimizer.state_dict()
        self.parallel.shard()
        self.optimizer = build_optimizer(self.model, self.config.optim)
        load_optimizer(self.optimizer, state)
        self.ema = {k: part_like(self.ema[k], own) for k, own in self.model.state_dict().items()}

    def one_step(self, log: Log | None, asked: Sequence[int] = ()) -> Entry:
        """One step; its log entry. ``asked``: requests to stop."""
        sampled = self._sample()
        parts = self._loss(sampled)
        applied = self._apply({**parts, "stop": float(bool(asked))})
        return self._report(sampled, applied, log)

    @property
    def objective(self) -> Objective:
        """What this step learns."""
        return self.objectives[self.config.learns(self.step)]

    def _sample(self) -> Sampled:
        began = time.perf_counter()
        batch = self.stream.batch(self.step)
        waiting = time.perf_counter() - began
        encoder, inputs = self.model.encoder, batch.inputs
        views = encoder.views_per_chunk(inputs, batch.chunk_tokens(encoder.config.patch))
        sizes = (inputs.c2w.shape, inputs.hw, len(batch.targets), views)
        shape = (*sizes, self.objective.phase(self.step))
        return Sampled(batch, began, waiting, views, shape, self.meter.knows(shape))

    def _loss(self, sampled: Sampled) -> dict[str, float]:
        """Differentiate; the parts of the loss, and the pull where it is logged. The first step of
        a shape counts its FLOPs.
        """
        count = None if sampled.counted else FlopCount()
        with contextlib.ExitStack() as around:
            observed = self._logged or count
            pulls = around.enter_context(self.parallel.observed()) if observed else []
            if count:
                around.enter_context(count)
            self.optimizer.zero_grad(set_to_none=True)
            parts = self.objective.backward(sampled.batch, self.step)
        if count:
            self.meter.flops[sampled.shape] = count.total
        if self._logged and pulls:
            parts["pull_ratio"] = torch.stack(pulls).mean().item()
        return parts

    def _apply(self, parts: dict[str, float]) -> Entry:
        """Average gradients and numbers over the team, then update or skip; what the log says of
        it.
        """
        lr = learning_rate(self.step, self.config.optim, self.config.stages)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        # Whether to stop is agreed on with the gradients: a signal may reach one process a step
        # before another.
        means = self.team.average(self.model.parameters(), parts)
        self.stopping = means.pop("stop") > 0
        clip, skip_above = self.objective.limits(self.step)
        norm = clip_gradients(self.model.parameters(), clip)
        if math.isfinite(norm) and norm <= skip_above:
            self.optimizer.step()
            average_into(self.ema, self.model, self.step, self.config.optim.ema)
        else:
            self.skipped += 1
        return {"lr": lr, "grad_norm": norm, "skipped": self.skipped, **means}

    def _report(self, sampled: Sampled, applied: Entry, log: Log | None) -> Entry:
        """The log entry of this step, which is then over; written where its turn is."""
        logged, tokens = self._logged, self.objective.tokens(sampled.batch)
        self.step += 1
        inputs = len(sampled.batch.inputs)
        entry = {"step": self.step, **applied, "inputs": inputs}
        entry["chunks"] = -(-inputs // sampled.chunk_views)
        if "mse" in entry:
            entry["psnr"] = -10.0 * math.log10(max(entry["mse"], 1e-12))
        entry["seconds"] = time.perf_counter() - sampled.began
        if sampled.counted:
            self.meter.add(sampled.shape, tokens, entry["seconds"], sampled.waiting)
        entry |= self.meter.rates()
        if logged:
            self.meter.restart()
            if log is not None:
                log.write(entry)
        return entry

    @property
    def _logged(self) -> bool:
        return self.step % self.config.log_every == 0

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
        if self.team.leads:
            self.run.save(state)
            self._model_of(state["ema"]).save_pretrained(self.out / "model")

    def resume(self) -> None:
        """Continue from state.pt where there is one."""
        self.run.resume(self._load, self.device)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.skipped = state["ema"], state["step"], state["skipped"]
        before = state.get("lpips", self.lpips_hash)  # states older than this record lack it
        check_same(self.config, self.out / "state.pt", before, self.lpips_hash)
