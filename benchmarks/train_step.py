"""Where the time of a training step goes, and how close it comes to the matrix products of this
processor.

A step in parts, each differentiated on its own (the tokens and the picture are cut out of the graph
in between), then whole steps with options that change nothing but speed. FLOPs are those of
``fsm.train.throughput``. The peak is the best of some products of two square matrices of 1,024, in
the number format of the run.

    python -m benchmarks.train_step tiny --set data.batch=1 data.inputs=[8]
    python -m benchmarks.train_step base --set model.encoder.layers=2 data.batch=1 data.inputs=[16]
    --target 25
"""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import Verdicts, alternate, cpu_seconds, medians, paired, parser, start
from fsm.config import from_dict, to_dict
from fsm.train.config import TrainConfig, load_preset, overridden
from fsm.train.data import Batch
from fsm.train.loop import Training
from fsm.train.objectives.rendering import RenderingObjective
from fsm.train.optimizer import average_into
from fsm.train.throughput import FlopCount
from fsm.views import Rendering, Views

OPTIONS = {
    "checkpointing": {"checkpointing": True},
    "fused": {"fused": True},
    "compiled": {"compile": True},
}


def peak(dtype: torch.dtype, side: int = 1024, repeats: int = 20) -> float:
    """FLOPs per CPU second of the best of some square products."""
    a, b = torch.ones(2, side, side, dtype=dtype)
    return 2.0 * side**3 / min(cpu_seconds(lambda: a @ b) for _ in range(repeats))


def step_in_parts(run: Training, batch: Batch) -> dict[str, Callable[[], object]]:
    """The parts of a step in order; each uses what the one before left."""
    made: dict = {}
    model, objective = run.model, run.objective
    assert isinstance(objective, RenderingObjective)

    def encoder_forward() -> None:
        made["views"] = objective.normalised(batch)
        inputs, targets, _ = made["views"]
        with run.parallel.autocast():
            memory = model._read(inputs, objective.chunk_tokens(batch))
            made["tokens"] = model.encoder.query(memory, targets.without_rgb())
        made["cut"] = made["tokens"].detach().requires_grad_()

    def read(_: Views) -> Tensor:
        return made["cut"]

    def head_forward() -> None:
        inputs, targets, _ = made["views"]
        with run.parallel.autocast():
            prepared = model.head.prepare(inputs, read)
            made["seen"] = model.head.decode(targets.without_rgb(), prepared, read)
        fields = {k: v for k, v in vars(made["seen"]).items() if v is not None}
        made["leaves"] = {k: v.detach().requires_grad_(v.requires_grad) for k, v in fields.items()}

    def loss_forward() -> None:
        _, targets, truth = made["views"]
        rendering = Rendering(**made["leaves"])
        made["loss"], _ = objective.compare(rendering, targets, truth, run.step)

    def head_backward() -> None:
        pairs = [
            (getattr(made["seen"], k), leaf.grad)
            for k, leaf in made["leaves"].items()
            if leaf.grad is not None
        ]
        torch.autograd.backward([v for v, _ in pairs], [g for _, g in pairs])

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.optim.clip)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        average_into(run.ema, run.model, run.step, run.config.optim.ema)

    return {
        "data": lambda: run.stream.batch(run.step),
        "encoder, forward": encoder_forward,
        "head, forward": head_forward,
        "loss, forward": loss_forward,
        "loss, backward": lambda: made["loss"].backward(),
        "head, backward": head_backward,
        "encoder, backward": lambda: made["tokens"].backward(made["cut"].grad),
        "optimiser and average": update,
    }


def print_parts(run: Training, batch: Batch, best: float, repeats: int) -> float:
    """Print the table; the share of the peak of all parts together."""
    parts, flops = step_in_parts(run, batch), {}
    for name, part in parts.items():
        with FlopCount() as count:
            part()
        flops[name] = count.total
    rounds = [{name: cpu_seconds(part) for name, part in parts.items()} for _ in range(repeats)]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in parts}
    whole, work = sum(seconds.values()), sum(flops.values())
    print(f"\n{'part':<22} {'ms':>8} {'share':>7} {'GFLOP':>9} {'of peak':>8}")
    for name, taken in [*seconds.items(), ("all", whole)]:
        done = work if name == "all" else flops[name]
        print(
            f"{name:<22} {1e3 * taken:>8.0f} {taken / whole:>7.1%} {done / 1e9:>9.2f} "
            f"{done / taken / best:>8.1%}"
        )
    return work / whole / best


def changed(
    config: TrainConfig, compile: bool = False, checkpointing: bool = False, fused: bool = False
) -> TrainConfig:
    """The config with these options and no others of their kind."""
    optim = dataclasses.replace(config.optim, fused=fused)
    return dataclasses.replace(
        config, optim=optim, compile=compile, checkpointing=checkpointing, log_every=10**9
    )


def print_options(config: TrainConfig, names: list[str], folder: Path, repeats: int) -> None:
    """Print what whole steps take with each option against none, in turn."""
    cases: dict[str, Callable[[], object]] = {}
    for name in ["plain", *names]:
        run = Training(changed(config, **OPTIONS.get(name, {})), folder, "cpu")
        run.step = 1  # the first of every log_every is listened to, and eager
        batch = run.stream.batch(0)
        run.stream.batch = lambda step, batch=batch: batch
        run.one_step(None)  # counts FLOPs, eagerly
        cases[name] = lambda run=run: run.one_step(None)
    seconds = alternate(cases, repeats)
    print(f"\n{'whole step':<22} {'ms':>8} {'of plain':>9}")
    for name, middle in medians(seconds).items():
        print(
            f"{name:<22} {1e3 * middle:>8.0f} {paired(seconds[name], seconds['plain']):>8.2f}x",
            flush=True,
        )


def main() -> None:
    """Print both tables and the verdict."""
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("preset")
    options.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as of fsm train"
    )
    options.add_argument(
        "--options",
        nargs="*",
        default=[],
        choices=list(OPTIONS),
        help="whole steps with these, too",
    )
    options.add_argument("--target", type=float, help="least per cent of the peak")
    args = options.parse_args()
    values = overridden(
        to_dict(load_preset(args.preset)), ("optim.l2_warmup=0", "stages=[]", *args.set)
    )
    config = changed(from_dict(TrainConfig, values, args.preset))
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)
        run = Training(config, Path(folder), "cpu")
        batch = run.stream.batch(0)
        start(
            f"A step of {args.preset}",
            size="x".join(map(str, batch.inputs.hw)),
            samples=len(batch.inputs.c2w),
            inputs=len(batch.inputs),
            targets=len(batch.targets),
            views_per_chunk=run.model.encoder.views_per_chunk(
                batch.inputs, batch.chunk_tokens(run.model.config.encoder.patch)
            ),
            lpips=config.optim.lpips,
            products=config.precision,
        )
        best = peak(getattr(torch, config.precision))
        print(f"  peak {best / 1e9:.0f} GFLOP per CPU second")
        reached = print_parts(run, batch, best, args.repeats)
        if args.options:
            print_options(config, args.options, Path(folder), args.repeats)
    if args.target is not None:
        print()
        verdicts = Verdicts()
        verdicts.check("share of the peak", 100 * reached, args.target, at_least=True, unit=" %")
        verdicts.close()


if __name__ == "__main__":
    main()
