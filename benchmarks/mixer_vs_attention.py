"""Time per token of the LaCET mixer (all chunks written, then all tokens read) against softmax
attention of the same width.

Projections, which both have, are left out. Attention has 64-wide heads and is torch's fused kernel.

    python -m benchmarks.mixer_vs_attention            # float32, 1 k to 64 k tokens; attention at
    64 k takes a minute python -m benchmarks.mixer_vs_attention --bf16
"""

import itertools
import math

import torch
import torch.nn.functional as F

from benchmarks.common import (
    Verdicts,
    alternate,
    cpu_seconds,
    medians,
    parser,
    print_gemm_types,
    start,
)
from fsm.ttt import ElasticConfig, fast_weight_apply, initial_state, write_chunk

HEAD = 64
SHORT = (1024, 2048, 3072, 4096, 8192)
LONG = (16_384, 32_768, 65_536)


def mixer(initial: torch.Tensor, k, v, q, rates, chunk: int, ns_dtype: torch.dtype) -> torch.Tensor:
    """Write all chunks into fresh fast weights, then read with all tokens."""
    elastic = ElasticConfig()
    state = initial_state(initial, 1, elastic)
    for part in zip(*(t.split(chunk, dim=2) for t in (k, v, rates)), strict=True):
        state = write_chunk(state, *part, elastic=elastic, ns_steps=5, ns_dtype=ns_dtype)
    return fast_weight_apply(state.weights, q)


def cases(n: int, dim: int, chunk: int, dtype: torch.dtype, ns_dtype: torch.dtype):
    """The two mixers on random tokens, as callables."""
    initial = torch.randn(1, 3, dim, 2 * dim) * dim**-0.5
    k, q = (F.normalize(torch.randn(1, 1, n, dim), dim=-1).to(dtype) for _ in range(2))
    v = torch.randn(1, 1, n, dim).to(dtype)
    rates = torch.rand(1, 1, n, 3) * 0.02
    qh, kh, vh = (t.view(1, n, dim // HEAD, HEAD).transpose(1, 2) for t in (q, k, v))

    def lacet() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return mixer(initial, k, v, q, rates, chunk, ns_dtype)

    return lacet, lambda: F.scaled_dot_product_attention(qh, kh, vh)


def crossover(lengths: list[int], ratios: list[float]) -> float:
    """Number of tokens at which attention becomes the slower one, between the two measured lengths
    around it.
    """
    points = list(zip(lengths, ratios, strict=True))
    for (n0, r0), (n1, r1) in itertools.pairwise(points):
        if r0 < 1.0 <= r1:
            return n0 * (n1 / n0) ** (math.log(r0) / (math.log(r0) - math.log(r1)))
    return lengths[0] if ratios[0] >= 1.0 else math.inf


@torch.no_grad()
def main() -> None:
    """Print the table and the verdicts."""
    options = parser(__doc__)
    options.add_argument("--dim", type=int, default=256)
    options.add_argument("--chunk", type=int, default=8192, help="tokens written per step")
    options.add_argument("--bf16", action="store_true", help="products in bfloat16 under autocast")
    options.add_argument(
        "--ns-float32", action="store_true", help="Newton-Schulz in float32 instead of bfloat16"
    )
    args = options.parse_args()
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    ns_dtype = torch.float32 if args.ns_float32 else torch.bfloat16
    start(
        "LaCET mixer against softmax attention",
        d=args.dim,
        hidden=2 * args.dim,
        chunk=args.chunk,
        tokens=dtype,
        newton_schulz=ns_dtype,
    )
    for run in cases(1024, args.dim, args.chunk, dtype, dtype):
        print_gemm_types(run, dtype)
    print(
        f"\n{'tokens':>8} {'attention':>12} {'LaCET':>12} {'ratio':>8}   (CPU microseconds "
        "per token)"
    )
    lengths, ratios, per_token = [], [], {}
    for n in SHORT + LONG:
        lacet, attention = cases(n, args.dim, args.chunk, dtype, ns_dtype)
        if n in SHORT:
            times = medians(alternate({"attention": attention, "lacet": lacet}, args.repeats))
        else:  # quadratic: once is enough
            times = {"attention": cpu_seconds(attention), **medians(alternate({"lacet": lacet}, 3))}
        lengths.append(n)
        ratios.append(times["attention"] / times["lacet"])
        per_token[n] = times["lacet"] / n * 1e6
        print(
            f"{n:>8} {times['attention'] / n * 1e6:>12.1f} {per_token[n]:>12.1f} "
            f"{ratios[-1]:>7.2f}x",
            flush=True,
        )
    print()
    verdicts = Verdicts()
    verdicts.check("crossover", crossover(lengths, ratios), 3500, unit=" tokens")
    verdicts.check("times faster at 64 k tokens", ratios[-1], 20, at_least=True)
    verdicts.check("time per token at 64 k over 8 k", per_token[65_536] / per_token[8192], 1.3)
    verdicts.close()


if __name__ == "__main__":
    main()
