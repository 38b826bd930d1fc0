"""What a recipe costs before anybody starts it: FLOPs of all its steps, and how long they take at a
given rate.

A few small samples are differentiated for every stage under the counter of
``fsm.train.throughput``. FLOPs grow by so many for every further input, whose tokens see their own
view and the fast weights only, and by so many for every further chunk (Newton-Schulz). Decoders
look for depth in a limited number of inputs, so for long samples this is a little too much. What is
not counted there (element-wise work, sampling, drawing samples, what checkpointing computes again)
is not counted here either: the share of the peak stands for it.

    python -m benchmarks.recipe_cost small --tflops 989 --share 20
"""

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

from benchmarks.common import start
from fsm.config import from_dict, to_dict
from fsm.model import parameter_count
from fsm.train.config import DataConfig, StageConfig, TrainConfig, load_preset, overridden
from fsm.train.loop import Training
from fsm.train.perceptual import resolved
from fsm.train.throughput import FlopCount

PROBES = ((4, 1), (8, 1), (8, 2))  # inputs and chunks of the samples that are counted


def sample_flops(config: TrainConfig, data: DataConfig, step: int, folder: Path) -> float:
    """FLOPs of one sample at ``step``, whose samples hold ``data``: mean over its numbers of inputs
    and chunks.
    """
    learnt = (StageConfig(0, learn="stereo"),) if config.learns(step) == "stereo" else ()
    judged = config.optim.lpips != "none" and config.whole_steps(step) >= config.optim.l2_warmup
    optim = dataclasses.replace(config.optim, l2_warmup=0 if judged else config.optim.steps)
    few, more, more_chunks = (
        _counted(
            dataclasses.replace(
                config,
                data=dataclasses.replace(data, batch=1, inputs=(inputs,), chunks=(chunks,)),
                stages=learnt,
                optim=optim,
                init=None,
            ),
            folder,
        )
        for inputs, chunks in PROBES
    )
    input_flops, chunk_flops = (more - few) / (PROBES[1][0] - PROBES[0][0]), more_chunks - more
    inputs, chunks = mean_inputs_and_chunks(config, data)
    return few + input_flops * (inputs - PROBES[0][0]) + chunk_flops * (chunks - 1)


def _counted(config: TrainConfig, folder: Path) -> int:
    run = Training(config, folder, "cpu")
    batch = run.stream.batch(0)
    with FlopCount() as count:
        run.objective.backward(batch, run.step)
    return count.total


def mean_inputs_and_chunks(config: TrainConfig, data: DataConfig) -> tuple[float, float]:
    """Of a sample; a chunk holds whole views, as many as ``data.chunks`` or else the encoder's
    ``chunk_tokens`` say.
    """
    encoder, (h, w) = config.model.encoder, data.hw
    views = (
        max(1, encoder.chunk_tokens * encoder.patch**2 // (h * w))
        if encoder.chunk_tokens
        else max(data.inputs)
    )
    sizes = [[-(-n // c) for c in data.chunks] or [views] for n in data.inputs]
    chunks = [-(-n // size) for n, each in zip(data.inputs, sizes, strict=True) for size in each]
    return statistics.mean(data.inputs), statistics.mean(chunks)


def spans(config: TrainConfig) -> list[tuple[int, int, DataConfig]]:
    """First step, the one after the last, and what samples hold, of every stretch in which all
    steps cost the same.
    """
    stages = config.data_stages()
    judged = config.optim.l2_warmup - config.whole_steps(0)  # where LPIPS sets in
    last = config.optim.steps
    borders = sorted(
        {0, *(min(border, last) for border in (*(begins for begins, _ in stages), judged, last))}
    )
    held = [[data for begins, data in stages if begins <= first][-1] for first in borders[:-1]]
    return list(zip(borders[:-1], borders[1:], held, strict=True))


def main() -> None:
    """Print a line per stretch, their sum, and minutes at the rate asked for."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("preset")
    options.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides, as of fsm train"
    )
    options.add_argument(
        "--tflops",
        type=float,
        default=989.0,
        help="peak of matrix products; 989: an H200 in bfloat16",
    )
    options.add_argument(
        "--share", type=float, default=20.0, help="per cent of it that a step reaches"
    )
    args = options.parse_args()
    values = overridden(to_dict(load_preset(args.preset)), ("ahead=false", *args.set))
    config = from_dict(TrainConfig, values, args.preset)
    minute, total = 60.0 * args.tflops * 1e12 * args.share / 100.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        config = resolved(config, Path(folder))
        size = parameter_count(Training(config, Path(folder), "cpu").model)
        start(
            f"Cost of {args.preset}",
            parameters=f"{size / 1e6:.1f} million",
            lpips=config.optim.lpips,
        )
        print("\nfrom step  learns     size  batch   steps  TFLOP a sample    PFLOP  minutes")
        for first, last, data in spans(config):
            sample = sample_flops(config, data, first, Path(folder))
            done = sample * data.batch * (last - first)
            total += done
            held = (
                f"{first:>9} {config.learns(first):>7} {'x'.join(map(str, data.hw)):>8} "
                f"{data.batch:>6} {last - first:>7}"
            )
            print(
                f"{held} {sample / 1e12:>15.3f} {done / 1e15:>8.1f} {done / minute:>8.1f}",
                flush=True,
            )
    print(f"{'all':>9} {config.optim.steps:>32} {total / 1e15:>24.1f} {total / minute:>8.1f}")
    print(f"  at {args.share:g} % of {args.tflops:g} TFLOP/s")


if __name__ == "__main__":
    main()
