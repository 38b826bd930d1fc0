"""What the elastic prior costs: its share of writing and reading one chunk.

Timed in place (CPU time spent inside the three functions of ``fsm.ttt.elastic``, over that of the
whole call), because the difference to plain LaCT, printed beside it, is smaller than what two runs
of the same products differ by.

    python -m benchmarks.elastic_overhead
    python -m benchmarks.elastic_overhead --bf16
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.common import (
    Verdicts,
    alternate,
    cpu_seconds,
    medians,
    paired,
    parser,
    print_gemm_types,
    start,
)
from fsm.ttt import ElasticConfig, fast_weight_apply, fast_weights, initial_state, write_chunk

PARTS = ("next_importance", "consolidate", "next_anchor")
LIMITS = {2048: 10.0, 8192: 5.0}  # chunk -> per cent


def chunk_step(dim: int, tokens: int, dtype: torch.dtype, ns_dtype: torch.dtype):
    """Write one chunk and read it back, with and without the elastic prior, from a state that has
    seen a chunk.
    """
    initial = torch.randn(1, 3, dim, 2 * dim) * dim**-0.5
    k = F.normalize(torch.randn(1, 1, tokens, dim), dim=-1).to(dtype)
    v = torch.randn(1, 1, tokens, dim).to(dtype)
    rates = torch.rand(1, 1, tokens, 3) * 0.02

    def step(elastic: ElasticConfig | None):
        first = initial_state(initial, 1, elastic)

        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                state = write_chunk(
                    first, k, v, rates, elastic=elastic, ns_steps=5, ns_dtype=ns_dtype
                )
                return fast_weight_apply(state.weights, k)

        return run

    return step(ElasticConfig()), step(None)


@contextlib.contextmanager
def timed_parts() -> Iterator[list[float]]:
    """CPU seconds of every call of the elastic functions inside."""
    seconds: list[float] = []

    def timed(function):
        def run(*args):
            began = time.process_time()
            result = function(*args)
            seconds.append(time.process_time() - began)
            return result

        return run

    with contextlib.ExitStack() as stack:
        for name in PARTS:
            stack.enter_context(
                mock.patch.object(fast_weights, name, timed(getattr(fast_weights, name)))
            )
        yield seconds


def share_in_place(run, repeats: int) -> float:
    """Median per cent of a call's CPU time spent in the elastic functions."""
    shares = []
    for _ in range(repeats):
        with timed_parts() as parts:
            whole = cpu_seconds(run)
        assert len(parts) == len(PARTS)
        shares.append(100.0 * sum(parts) / whole)
    return statistics.median(shares)


@torch.no_grad()
def main() -> None:
    """Print the table and the verdicts."""
    options = parser(__doc__)
    options.set_defaults(repeats=15)
    options.add_argument("--bf16", action="store_true", help="products in bfloat16 under autocast")
    args = options.parse_args()
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    start(
        "Share of the elastic step in update + apply",
        tokens=dtype,
        newton_schulz=torch.bfloat16,
        fast_weights=torch.float32,
    )
    print_gemm_types(chunk_step(64, 128, dtype, dtype)[0], dtype)
    print(
        f"\n{'d':>5} {'chunk':>7} {'LaCET ms':>10} {'LaCT ms':>10} {'difference':>11} "
        f"{'in place':>9}"
    )
    verdicts, rows = Verdicts(), []
    for dim in (256, 512):
        for tokens, limit in LIMITS.items():
            with_prior, without = chunk_step(dim, tokens, dtype, torch.bfloat16)
            seconds = alternate({"elastic": with_prior, "plain": without}, args.repeats)
            difference = 100.0 * (paired(seconds["elastic"], seconds["plain"]) - 1.0)
            share = share_in_place(with_prior, args.repeats)
            lacet, lact = (1e3 * t for t in medians(seconds).values())
            print(
                f"{dim:>5} {tokens:>7} {lacet:>10.1f} {lact:>10.1f} {difference:>+10.1f}% "
                f"{share:>8.1f}%",
                flush=True,
            )
            rows.append((f"elastic share, d={dim}, chunk {tokens}", share, limit))
    print()
    for what, share, limit in rows:
        verdicts.check(what, share, limit, unit=" %")
    verdicts.close()


if __name__ == "__main__":
    main()
