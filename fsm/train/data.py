"""Training samples. Sample i of step s is a pure function of (seed, s, i): resuming needs nothing
but the step number.

Processes share out the samples of a step; how many there are changes nothing about the samples.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from fsm.errors import InputError
from fsm.shards import WHOLE, Shard
from fsm.train.config import DataConfig
from fsm.train.sources import WORLD, ClipSource, FrameCache, Sample, WorldSource, kept_size
from fsm.views import Views

USUAL_ERROR = 1e-3  # mean squared error of colours from 0 to 1: 30 dB


@dataclass(frozen=True)
class Batch:
    """Samples of one step in the clips' own space: inputs [b v] and targets [b t], disjoint in time
    and pose.
    """

    inputs: Views
    targets: Views
    depth: Float[Tensor, "b t 1 h w"]
    """z-depth of the targets where it is known, NaN elsewhere."""
    input_depth: Float[Tensor, "b v 1 h w"]
    """The same of the inputs."""
    input_moving: Float[Tensor, "b v 1 h w"]
    """1 where what an input shows moves, 0 where it stands, NaN where unknown."""
    chunks: int | None = None
    """Number of chunks the inputs are to be written in; None: as the encoder's own chunk_tokens
    says.
    """

    def chunk_tokens(self, patch: int) -> int | None:
        """Tokens of a chunk at this patch size: whole views, as many as make at most ``chunks``
        chunks; None: the encoder's own number.
        """
        if self.chunks is None:
            return None
        (h, w), views = self.inputs.hw, -(-len(self.inputs) // self.chunks)
        return views * h * w // patch**2


class SampleStream:
    """Samples batches from weighted sources of clips, stage by stage
    (``TrainConfig.data_stages``).
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, DataConfig]],
        seed: int,
        device: torch.device | str = "cpu",
        part: Shard = WHOLE,
    ) -> None:
        self.stages, self.seed, self.device, self.part = list(stages), seed, device, part
        for _, data in stages:
            if data.batch % part.count:
                raise InputError(
                    f"train config: data.batch is {data.batch}, which {part.count} "
                    "processes cannot share evenly; "
                    "choose a multiple (a group of token_parallel counts as one process)."
                )
        first = self.data(0)
        self.weights = torch.tensor([s.weight for s in first.sources])
        if not bool(((self.weights > 0) & torch.isfinite(self.weights)).all()):
            raise InputError("train config: every data source needs a finite weight above 0.")
        cache = FrameCache(kept_size([data for _, data in stages]), first.cache_gib * 2**30)
        paths = [s.path for s in first.sources]
        self.sources = [WorldSource(device) if p == WORLD else ClipSource(p, cache) for p in paths]

    def data(self, step: int) -> DataConfig:
        """What samples of ``step`` hold."""
        return next(data for begins, data in reversed(self.stages) if begins <= step)

    def batch(self, step: int) -> Batch:
        """This process's part of the samples of ``step``."""
        data, shared = self.data(step), _generator(self.seed, step, "step")
        n_inputs = _one_of(data.inputs, shared)
        chunks = _one_of(data.chunks, shared) if data.chunks else None
        by_source: dict[int, list[tuple[int, torch.Generator]]] = {}
        for i in self.part.part(range(data.batch)):
            generator = _generator(self.seed, step, f"0:{i}")
            number = int(torch.multinomial(self.weights, 1, generator=generator))
            by_source.setdefault(number, []).append((i, generator))
        samples: dict[int, Sample] = {}
        for number, own in by_source.items():
            seen = self.sources[number].sample(data, n_inputs, [g for _, g in own])
            for (i, generator), sample in zip(own, seen, strict=True):
                samples[i] = _mirrored_at_random(sample, generator) if data.mirror else sample
        ordered = [samples[i] for i in sorted(samples)]
        inputs, targets = (
            Views.stack([getattr(s, n).to(self.device) for s in ordered])
            for n in ("inputs", "targets")
        )
        depth, input_depth, moving = (
            torch.stack([getattr(s, n).to(self.device) for s in ordered])
            for n in ("depth", "input_depth", "input_moving")
        )
        return Batch(inputs, targets, depth, input_depth, moving, chunks)


class Prefetcher:
    """A stream whose next batch is sampled in a thread while the caller works on this one: the same
    batches.
    """

    def __init__(self, stream: SampleStream) -> None:
        self.stream = stream
        # A thread of its own has the default number of threads for what it computes, not the
        # program's.
        self.pool = ThreadPoolExecutor(
            1, "fsm-samples", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self.next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """As of the stream; what goes wrong there is raised here, at its own step."""
        known = self.next is not None and self.next[0] == step
        batch = (
            self.next[1].result() if self.next is not None and known else self.stream.batch(step)
        )
        self.next = step + 1, self.pool.submit(self.stream.batch, step + 1)
        return batch


def _one_of(numbers: tuple[int, ...], generator: torch.Generator) -> int:
    return numbers[int(torch.randint(len(numbers), (1,), generator=generator))]


def _mirrored_at_random(sample: Sample, generator: torch.Generator) -> Sample:
    left_right, in_time = (torch.rand(2, generator=generator) < 0.5).tolist()
    inputs, targets, order = mirrored(sample.inputs, sample.targets, left_right, in_time)
    depth, input_depth, input_moving = (
        d.flip(-1) if left_right else d
        for d in (sample.depth, sample.input_depth, sample.input_moving)
    )
    return Sample(inputs, targets, depth, input_depth[order], input_moving[order])


def mirrored(
    inputs: Views, targets: Views, left_right: bool, in_time: bool
) -> tuple[Views, Views, Int[Tensor, " v"]]:
    """The sample as seen in a mirror (x axes of world and camera flipped) and / or played
    backwards, inputs in time order; and that order.
    """
    last = torch.cat([inputs.time, targets.time]).max()

    def one(views: Views) -> Views:
        if left_right:
            flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], device=views.c2w.device))
            sign = views.intrinsics.new_tensor([1.0, 1.0, -1.0, 1.0])
            shift = views.intrinsics.new_tensor([0.0, 0.0, views.hw[1], 0.0])
            rgb = None if views.rgb is None else views.rgb.flip(-1)
            mask = None if views.mask is None else views.mask.flip(-1)
            views = dataclasses.replace(
                views,
                c2w=flip @ views.c2w @ flip,
                intrinsics=views.intrinsics * sign + shift,
                rgb=rgb,
                mask=mask,
            )
        return dataclasses.replace(views, time=last - views.time) if in_time else views

    inputs, targets = one(inputs), one(targets)
    order = torch.argsort(inputs.time, stable=True)
    return inputs[order], targets, order


def _generator(*key: object) -> torch.Generator:
    """A generator seeded by the key, the same on every machine and in every process."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def masked_mse(
    prediction: Float[Tensor, "*b v 3 h w"], target: Views, group: dist.ProcessGroup | None = None
) -> Float[Tensor, ""]:
    """Mean over samples *b of the mean squared error of the pixels that count, so that samples may
    be seen in parts.

    Processes of ``group`` have equally many views of each sample: the mean of what they return is
    that of whole samples.
    """
    assert target.rgb is not None
    error = (prediction - target.rgb).square()
    if target.mask is None:
        return error.mean()
    counted = _count(3 * target.mask.flatten(-4).sum(-1), group)
    return ((error * target.mask).flatten(-4).sum(-1) / counted).mean()


def log_error(prediction: Float[Tensor, "*b v 3 h w"], target: Views) -> Float[Tensor, ""]:
    """Mean over views of the logarithm of their mean squared error over the pixels that count: what
    PSNR measures.

    With e the error and u ``USUAL_ERROR`` it is 2u log(e + u), below zero as a rule: its gradient
    is that of e itself where e is u, twice that at most below, and ever less above. Views are
    judged one by one, so that samples may be seen in parts; one without a pixel that counts has no
    gradient.
    """
    assert target.rgb is not None
    error = (prediction - target.rgb).square()
    if target.mask is None:
        return 2.0 * USUAL_ERROR * (error.flatten(-3).mean(-1) + USUAL_ERROR).log().mean()
    counted = 3 * target.mask.flatten(-3).sum(-1)
    means = (error * target.mask).flatten(-3).sum(-1) / counted.clamp_min(1)
    return 2.0 * USUAL_ERROR * torch.where(counted > 0, (means + USUAL_ERROR).log(), 0.0).mean()


def depth_loss(
    depth: Float[Tensor, "b t 1 h w"],
    truth: Float[Tensor, "b t 1 h w"],
    group: dist.ProcessGroup | None = None,
    slack: float = 0.02,
) -> Float[Tensor, ""]:
    """Mean |log (ρ + slack) / (ρ* + slack)| of inverse depths in model units, over a sample's
    pixels with both (0 without any).

    Too near and too far by the same ratio cost the same: a relative error, unbounded on one side
    only, is least where everything is far. Its mean over samples is returned; ``group`` as in
    ``masked_mse``.
    """
    known = torch.isfinite(truth) & (depth > 0)  # Gaussians leave pixels empty
    error = ((1.0 / depth[known] + slack) / (1.0 / truth[known] + slack)).log().abs()
    sums = error.new_zeros(len(depth)).index_add(0, known.nonzero()[:, 0], error)
    return (sums / _count(known.flatten(1).sum(1).to(sums), group)).mean()


def _count(own: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """What to divide sums over ``own`` pixels by: their number (at least 1), its mean over the
    processes of ``group``.
    """
    if group is None:
        return own.clamp_min(1)
    total = own.clone()
    dist.all_reduce(total, group=group)
    return total.clamp_min(1) / dist.get_world_size(group)
